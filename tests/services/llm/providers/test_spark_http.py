"""iFlytek Spark X1 over HTTP: asked in the vendor's fields only, and told with the reason it does not give."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk
from pydantic import SecretStr

from config.catalogue import ModelEntry
from config.settings import Settings
from core.http_client import HttpClient
from domain.errors import BadRequest, ModelUnavailable, ProviderCut
from services.llm.call_meter import CallMeter
from services.llm.factory import create_router
from services.llm.providers.openai_compatible import OpenAICompatible
from services.llm.providers.provider import ModelCall
from services.llm.providers.spark_auth import SparkCredentials
from services.llm.providers.spark_http import SparkHttp
from tests.router_for_tests import CATALOGUE
from tests.scripted_provider import say as openai_say
from tests.scripted_provider import scripted_provider
from tests.spark_calls import answer, deltas_of
from tests.spark_http_server import (
    DONE,
    USAGE,
    SparkHttpServer,
    Step,
    begin,
    event,
    say,
    spark_http_server,
)
from tests.spark_server import API_KEY, API_SECRET, APP_ID, CREDENTIALS
from tests.wire_reader import http_client

BOTH = pytest.mark.parametrize("whole", [False, True])
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


def x1() -> ModelEntry:
    model = CATALOGUE.get("x1")
    assert model is not None
    return model


def call(messages: Sequence[BaseMessage] | str = "Hi", *, whole: bool = False, **parameters: Any) -> ModelCall:
    asked = [HumanMessage(messages)] if isinstance(messages, str) else list(messages)
    return ModelCall(x1(), asked, parameters, whole=whole)


@asynccontextmanager
async def x1_behind(*scripts: Sequence[Step], **options: Any) -> AsyncIterator[tuple[SparkHttp, SparkHttpServer]]:
    """The provider, and the vendor behind it."""
    async with spark_http_server(*scripts, **options) as server, http_client() as http:
        yield SparkHttp(http, CREDENTIALS, server.base_url, stall_timeout_s=20.0), server


# What comes


@BOTH
async def test_an_answer_without_a_finish_reason_is_told_with_one_and_its_usage(whole: bool) -> None:
    async with x1_behind(say("Ni", " hao")) as (provider, server):
        asked = call(whole=whole)
        message = await answer(provider, asked)
    assert message.content == "Ni hao"
    assert (message.usage_metadata["input_tokens"], message.usage_metadata["output_tokens"]) == (5, 9)
    assert message.response_metadata["finish_reason"] == "stop"
    assert message.response_metadata["spark"] == {"domain": "x1"}
    assert (server.asked["stream"], server.bearers) == (not whole, [f"Bearer {API_KEY}:{API_SECRET}"])


async def test_each_piece_is_told_as_it_comes_and_the_reason_once_after_the_last() -> None:
    async with x1_behind(say(*"abcdef")) as (provider, _):
        deltas = await deltas_of(provider, call())
    pieces = [piece for delta in deltas if isinstance(delta, list) for piece in delta]
    chunks = [delta for delta in deltas if isinstance(delta, ChatGenerationChunk)]
    assert pieces == list("abcde")
    assert [chunk.message.text for chunk in chunks] == ["f", ""]
    assert [(chunk.generation_info or {}).get("finish_reason") for chunk in chunks] == [None, "stop"]


@BOTH
async def test_reasoning_is_kept_apart_from_the_answer(whole: bool) -> None:
    thought = [event(reasoning_content="Let me"), event(reasoning_content=" see.")]
    async with x1_behind([*thought, *say("Four")]) as (provider, _):
        message = await answer(provider, call(whole=whole))
    assert (message.content, message.additional_kwargs["reasoning_content"]) == ("Four", "Let me see.")


@BOTH
async def test_a_tool_call_in_one_piece_ends_as_tool_calls(whole: bool) -> None:
    made = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    given = made if whole else {**made, "index": 0}
    async with x1_behind([event(USAGE, tool_calls=[given]), DONE]) as (provider, server):
        message = await answer(provider, call(whole=whole, tools=[TOOL], tool_choice="auto"))
    assert [(made["name"], made["args"], made["id"]) for made in message.tool_calls] == [("add", {"a": 1}, "call_1")]
    assert message.response_metadata["finish_reason"] == "tool_calls"
    assert (server.asked["tools"], server.asked["tool_choice"]) == ([TOOL], "auto")


async def test_a_tool_call_in_fragments_is_put_together() -> None:
    first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "add", "arguments": ""}}
    rest = [{"index": 0, "function": {"arguments": piece}} for piece in ('{"a"', ": 1}")]
    script = [event(tool_calls=[fragment]) for fragment in (first, *rest)]
    async with x1_behind([*script, event(USAGE), DONE]) as (provider, _):
        message = await answer(provider, call(tools=[TOOL]))
    assert [(made["name"], made["args"]) for made in message.tool_calls] == [("add", {"a": 1})]
    assert message.response_metadata["finish_reason"] == "tool_calls"


@BOTH
@pytest.mark.parametrize("in_a_list", [True, False])
async def test_a_tool_call_that_does_not_say_where_it_stands_is_not_lost(in_a_list: bool, whole: bool) -> None:
    made = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    script = [event(USAGE, tool_calls=[made] if in_a_list else made), DONE]
    async with x1_behind(script) as (provider, _):
        message = await answer(provider, call(whole=whole, tools=[TOOL]))
    assert [(made["name"], made["args"]) for made in message.tool_calls] == [("add", {"a": 1})]
    assert message.response_metadata["finish_reason"] == "tool_calls"


@BOTH
@pytest.mark.parametrize(("most", "reason"), [(9, "length"), (10, "stop")])
async def test_an_answer_as_long_as_it_was_allowed_to_be_was_cut_short(most: int, reason: str, whole: bool) -> None:
    async with x1_behind(say("Once")) as (provider, _):
        message = await answer(provider, call(whole=whole, max_tokens=most))
    assert message.response_metadata["finish_reason"] == reason


async def test_a_reason_that_the_vendor_does_give_is_told_once() -> None:
    told = event(USAGE, content=" hao")
    told["choices"][0]["finish_reason"] = "length"
    async with x1_behind([*begin("Ni"), told, DONE]) as (provider, _):
        deltas = await deltas_of(provider, call())
    chunks = [delta for delta in deltas if isinstance(delta, ChatGenerationChunk)]
    assert [(chunk.generation_info or {}).get("finish_reason") for chunk in chunks] == ["length", None]


async def test_the_vendors_count_is_the_calls() -> None:
    asked = call()
    meter = CallMeter(asked)
    async with x1_behind(say("Ni", " hao")) as (provider, _):
        for delta in await deltas_of(provider, asked):
            if isinstance(delta, list):
                meter.saw_pieces(delta)
            else:
                meter.saw_chunk(delta)
    counted = meter.finish("succeeded", None)
    assert (counted.usage.input_tokens, counted.usage.output_tokens, counted.estimated) == (5, 9, False)
    assert counted.provider == "spark-http"


# What is asked


@BOTH
async def test_a_bare_call_sends_the_messages_and_nothing_else(whole: bool) -> None:
    async with x1_behind(say("Hello")) as (provider, server):
        await answer(provider, call([SystemMessage("Be brief"), HumanMessage("Hi")], whole=whole))
    assert server.asked == {
        "model": "x1",
        "messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}],
        "stream": not whole,
    }


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_both_names_of_the_limit_are_sent_as_max_tokens(name: str) -> None:
    async with x1_behind(say("Hello")) as (provider, server):
        await answer(provider, call(**{name: 7}))
    assert (server.asked["max_tokens"], "max_completion_tokens" in server.asked) == (7, False)


async def test_the_limit_is_at_most_what_the_model_writes() -> None:
    async with x1_behind(say("Hello")) as (provider, server):
        await answer(provider, call(max_tokens=1_000_000))
    assert server.asked["max_tokens"] == x1().context.max_output_tokens == 65536


@pytest.mark.parametrize(("asked", "sent"), [(0, 0.01), (0.3, 0.3), (1, 1.0), (1.7, 1.0)])
async def test_the_temperature_is_brought_into_the_vendors_range(asked: float, sent: float) -> None:
    async with x1_behind(say("Hello")) as (provider, server):
        await answer(provider, call(temperature=asked, top_k=40))
    assert (server.asked["temperature"], server.asked["top_k"]) == (sent, 6)


async def test_what_the_vendor_does_not_document_is_not_sent() -> None:
    dropped = {"top_p": 0.5, "parallel_tool_calls": False, "service_tier": "auto", "stream_options": {"a": 1}}
    passed = {"presence_penalty": 1, "user": "u1", "response_format": {"type": "json_object"}}
    async with x1_behind(say("Hello")) as (provider, server):
        await answer(provider, call(**dropped, **passed, spark_version="v3.1", seed=None))
    assert {name: server.asked[name] for name in passed} == passed
    assert set(server.asked) == {"model", "messages", "stream", *passed}


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"stop": ["END"]}, "stop"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}}, "JSON schema"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
async def test_what_changes_the_answer_and_cannot_be_asked_is_refused_by_name(
    parameters: dict[str, Any], named: str
) -> None:
    async with x1_behind() as (provider, server):
        with pytest.raises(BadRequest, match=named):
            await answer(provider, call(**parameters))
    assert server.requests == []


async def test_the_stop_of_a_node_is_refused_too() -> None:
    async with x1_behind() as (provider, _):
        asked = call()
        asked.stop = ["END"]
        with pytest.raises(BadRequest, match="stop"):
            await answer(provider, asked)


async def test_text_goes_as_a_string_and_names_stay_here() -> None:
    parts: list[str | dict[str, Any]] = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    message = HumanMessage(parts, name="ada")
    async with x1_behind(say("Hello")) as (provider, server):
        await answer(provider, call([message]))
    assert server.asked["messages"] == [{"role": "user", "content": "one\ntwo"}]
    assert (message.content, message.name) == (parts, "ada")


async def test_an_image_is_refused_for_the_model_that_sees() -> None:
    image = HumanMessage([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}])
    async with x1_behind() as (provider, _):
        with pytest.raises(BadRequest, match="vision"):
            await answer(provider, call([image]))


async def test_a_tool_call_and_its_answer_go_back_to_the_model() -> None:
    made = AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "call_1"}])
    async with x1_behind(say("Done")) as (provider, server):
        await answer(provider, call([HumanMessage("Add"), made, ToolMessage("2", tool_call_id="call_1")], tools=[TOOL]))
    _, assistant, told = server.asked["messages"]
    assert json.loads(assistant["tool_calls"][0]["function"]["arguments"]) == {"a": 1}
    assert told == {"role": "tool", "content": "2", "tool_call_id": "call_1"}


# Who asks


@BOTH
async def test_the_callers_credentials_go_before_the_servers(whole: bool) -> None:
    servers_own = SparkCredentials("other", SecretStr("no"), SecretStr("no"))
    for own in (servers_own, None):
        async with spark_http_server(say("Hello")) as server, http_client() as http:
            asked = call(whole=whole)
            asked.credential = CREDENTIALS
            provider = SparkHttp(http, own, server.base_url)
            assert provider.unavailable_reason(x1(), CREDENTIALS) is None
            assert (await answer(provider, asked)).content == "Hello"


async def test_without_credentials_it_says_which_settings_or_headers_are_missing() -> None:
    provider = SparkHttp(HttpClient(1.0))
    for name in ("SPARK_API_SECRET", "SPARK_API_KEY", "X_API_SECRET", "X_API_KEY"):
        assert name in (provider.unavailable_reason(x1()) or "")
    with pytest.raises(ModelUnavailable, match="SPARK_API_KEY"):
        await deltas_of(provider, call())


def test_the_router_serves_x1_with_the_settings_of_spark_and_tells_what_is_missing_without() -> None:
    keys: dict[str, Any] = {"spark_app_id": APP_ID, "spark_api_secret": API_SECRET, "spark_api_key": API_KEY}
    for given, missing in ((keys, False), ({}, True)):
        settings = Settings(_env_file=None, local_model="none", **given)
        router = create_router(CATALOGUE, settings, HttpClient(1.0), None)
        assert bool(router.unavailable_reason(x1())) is missing
        assert router.unavailable_reason(x1(), {"spark-http": CREDENTIALS}) is None
        if not missing:
            assert router.resolve("x1") is x1()
            continue
        with pytest.raises(ModelUnavailable, match="SPARK_API_SECRET"):
            router.plan("x1")


# The others


async def test_for_everybody_else_an_end_without_a_finish_reason_or_done_is_still_a_cut() -> None:
    async with scripted_provider([*openai_say("Bon")]) as server, http_client() as http:
        provider = OpenAICompatible("openai", http, server.base_url, SecretStr(server.api_key), 2.0)
        with pytest.raises(ProviderCut, match="finish reason"):
            await deltas_of(provider, call(whole=False))
