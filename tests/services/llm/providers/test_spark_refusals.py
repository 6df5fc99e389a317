"""When Spark refuses, breaks off or says nothing: every code has its meaning, and no error ends as an answer."""

import asyncio
import socket
import time
from contextlib import aclosing
from typing import Any

import pytest
from pydantic import SecretStr

from domain.errors import (
    ContextOverflow,
    CredentialNotAllowed,
    CredentialRefused,
    ModelNotServed,
    ProviderCut,
    ProviderError,
    ProviderRefused,
    ProviderStalled,
    ProviderUnreachable,
    RateLimitedByProvider,
)
from services.llm.call_meter import CallMeter
from services.llm.providers.provider import Delta, ModelCall
from services.llm.providers.spark_auth import SparkCredentials
from tests.spark_calls import CODES, call, outcome_of, spark
from tests.spark_server import (
    API_KEY,
    API_SECRET,
    APP_ID,
    CREDENTIALS,
    Cut,
    Frame,
    Goodbye,
    Stall,
    Wait,
    begin,
    refusal_of_handshake,
    refuse,
    say,
    spark_server,
)


def callers() -> ModelCall:
    """A call with credentials of the caller's own."""
    asked = call()
    asked.credential = CREDENTIALS
    return asked


@pytest.mark.parametrize(("code", "error", "status", "retryable"), CODES)
async def test_each_code_has_its_error(code, error, status, retryable):
    async with spark_server([refuse(code, "the vendor's words")]) as server:
        outcome = await outcome_of(spark(server), callers())
    assert outcome.error is not None
    assert (type(outcome.error), outcome.error.status, outcome.deltas) == (error, status, [])
    assert str(code) in outcome.error.message
    if isinstance(outcome.error, ProviderError):
        assert outcome.error.retryable is retryable
    # The vendor may quote the credential where it refuses it.
    is_about_credentials = isinstance(outcome.error, CredentialRefused | CredentialNotAllowed)
    assert ("the vendor's words" in outcome.error.message) is not is_about_credentials


@pytest.mark.parametrize(("code", "upstream"), [(11500, 401), (11200, 403), (10015, 403), (10016, 403)])
async def test_a_refusal_of_the_servers_own_credential_is_the_operators_matter(code, upstream):
    async with spark_server([refuse(code)]) as server:
        outcome = await outcome_of(spark(server), call())
    assert isinstance(outcome.error, ProviderRefused)
    assert (outcome.error.status, outcome.error.upstream_status, outcome.error.retryable) == (502, upstream, False)
    assert "operator" in outcome.error.message


@pytest.mark.parametrize("code", [10013, 10014, 10019])
async def test_an_audit_in_mid_answer_ends_it_as_filtered(code):
    async with spark_server([*begin("Once", " upon"), refuse(code)]) as server:
        outcome = await outcome_of(spark(server), call())
    assert (outcome.error, outcome.finish_reason) == (None, "content_filter")
    assert outcome.deltas[:-1] == [["Once"], [" upon"]]


@pytest.mark.parametrize(("code", "error"), [(10012, ProviderRefused), (10907, ContextOverflow)])
async def test_any_other_refusal_in_mid_answer_is_an_error(code, error):
    async with spark_server([*begin("Once"), refuse(code)]) as server:
        outcome = await outcome_of(spark(server), call())
    assert (type(outcome.error), outcome.deltas) == (error, [["Once"]])


async def test_a_refused_question_consumed_nothing():
    async with spark_server([refuse(11200)]) as server:
        asked = callers()
        outcome = await outcome_of(spark(server), asked)
    counted = CallMeter(asked).finish("failed", outcome.error)
    assert (counted.usage.input_tokens, counted.estimated, counted.error_code) == (0, False, "credential_not_allowed")


# The handshake


WRONG = [
    (SparkCredentials(APP_ID, SecretStr("wrong"), SecretStr(API_KEY)), "does not match"),
    (SparkCredentials(APP_ID, SecretStr(API_SECRET), SecretStr("wrong")), "cannot be verified"),
    (SparkCredentials(APP_ID, SecretStr(API_SECRET), SecretStr('a", b="c')), "cannot be verified"),
]


@pytest.mark.parametrize(("credentials", "gateways_words"), WRONG)
async def test_a_wrong_signature_of_the_callers_is_a_401(credentials, gateways_words):
    async with spark_server(may_be_refused=True) as server:
        asked = call()
        asked.credential = credentials
        outcome = await outcome_of(spark(server), asked)
        of_server = await outcome_of(spark(server, credentials=credentials), call())
    assert isinstance(outcome.error, CredentialRefused)
    assert (outcome.error.status, outcome.error.upstream_status, outcome.error.retryable) == (401, 401, False)
    assert gateways_words not in outcome.error.message
    assert isinstance(of_server.error, ProviderRefused)
    assert (of_server.error.status, of_server.error.upstream_status) == (502, 401)


async def test_a_clock_that_is_off_is_nobodys_fault_but_ours():
    async with spark_server(may_be_refused=True) as server:
        outcome = await outcome_of(spark(server, now_s=lambda: time.time() - 400), callers())
    assert isinstance(outcome.error, ProviderRefused)
    assert (outcome.error.status, outcome.error.upstream_status, outcome.error.retryable) == (502, 403, False)
    assert "clock" in outcome.error.message


async def test_a_clock_that_is_a_little_off_is_good_enough():
    for skew_s in (-240, 240):
        async with spark_server(say("Hello")) as server:
            outcome = await outcome_of(spark(server, now_s=lambda skew_s=skew_s: time.time() + skew_s), call())
        assert outcome.finish_reason == "stop"


@pytest.mark.parametrize(
    ("status", "headers", "error", "retryable"),
    [
        (403, {}, CredentialRefused, False),
        (404, {}, ModelNotServed, False),
        (429, {"Retry-After": "7"}, RateLimitedByProvider, True),
        (429, {"Retry-After": "soon"}, RateLimitedByProvider, True),
        (500, {}, ProviderRefused, True),
        (503, {}, ProviderRefused, True),
        (200, {}, ProviderRefused, False),
        (302, {"Location": "/v3.1/chat"}, ProviderRefused, False),
    ],
)
async def test_an_http_answer_instead_of_a_websocket_has_its_error(status, headers, error, retryable):
    async with spark_server(handshake=refusal_of_handshake(status, "no", **headers)) as server:
        outcome = await outcome_of(spark(server), callers())
    assert isinstance(outcome.error, ProviderError)
    assert (type(outcome.error), outcome.error.upstream_status) == (error, 401 if status == 403 else status)
    assert outcome.error.retryable is retryable
    assert outcome.error.retry_after_s == (7.0 if headers.get("Retry-After") == "7" else None)


async def test_a_port_where_nobody_listens_is_unreachable():
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{reserved.getsockname()[1]}"
        outcome = await outcome_of(spark(text_base_url=url), call())
    assert isinstance(outcome.error, ProviderUnreachable)
    assert outcome.error.retryable


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-OpenSSH_9.6\r\n\r\n", None])
async def test_a_server_that_is_no_websocket_is_unreachable(greeting):
    """`None` accepts and says nothing."""
    left = asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if greeting is not None:
            writer.write(greeting)
            writer.write_eof()
        await reader.read()
        writer.close()
        left.set()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        outcome = await outcome_of(spark(text_base_url=url, connect_timeout_s=0.3), call())
        await asyncio.wait_for(left.wait(), 30)
    assert isinstance(outcome.error, ProviderUnreachable)
    assert outcome.error.retryable


# Cuts, stalls and garbage


@pytest.mark.parametrize("end", [Cut(), Goodbye()])
@pytest.mark.parametrize("pieces", [(), ("Once", " upon")])
async def test_a_connection_that_ends_before_the_answer_does_is_a_cut(end, pieces):
    async with spark_server([*begin(*pieces), end]) as server:
        outcome = await outcome_of(spark(server), call())
    assert isinstance(outcome.error, ProviderCut)
    assert outcome.error.retryable
    assert outcome.deltas == [[piece] for piece in pieces]


@pytest.mark.parametrize("pieces", [(), ("Once",)])
async def test_silence_is_a_stall_and_the_connection_is_closed(pieces):
    async with spark_server([*begin(*pieces), Stall()]) as server:
        outcome = await outcome_of(spark(server, stall_timeout_s=0.5), call())
        await asyncio.wait_for(server.left_early.wait(), 30)
    assert isinstance(outcome.error, ProviderStalled)
    assert outcome.deltas == [[piece] for piece in pieces]


async def test_a_slow_answer_is_no_stall_as_long_as_something_comes():
    slow: list[Any] = [step for frame in begin(*"abcde") for step in (frame, Wait(0.4))]
    async with spark_server([*slow, *say("f")]) as server:
        outcome = await outcome_of(spark(server, stall_timeout_s=1.5), call())
    assert outcome.finish_reason == "stop"


async def test_a_slow_reader_is_no_stall():
    async with spark_server([*begin("a"), *say("b")]) as server:
        received: list[Delta] = []
        async with aclosing(spark(server, stall_timeout_s=0.5).stream(call())) as deltas:
            async for delta in deltas:
                received.append(delta)
                await asyncio.sleep(0.7)
    assert received[:2] == [["a"], ["b"]]


@pytest.mark.parametrize(
    "garbage",
    [
        "not JSON",
        "[]",
        "null",
        "{}",
        b"\x00\xff",
        {"header": {}},
        {"header": {"code": "none"}},
        {"header": {"code": 0}, "payload": {"choices": {"text": ["word"]}}},
        {"header": {"code": 0}, "payload": {"choices": {"text": [{"content": {"a": 1}}]}}},
        {"header": {"code": 0}, "payload": "words"},
        {"header": {"code": 0}, "payload": {"choices": {"text": [{"content": "x" * 1_100_000}]}}},
        "[" * 100_000,
    ],
)
async def test_a_frame_that_cannot_be_read_is_a_cut(garbage):
    async with spark_server([*begin("Once"), Frame(garbage), Stall()]) as server:
        outcome = await outcome_of(spark(server), call())
    assert isinstance(outcome.error, ProviderCut)
    assert (outcome.error.retryable, outcome.deltas) == (True, [["Once"]])


async def test_half_a_surrogate_pair_does_not_break_the_answer():
    half = '{"header":{"code":0,"status":1},"payload":{"choices":{"status":1,"text":[{"content":"a\\ud83d"}]}}}'
    async with spark_server([Frame(half), *say("b")]) as server:
        outcome = await outcome_of(spark(server), call())
    assert outcome.deltas[:2] == [["a"], ["\ufffdb"]]
    second = half.replace("a\\ud83d", "\\ude00b")
    async with spark_server([Frame(half), Frame(second), *say("c\ufffd")]) as server:
        outcome = await outcome_of(spark(server), call())
    assert outcome.deltas[:3] == [["a"], ["😀b"], ["c\ufffd"]]
