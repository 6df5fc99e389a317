"""An answer asked for in one piece: read whole or not at all, and counted as unknown when it was left on its way."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import SecretStr

from domain import errors
from domain.errors import ProviderCut, ProviderError, ProviderRefused, ProviderStalled, ProviderUnreachable
from domain.usage import Call, TokenUsage
from services.llm.counting import counted
from services.llm.message import WholeMessage
from services.llm.providers import sse_decoder
from services.llm.providers.mistral import Mistral
from services.llm.providers.openai_compatible import OpenAICompatible
from services.llm.providers.provider import ModelCall, Provider
from services.llm.providers.sse_decoder import Decoder
from tests.house_for_tests import until
from tests.router_for_tests import CATALOGUE
from tests.scripted_provider import (
    API_KEY,
    Chunk,
    ContentType,
    Cut,
    ScriptedProvider,
    Stall,
    Status,
    Step,
    Wait,
    call_tool,
    chunk,
    finish,
    say,
    scripted_provider,
    whole_object,
)
from tests.wire_reader import http_client, raw_server

BOTH = pytest.mark.parametrize("name", ["openai", "mistral"])
MODELS = {"openai": "gpt-4o", "mistral": "mistral-small-latest"}
JSON = ContentType("application/json")


def body_of(*steps: Step) -> dict[str, Any]:
    return whole_object([step.content for step in steps if isinstance(step, Chunk) and isinstance(step.content, dict)])


BONJOUR: list[Step] = [*say("Bon", "jour"), *finish(10, 2)]
WHOLE = json.dumps(body_of(*BONJOUR)).encode()


class Heard:
    """What one whole call gave."""

    def __init__(self) -> None:
        self.message = WholeMessage()
        self.calls: list[Call] = []
        self.error: Exception | None = None

    @property
    def answer(self) -> AIMessage:
        message = self.message.generation().message
        assert isinstance(message, AIMessage)
        return message

    @property
    def call(self) -> Call:
        (call,) = self.calls
        return call


@asynccontextmanager
async def provider_at(base_url: str, name: str = "openai", stall_s: float = 20.0) -> AsyncIterator[Provider]:
    async with http_client() as http:
        key = SecretStr(API_KEY)
        if name == "mistral":
            yield Mistral(name, http, base_url, key, stall_s)
        else:
            yield OpenAICompatible(name, http, base_url, key, stall_s, is_openai=True)


def a_call(name: str = "openai", **parameters: Any) -> ModelCall:
    model = CATALOGUE.get(MODELS[name])
    assert model is not None
    return ModelCall(model, [HumanMessage("x" * 40)], parameters, whole=True)


async def hear(base_url: str, name: str = "openai", stall_s: float = 20.0, **parameters: Any) -> Heard:
    heard = Heard()
    async with asyncio.timeout(60), provider_at(base_url, name, stall_s) as provider:
        try:
            async with aclosing(counted(provider, a_call(name, **parameters), heard.calls.append)) as deltas:
                async for delta in deltas:
                    heard.message.add(delta)
        except ProviderError as error:
            heard.error = error
    return heard


async def whole(*script: Step, name: str = "openai", **options: Any) -> Heard:
    async with scripted_provider(script) as provider:
        return await hear(provider.base_url, name, **options)


# What comes


@BOTH
async def test_an_answer_comes_with_its_text_its_reason_and_its_usage(name: str) -> None:
    async with scripted_provider(BONJOUR) as provider:
        heard = await hear(provider.base_url, name, temperature=0.3, max_tokens=9)
        (sent,) = provider.requests
    assert (heard.error, heard.answer.content) == (None, "Bonjour")
    assert heard.answer.response_metadata == {"finish_reason": "stop", "model_name": "scripted-2026"}
    assert (heard.call.usage.input_tokens, heard.call.usage.output_tokens) == (10, 2)
    assert (heard.call.status, heard.call.estimated) == ("succeeded", False)
    assert (sent["stream"], sent["temperature"]) == (False, 0.3)
    assert "stream_options" not in sent


async def test_options_of_a_stream_do_not_go_with_a_whole_answer() -> None:
    assert (await whole(*BONJOUR, stream_options={"include_usage": True})).error is None


@BOTH
async def test_tool_calls_come_in_their_order_with_their_arguments(name: str) -> None:
    second = {"index": 1, "id": "call_2", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
    script = [*call_tool("add", '{"a"', ": 1}"), chunk({"tool_calls": [second]}), *finish(reason="tool_calls")]
    heard = await whole(*script, name=name)
    calls = [(call["name"], call["args"], call["id"]) for call in heard.answer.tool_calls]
    assert calls == [("add", {"a": 1}, "call_1"), ("add", {"a": 2}, "call_2")]
    assert heard.answer.content == ""
    assert heard.answer.response_metadata["finish_reason"] == "tool_calls"


@BOTH
@pytest.mark.parametrize("calls", [5, "add", [5], ["add"], {"a": 1}, [None]], ids=str)
async def test_tool_calls_that_are_none_are_the_providers_fault(name: str, calls: Any) -> None:
    body = body_of(*BONJOUR)
    body["choices"][0]["message"]["tool_calls"] = calls
    assert isinstance((await whole(Status(200, body), name=name)).error, ProviderCut)


async def test_log_probabilities_reasoning_and_a_refusal_are_kept() -> None:
    body = body_of(*BONJOUR)
    body["choices"][0]["logprobs"] = {"content": [{"token": "Bon", "logprob": -0.1, "top_logprobs": []}]}
    body["choices"][0]["message"] |= {"reasoning_content": "hmm", "refusal": "no"}
    heard = await whole(Status(200, body), logprobs=True)
    assert heard.answer.response_metadata["logprobs"]["content"][0]["token"] == "Bon"
    assert heard.answer.additional_kwargs == {"reasoning_content": "hmm", "refusal": "no"}


async def test_usage_comes_with_its_details() -> None:
    body = body_of(*BONJOUR)
    body["usage"]["prompt_tokens_details"] = {"cached_tokens": 8}
    body["usage"]["completion_tokens_details"] = {"reasoning_tokens": 1}
    assert (await whole(Status(200, body))).call.usage == TokenUsage(10, 2, 8, 1)


@BOTH
async def test_without_usage_the_answer_is_estimated_by_its_text(name: str) -> None:
    heard = await whole(*say("x" * 400), chunk({}, "stop"), name=name)
    assert heard.error is None
    assert (heard.call.usage.output_tokens, heard.call.estimated) == (100, True)


@BOTH
async def test_an_empty_answer_that_says_why_it_ended_is_an_answer(name: str) -> None:
    heard = await whole(chunk({}, "length"), name=name)
    assert (heard.error, heard.answer.content) == (None, "")
    assert heard.answer.response_metadata["finish_reason"] == "length"
    assert (heard.call.usage.output_tokens, heard.call.estimated) == (0, True)


async def test_blank_lines_that_keep_the_line_open_are_no_part_of_the_answer() -> None:
    async with raw_server(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n\r\n\n  \n" + WHOLE) as base_url:
        assert (await hear(base_url)).answer.content == "Bonjour"


# What is no answer


GARBAGE: dict[str, list[Step]] = {
    "neither a finish reason nor words": [
        Status(200, {"choices": [{"message": {"role": "assistant", "content": ""}}]})
    ],
    "half a call and no finish reason": [*call_tool("add", '{"a"')],
    "events without an end": [JSON, Chunk(b'data: {"choices": [{"delta": {"content": "Half"}}]}\n\n')],
    "an error with 200": [*say("Half"), Chunk({"error": {"message": "overloaded"}})],
    "the reason of a failure": [*say("Half"), chunk({}, "error")],
    "half a JSON": [JSON, Chunk(WHOLE[:60])],
    "nothing": [JSON],
    "html": [ContentType("text/html"), Chunk(b"<html>busy</html>")],
    "a list": [JSON, Chunk(b"[1]")],
    "null": [JSON, Chunk(b"null")],
    "a stream's end": [JSON, Chunk(b"[DONE]")],
    "a stream of nothing": [JSON, Chunk(b'data: {"choices": []}\n\ndata: [DONE]\n\n')],
    "no choices": [Status(200, {"choices": []})],
    "choices that are none": [Status(200, {"choices": 5})],
    "a choice that is none": [Status(200, {"choices": [5]})],
    "no message": [Status(200, {"choices": [{"index": 0, "finish_reason": "stop"}]})],
    "a message that is none": [Status(200, {"choices": [{"message": "Hi", "finish_reason": "stop"}]})],
    "too deep": [JSON, Chunk(b"[" * 100_000)],
    "cut": [*say("Half"), *finish(), Cut()],
    "cut before a word": [Cut()],
}


@BOTH
@pytest.mark.parametrize("script", GARBAGE.values(), ids=GARBAGE.keys())
async def test_what_is_no_whole_answer_is_a_provider_error_that_may_be_tried_again(
    script: list[Step], name: str
) -> None:
    heard = await whole(*script, name=name)
    assert isinstance(heard.error, ProviderCut)
    assert heard.error.retryable
    assert (heard.answer.content, heard.call.status, heard.call.error_code) == ("", "failed", "provider_cut")


async def test_an_error_with_200_is_told_in_the_providers_words() -> None:
    heard = await whole(Status(200, {"error": {"message": "overloaded", "code": 529}}))
    assert "overloaded" in str(heard.error)


@pytest.mark.parametrize("said", [b"", WHOLE[:-20]], ids=["before it", "in the middle of it"])
@pytest.mark.parametrize("length", [b"Content-Length: 9999\r\n", b""], ids=["of a known length", "of any length"])
async def test_a_connection_that_ends_in_a_body_is_a_cut(said: bytes, length: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    async with raw_server(head + length + b"\r\n" + said) as base_url:
        assert isinstance((await hear(base_url)).error, ProviderCut)


async def test_a_huge_body_is_given_up_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse_decoder, "MAX_EVENT_BYTES", 10_000)
    async with holding_server(b'{"choices": "' + b"x" * 20_000) as base_url:
        heard = await hear(base_url)
    assert isinstance(heard.error, ProviderCut)
    assert "over 10000 bytes" in heard.error.message
    assert not heard.error.retryable


@pytest.mark.parametrize(("status", "kind"), [(500, ProviderRefused), (404, ProviderRefused), (302, ProviderRefused)])
async def test_a_refusal_is_read_as_that_of_a_stream(status: int, kind: type[ProviderError]) -> None:
    heard = await whole(Status(status, {"error": {"message": "busy"}}))
    assert isinstance(heard.error, kind)
    assert heard.error.upstream_status == status
    assert (heard.call.usage, heard.call.estimated) == (TokenUsage(0, 0), False)


async def test_a_provider_that_is_not_there_is_unreachable() -> None:
    heard = await hear("http://127.0.0.1:1/v1")
    assert isinstance(heard.error, ProviderUnreachable)
    assert heard.call.usage == TokenUsage(0, 0)


# Slowness


@BOTH
async def test_an_answer_that_takes_longer_to_write_than_the_stall_time_is_waited_for(name: str) -> None:
    assert (await whole(Wait(1.0), *BONJOUR, name=name, stall_s=0.5)).answer.content == "Bonjour"


async def test_a_body_that_stops_in_the_middle_is_stalled() -> None:
    async with holding_server(WHOLE[:40]) as base_url:
        heard = await hear(base_url, stall_s=0.5)
    assert isinstance(heard.error, ProviderStalled)


async def test_a_refusal_whose_body_never_ends_is_stalled() -> None:
    async with holding_server(b'{"error":', status=b"503 Busy") as base_url:
        heard = await hear(base_url, stall_s=0.5)
    assert isinstance(heard.error, ProviderStalled)


@asynccontextmanager
async def holding_server(
    said: bytes, status: bytes = b"200 OK", has_said: asyncio.Event | None = None
) -> AsyncIterator[str]:
    """Says a part of its answer, and keeps the line open."""
    closed = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(
            b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\nContent-Length: 99999\r\n\r\n" + said
        )
        await writer.drain()
        if has_said:
            has_said.set()
        with contextlib.suppress(ConnectionError):
            while await reader.read(1000):
                pass
        writer.close()
        closed.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        await asyncio.wait_for(closed.wait(), 30)


# Leaving


async def leave(base_url: str, name: str, has_begun: Callable[[], bool]) -> Call:
    """Ask, and hang up on the answer once it has begun."""
    heard = Heard()

    async def read() -> None:
        async with (
            provider_at(base_url, name) as provider,
            aclosing(counted(provider, a_call(name), heard.calls.append)) as deltas,
        ):
            _ = [delta async for delta in deltas]

    async with asyncio.timeout(60):
        task = asyncio.create_task(read())
        await until(has_begun)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    return heard.call


@BOTH
@pytest.mark.parametrize("script", [[Stall()], [Wait(60), *BONJOUR]], ids=["silent", "at work"])
async def test_hanging_up_closes_the_connection_and_leaves_the_output_unknown(script: list[Step], name: str) -> None:
    async with scripted_provider(script) as provider:
        call = await leave(provider.base_url, name, lambda: provider.answering == 1)
        await gone(provider)
    assert (call.status, call.estimated) == ("cancelled", True)
    assert call.usage == TokenUsage(14, None)


async def test_hanging_up_in_the_middle_of_the_body_leaves_the_output_unknown_too() -> None:
    said = asyncio.Event()
    async with holding_server(WHOLE[:40], has_said=said) as base_url:
        call = await leave(base_url, "openai", said.is_set)
    assert (call.status, call.usage.output_tokens) == ("cancelled", None)


@pytest.mark.parametrize(
    "script", [[*say("Half"), *finish(), Cut()], [JSON, Chunk(WHOLE[:-20])]], ids=["cut", "without its end"]
)
async def test_an_answer_that_was_lost_has_an_unknown_output(script: list[Step]) -> None:
    heard = await whole(*script)
    assert heard.call.usage == TokenUsage(14, None)
    assert heard.call.estimated


async def gone(provider: ScriptedProvider) -> None:
    await asyncio.wait_for(provider.left_early.wait(), 30)


async def test_a_connection_that_was_read_to_its_end_is_used_again() -> None:
    async with scripted_provider(BONJOUR, repeat=True) as provider, provider_at(provider.base_url) as asked:
        for _ in range(3):
            _ = [delta async for delta in asked.stream(a_call())]
        assert len(provider.requests) == 3
        assert len(provider.clients) == 1


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "message", "content", "tool_calls", "function", "usage", "error", "finish_reason"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@examples(deadline=None, max_examples=300)
@given(body=JSON_VALUES.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60))
def test_any_body_at_all_is_an_answer_or_a_provider_error(body: bytes) -> None:
    decoder = Decoder("fake")
    try:
        deltas = decoder.whole(body)
    except errors.RouteurError:
        return
    assert decoder.finished
    orjson.dumps(deltas)
