"""iFlytek Spark: signed as the vendor says, framed as it wants, and every piece of its answers told once."""

import asyncio
import base64
import logging
import math
import time
from contextlib import aclosing
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from pydantic import SecretStr

from domain.errors import BadRequest, ConfigurationError, ModelUnavailable, ProviderUnreachable
from services.llm.providers.spark_auth import SparkCredentials, authorization, http_date, origin_of
from tests.spark_calls import answer, call, deltas_of, model, spark
from tests.spark_server import (
    API_KEY,
    API_SECRET,
    APP_ID,
    CREDENTIALS,
    Deaf,
    Frame,
    Stall,
    begin,
    counted,
    frame,
    say,
    spark_server,
)
from tests.throwaway_tls import throwaway_tls

WAIT_S, STALL_S = 30.0, 90.0

# Who asks


def test_the_signature_is_that_of_the_vendors_own_example():
    signed = authorization("spark-api.xf-yun.com", "/v1.1/chat", CREDENTIALS, "Fri, 05 May 2023 10:43:39 GMT")
    assert base64.b64decode(signed).decode() == (
        'api_key="addd2272b6d8b7c8abdd79531420ca3b", algorithm="hmac-sha256", headers="host date request-line", '
        'signature="z5gHdu3pxVV4ADMyk467wOWDQ9q6BQzR3nfMTjc/DaQ="'
    )
    assert http_date(1683283419) == "Fri, 05 May 2023 10:43:39 GMT"


async def test_without_credentials_it_says_which_settings_or_headers_are_missing():
    provider = spark(credentials=None)
    for name in ("APP_ID", "API_SECRET", "API_KEY", "X_APP_ID"):
        assert name in (provider.unavailable_reason(model()) or "")
    with pytest.raises(ModelUnavailable):
        await deltas_of(provider, call())
    assert spark().unavailable_reason(model()) is None
    assert "x1" in (spark().unavailable_reason(model("x1")) or "")


async def test_the_callers_credentials_go_before_the_servers():
    servers_own = SparkCredentials("other", SecretStr("no"), SecretStr("no"))
    for own in (servers_own, None):
        async with spark_server(say("Hello")) as server:
            provider, asked = spark(server, credentials=own), call()
            asked.credential = CREDENTIALS
            assert provider.unavailable_reason(model(), CREDENTIALS) is None
            assert (await answer(provider, asked)).text == "Hello"
            assert server.asked["header"]["app_id"] == APP_ID


def test_credentials_that_differ_in_a_secret_alone_are_different_though_they_look_the_same():
    wrong = SparkCredentials(APP_ID, SecretStr("wrong"), SecretStr(API_KEY))
    again = SparkCredentials(APP_ID, SecretStr(API_SECRET), SecretStr(API_KEY))
    assert repr(wrong) == repr(CREDENTIALS)
    assert (wrong == CREDENTIALS, hash(wrong) == hash(CREDENTIALS)) == (False, False)
    assert (again == CREDENTIALS, hash(again) == hash(CREDENTIALS)) == (True, True)


async def test_neither_keys_nor_prompts_are_logged_even_at_debug(caplog):
    caplog.set_level(logging.DEBUG)
    async with spark_server(say("a very private answer")) as server:
        caplog.clear()
        logging.getLogger("websockets.server").setLevel(logging.CRITICAL)
        await answer(spark(server), call("a very private question"))
    logged = caplog.text
    assert not any(word in logged for word in ("very private", "authorization=", API_KEY, API_SECRET))
    assert API_SECRET not in repr(CREDENTIALS)
    asked = call()
    asked.credential = CREDENTIALS
    assert APP_ID not in repr(asked)


@pytest.mark.parametrize(
    "base_url",
    [
        "ws://spark-api.xf-yun.com",
        "https://spark-api.xf-yun.com",
        "wss://spark-api.xf-yun.com/v1.1/chat",
        "wss://key@spark-api.xf-yun.com",
        "wss://",
        "wss://[::1",
        "ws://10.0.0.1:80",
        "spark-api.xf-yun.com",
    ],
)
def test_a_base_url_is_encrypted_or_on_this_machine_and_has_no_path(base_url):
    with pytest.raises(ConfigurationError, match="SPARK_BASE_URL"):
        spark(text_base_url=base_url)
    with pytest.raises(ConfigurationError, match="SPARK_VISION_BASE_URL"):
        spark(vision_base_url=base_url)


def test_the_host_that_is_signed_is_the_one_that_is_asked():
    assert origin_of("S", "wss://Spark-API.xf-yun.com:443/") == "wss://spark-api.xf-yun.com"
    assert origin_of("S", "wss://gateway.example:8443") == "wss://gateway.example:8443"
    assert origin_of("S", "ws://[::1]:80") == "ws://[::1]"


async def test_certificates_are_verified():
    tls = throwaway_tls()
    async with spark_server(say("Hello"), tls=tls.server) as server:
        with pytest.raises(ProviderUnreachable) as refused:
            await answer(spark(server), call())
        assert refused.value.retryable
        assert (await answer(spark(server, tls=tls.client), call())).text == "Hello"


# What is asked


@pytest.mark.parametrize(
    ("version", "path", "domain", "shown", "told"),
    [
        ("v1.1", "/v1.1/chat", "lite", "general", "v1.1"),
        ("v2.1", "/v2.1/chat", "generalv2", "generalv2", "v2.1"),
        ("v3.1", "/v3.1/chat", "generalv3", "generalv3", "v3.1"),
        (None, "/v1.1/chat", "lite", "general", "v1.1"),
        ("v9", "/v1.1/chat", "lite", "general", "v1.1"),
        (["v3.1"], "/v1.1/chat", "lite", "general", "v1.1"),
    ],
)
async def test_a_version_chooses_path_and_domain_and_is_told_back(version, path, domain, shown, told):
    async with spark_server(say("Hello")) as server:
        message = await answer(spark(server), call(spark_version=version))
    assert (server.paths, server.asked["parameter"]["chat"]["domain"]) == ([path], domain)
    spark_told = message.response_metadata["spark"]
    assert (spark_told["version"], spark_told["domain"]) == (told, shown)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("lite", "/v1.1/chat"),
        ("generalv3", "/v3.1/chat"),
        ("pro-128k", "/chat/pro-128k"),
        ("generalv3.5", "/v3.5/chat"),
        ("max-32k", "/chat/max-32k"),
        ("4.0Ultra", "/v4.0/chat"),
    ],
)
async def test_the_vendors_own_names_are_asked_at_their_own_paths(name, path):
    async with spark_server(say("Hello")) as server:
        message = await answer(spark(server), call(entry=model(name), spark_version="v2.1"))
    assert (server.paths, server.asked["parameter"]["chat"]["domain"]) == ([path], name)
    assert message.response_metadata["spark"]["domain"] == name


async def test_a_bare_question_is_one_frame_with_2048_tokens_and_nothing_made_up():
    async with spark_server(say("Hello")) as server:
        await answer(spark(server), call("Hi", max_tokens=None, temperature=None))
    assert server.asked["parameter"] == {"chat": {"domain": "lite", "max_tokens": 2048}}
    assert server.asked["payload"] == {"message": {"text": [{"role": "user", "content": "Hi"}]}}


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({"temperature": 0}, {"temperature": 0.01}),
        ({"temperature": 0.7}, {"temperature": 0.7}),
        ({"temperature": 2.0}, {"temperature": 1.0}),
        ({"top_k": 40}, {"top_k": 6}),
        ({"top_k": 0}, {"top_k": 1}),
        ({"max_tokens": 10}, {"max_tokens": 10}),
        ({"max_completion_tokens": 11}, {"max_tokens": 11}),
        ({"max_tokens": 100_000}, {"max_tokens": 4096}),
        ({"top_p": 0.5, "user": "u", "tools": [], "stop": None, "response_format": {"type": "text"}}, {}),
    ],
)
async def test_parameters_are_brought_into_the_vendors_ranges(asked, sent):
    async with spark_server(say("Hello")) as server:
        await answer(spark(server), call(entry=model(most=4096), **asked))
    assert server.asked["parameter"]["chat"] == {"domain": "lite", "max_tokens": 2048, **sent}


async def test_a_model_that_takes_no_temperature_is_sent_none():
    async with spark_server(say("Hello")) as server:
        await answer(spark(server), call(entry=model(temperature=False), temperature=0.5))
    assert "temperature" not in server.asked["parameter"]["chat"]


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"seed": 7}, "seed"),
        ({"logprobs": True}, "logprobs"),
        ({"stop": ["END"]}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
async def test_what_spark_cannot_do_is_refused_by_name_before_anything_is_sent(parameters, named):
    with pytest.raises(BadRequest, match=named):
        await deltas_of(spark(), call(**parameters))


async def test_the_stop_words_of_a_node_are_refused_too():
    asked = call()
    asked.stop = ["END"]
    with pytest.raises(BadRequest, match="stop"):
        await deltas_of(spark(), asked)


CONVERSATION = [SystemMessage("Be brief"), HumanMessage("Hi"), AIMessage("Hello"), HumanMessage("Who?")]


@pytest.mark.parametrize("name", ["generalv3.5", "max-32k", "4.0Ultra"])
async def test_max_and_ultra_get_the_system_message_as_it_is(name):
    async with spark_server(say("Me")) as server:
        await answer(spark(server), call(CONVERSATION, model(name)))
    turns = server.asked["payload"]["message"]["text"]
    assert turns[:2] == [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}]
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize("name", ["spark-api", "lite", "generalv3", "pro-128k"])
async def test_elsewhere_the_system_message_leads_the_first_question(name):
    async with spark_server(say("Me")) as server:
        await answer(spark(server), call(CONVERSATION, model(name)))
    turns = server.asked["payload"]["message"]["text"]
    assert turns[0] == {"role": "user", "content": "Be brief\n\nHi"}
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([HumanMessage("Hi"), AIMessage("Hello")], "last message"),
        ([SystemMessage("Be brief")], "last message"),
        ([], "last message"),
        ([HumanMessage("Hi"), ToolMessage("4", tool_call_id="1"), HumanMessage("So?")], "tools"),
        ([AIMessage("", tool_calls=[{"name": "add", "args": {}, "id": "1"}]), HumanMessage("So?")], "tools"),
        ([HumanMessage([{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}])], "vision"),
        ([HumanMessage([{"type": "input_audio"}])], "input_audio"),
    ],
)
async def test_a_conversation_that_spark_cannot_read_is_refused_with_the_way_out(messages, words):
    with pytest.raises(BadRequest, match=words):
        await deltas_of(spark(), call(messages))


async def test_text_in_parts_is_text():
    async with spark_server(say("Me")) as server:
        await answer(spark(server), call([HumanMessage([{"type": "text", "text": "One"}, "Two"])]))
    assert server.asked["payload"]["message"]["text"] == [{"role": "user", "content": "One\nTwo"}]


async def test_half_a_character_in_a_text_is_replaced():
    async with spark_server(say("Me")) as server:
        await answer(spark(server), call("a\ud83d"))
    assert server.asked["payload"]["message"]["text"] == [{"role": "user", "content": "a\ufffd"}]


# What is answered


async def test_pieces_usage_and_the_spark_fields_come_once():
    async with spark_server(say("你", "好", "!", usage=counted(4, 5, 9))) as server:
        deltas = await deltas_of(spark(server), call())
    assert deltas[:-1] == [["你"], ["好"], ["!"]]
    last = deltas[-1]
    assert not isinstance(last, list)
    assert last.message.usage_metadata == {"input_tokens": 5, "output_tokens": 9, "total_tokens": 14}
    assert last.generation_info is not None
    assert last.generation_info["finish_reason"] == "stop"
    told = {key: value for key, value in last.generation_info["spark"].items() if key != "sid"}
    assert told == {"version": "v1.1", "domain": "general", "question_tokens": 4}
    assert server.closed_with == [1000]


@pytest.mark.parametrize("usage", [None, "nine", {"text": "nine"}, {"text": {"prompt_tokens": "5"}}, {"text": None}])
async def test_usage_that_does_not_come_or_cannot_be_read_is_unknown(usage):
    last = frame(2, {"content": "Hello"}).content
    assert isinstance(last, dict)
    last["payload"]["usage"] = usage
    async with spark_server([Frame(last)]) as server:
        message = await answer(spark(server), call())
    assert (message.text, message.usage_metadata) == ("Hello", None)
    assert message.response_metadata["finish_reason"] == "stop"
    assert message.response_metadata["spark"]["question_tokens"] is None


async def test_an_answer_as_long_as_it_may_be_was_cut_short():
    async with spark_server(say("Hello", usage=counted(completion=9))) as server:
        message = await answer(spark(server), call(max_tokens=9))
    assert message.response_metadata["finish_reason"] == "length"


async def test_what_the_model_thinks_is_kept_apart_from_what_it_says():
    thinking = [frame(0, {"content": "", "reasoning_content": "Let me "}), frame(1, {"reasoning_content": "see"})]
    async with spark_server([*thinking, *say("4")]) as server:
        message = await answer(spark(server), call())
    assert (message.text, message.additional_kwargs) == ("4", {"reasoning_content": "Let me see"})


async def test_64_questions_at_once_get_each_its_own_answer():
    def echo(question: dict[str, Any]) -> list[Any]:
        asked = question["payload"]["message"]["text"][-1]["content"]
        return say(*(f"{asked}-{n} " for n in range(20)), usage=counted(completion=int(asked) + 1))

    async with spark_server(answer=echo) as server:
        provider = spark(server, connect_timeout_s=WAIT_S, stall_timeout_s=WAIT_S)
        messages = await asyncio.gather(*(answer(provider, call(str(n))) for n in range(64)))
    assert [message.text for message in messages] == ["".join(f"{n}-{i} " for i in range(20)) for n in range(64)]
    assert [message.usage_metadata and message.usage_metadata["output_tokens"] for message in messages] == [
        n + 1 for n in range(64)
    ]
    assert server.most_answering > 1


async def test_a_reader_that_leaves_closes_the_connection_at_once():
    async with spark_server([*begin("Hel"), Stall()]) as server:
        async with aclosing(spark(server, stall_timeout_s=STALL_S).stream(call())) as deltas:
            assert await anext(deltas) == ["Hel"]
        await asyncio.wait_for(server.left_early.wait(), WAIT_S)


async def test_a_vendor_that_does_not_close_holds_nobody():
    hears = asyncio.Event()
    async with spark_server([*begin("Hel"), Deaf(hears), Stall()]) as server:
        async with aclosing(spark(server, stall_timeout_s=STALL_S).stream(call())) as deltas:
            assert await anext(deltas) == ["Hel"]
            started = time.perf_counter()
        waited_s, was_heard = time.perf_counter() - started, server.left_early.is_set()
        hears.set()
        assert waited_s < 5
        assert not was_heard
        await asyncio.wait_for(server.left_early.wait(), WAIT_S)


async def test_a_run_that_is_cancelled_closes_the_connection_at_once():
    asked = asyncio.Event()

    def say_nothing(_: dict[str, Any]) -> list[Any]:
        asked.set()
        return [Stall()]

    async with spark_server(answer=say_nothing) as server:
        task = asyncio.create_task(answer(spark(server, stall_timeout_s=STALL_S), call()))
        await asyncio.wait_for(asked.wait(), WAIT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, WAIT_S)
        await asyncio.wait_for(server.left_early.wait(), WAIT_S)
