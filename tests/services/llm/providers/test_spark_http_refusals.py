"""When Spark's HTTP refuses or breaks off: each code means what it means over the WebSocket, and no error answers."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import SecretStr

from domain.errors import (
    BadRequest,
    ContentFiltered,
    ContextOverflow,
    CredentialNotAllowed,
    CredentialRefused,
    ModelNotServed,
    ProviderCut,
    ProviderError,
    ProviderRefused,
    ProviderStalled,
    RateLimitedByProvider,
    RouteurError,
)
from services.llm.call_meter import CallMeter
from services.llm.health import Health
from services.llm.providers.provider import ModelCall
from services.llm.providers.spark_auth import SparkCredentials
from services.llm.providers.spark_http import SparkHttp
from services.llm.router import Router
from tests.router_for_tests import CATALOGUE, Answer, Request
from tests.services.llm.providers.test_spark_http import call, x1_behind
from tests.spark_calls import CODES, Outcome, outcome_of
from tests.spark_http_server import (
    DONE,
    SID,
    USAGE,
    Cut,
    Refuse,
    Stall,
    Step,
    begin,
    coded,
    event,
    in_openais_shape,
    say,
    spark_http_server,
)
from tests.spark_server import API_KEY, API_SECRET, CREDENTIALS
from tests.wire_reader import http_client

BOTH = pytest.mark.parametrize("whole", [False, True])
SHAPES = {
    "the vendor's": coded,
    "OpenAI's": in_openais_shape,
    "OpenAI's, in words": lambda code, words: in_openais_shape(str(code), words),
}
WORDS = "the vendor's words"


def callers(*, whole: bool = False) -> ModelCall:
    """A call with credentials of the caller's own."""
    asked = call(whole=whole)
    asked.credential = CREDENTIALS
    return asked


async def outcome(*script: Step, asked: ModelCall | None = None, stall_s: float = 20.0) -> Outcome:
    async with x1_behind(script) as (provider, _):
        provider.stall_timeout_s = stall_s
        return await outcome_of(provider, asked or call())


def check(heard: Outcome, code: int, error: type[RouteurError], status: int, retryable: bool | None) -> None:
    """What one of CODES must have given, and nothing before it."""
    assert heard.error is not None
    assert (type(heard.error), heard.error.status, heard.deltas) == (error, status, [])
    assert str(code) in heard.error.message
    if isinstance(heard.error, ProviderError):
        assert heard.error.retryable is retryable
    # The vendor may quote the credential where it refuses it.
    is_about_credentials = isinstance(heard.error, CredentialRefused | CredentialNotAllowed)
    assert (WORDS in heard.error.message) is not is_about_credentials


# Codes


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("code", "error", "status", "retryable"), CODES)
async def test_each_code_has_its_error_as_a_body_under_any_status(
    code: int, error: type[RouteurError], status: int, retryable: bool | None, shape: str
) -> None:
    body = SHAPES[shape](code, WORDS)
    scripts = [[Refuse(upstream, body)] for upstream in (200, 400, 401, 500) for _ in range(2)]
    async with x1_behind(*scripts) as (provider, _):
        for _ in range(len(scripts) // 2):
            for whole in (False, True):
                check(await outcome_of(provider, callers(whole=whole)), code, error, status, retryable)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("code", "error", "status", "retryable"), CODES)
async def test_each_code_has_its_error_as_the_first_event_of_a_stream(
    code: int, error: type[RouteurError], status: int, retryable: bool | None, shape: str
) -> None:
    check(await outcome(SHAPES[shape](code, WORDS), DONE, asked=callers()), code, error, status, retryable)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("code", [10013, 10014, 10019])
async def test_an_audit_in_mid_answer_ends_it_as_filtered(code: int, shape: str) -> None:
    heard = await outcome(*begin("Once", " upon"), SHAPES[shape](code, WORDS), DONE)
    assert (heard.error, heard.finish_reason) == (None, "content_filter")
    assert [piece for delta in heard.deltas if isinstance(delta, list) for piece in delta] == ["Once", " upon"]


async def test_an_audit_after_nothing_but_reasoning_ends_it_as_filtered_too() -> None:
    heard = await outcome(event(reasoning_content="Hm"), coded(10014))
    assert (heard.error, heard.finish_reason) == (None, "content_filter")


async def test_an_audit_before_the_first_word_is_an_error_even_when_the_question_was_counted() -> None:
    heard = await outcome(event(USAGE), coded(10014))
    assert isinstance(heard.error, ContentFiltered)
    assert heard.finish_reason is None


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("code", "error"),
    [(10012, ProviderRefused), (10907, ContextOverflow), (11202, RateLimitedByProvider), (99999, ProviderRefused)],
)
async def test_any_other_refusal_in_mid_answer_is_an_error(code: int, error: type[RouteurError], shape: str) -> None:
    heard = await outcome(*begin("Once"), SHAPES[shape](code, WORDS), DONE)
    assert (type(heard.error), heard.deltas) == (error, [["Once"]])


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("before", [0, 5])
async def test_a_refusal_that_still_has_choices_is_no_answer(before: int, whole: bool) -> None:
    refused = {**event(content="and so on"), "code": 10012, "message": WORDS}
    heard = await outcome(*begin(*"abcde"[:before]), refused, DONE, asked=call(whole=whole))
    assert isinstance(heard.error, ProviderRefused)
    assert WORDS in heard.error.message


@BOTH
async def test_an_error_without_a_code_under_200_is_an_error(whole: bool) -> None:
    for script in (
        [in_openais_shape(None, "invalid user"), DONE],
        [Refuse(200, in_openais_shape(None, "invalid user"))],
    ):
        heard = await outcome(*script, asked=call(whole=whole))
        assert isinstance(heard.error, ProviderRefused)
        assert (heard.error.status, heard.error.retryable, heard.deltas) == (502, True, [])
        assert "invalid user" in heard.error.message


async def test_an_error_without_a_code_in_mid_answer_is_an_error() -> None:
    heard = await outcome(*begin("Once"), in_openais_shape(None, "oops"), DONE)
    assert (type(heard.error), heard.deltas) == (ProviderRefused, [["Once"]])


@BOTH
@pytest.mark.parametrize(
    ("status", "body", "error", "retryable"),
    [
        (400, in_openais_shape(None, "invalid user"), BadRequest, None),
        (400, in_openais_shape(400, "invalid user"), BadRequest, None),
        (404, in_openais_shape(None, "no such model"), ModelNotServed, False),
        (429, in_openais_shape("rate_limit", "slow down"), RateLimitedByProvider, True),
        (500, "<html>oops</html>", ProviderRefused, True),
        (503, "", ProviderRefused, True),
        (401, {"message": "Unauthorized"}, CredentialRefused, False),
        (403, {"message": "Forbidden"}, CredentialNotAllowed, False),
    ],
)
async def test_without_a_code_the_status_says_what_it_means(
    status: int, body: Any, error: type[RouteurError], retryable: bool | None, whole: bool
) -> None:
    heard = await outcome(Refuse(status, body), asked=callers(whole=whole))
    assert type(heard.error) is error
    if isinstance(heard.error, ProviderError):
        assert (heard.error.upstream_status, heard.error.retryable) == (status, retryable)


@pytest.mark.parametrize("body", [coded(11202, "slow down"), in_openais_shape(None, "slow down")])
async def test_a_limit_is_passed_on_with_its_retry_after(body: dict[str, Any]) -> None:
    heard = await outcome(Refuse(429, body, (("Retry-After", "7"),)))
    assert isinstance(heard.error, RateLimitedByProvider)
    assert heard.error.retry_after_s == 7.0


@pytest.mark.parametrize("code", [10006, 10007, 11201, 11202, 11203])
async def test_a_limit_before_the_first_word_is_tried_again(code: int) -> None:
    async with x1_behind([coded(code)], [Refuse(429, coded(code))], say("Hello")) as (provider, server):
        heard = Answer()
        router = Router(CATALOGUE, {"spark-http": provider}, None, Health())
        request = Request(call().messages, on_call=heard.calls.append)
        await heard.hear(router, router.plan("x1"), request)
    assert (heard.error, heard.text, len(server.requests)) == (None, "Hello", 3)
    assert [made.error_code for made in heard.calls] == [*["rate_limited_by_provider"] * 2, None]


# Credentials


@BOTH
async def test_a_wrong_credential_is_a_401_for_its_caller_and_shows_nothing_of_it(whole: bool) -> None:
    wrong = SparkCredentials("app", SecretStr("wrong-secret"), SecretStr("wrong-key"))
    async with spark_http_server(may_be_refused=True) as server, http_client() as http:
        asked = call(whole=whole)
        asked.credential = wrong
        of_caller = await outcome_of(SparkHttp(http, CREDENTIALS, server.base_url), asked)
        of_server = await outcome_of(SparkHttp(http, wrong, server.base_url), call(whole=whole))
    assert isinstance(of_caller.error, CredentialRefused)
    assert (of_caller.error.status, of_caller.error.upstream_status) == (401, 401)
    assert isinstance(of_server.error, ProviderRefused)
    assert (of_server.error.status, of_server.error.upstream_status, of_server.error.retryable) == (502, 401, False)
    for heard in (of_caller, of_server):
        assert heard.error is not None
        assert "wrong" not in heard.error.message
        assert "HMAC" not in heard.error.message


@pytest.mark.parametrize(("code", "upstream"), [(11500, 401), (11200, 403), (10015, 403), (10016, 403)])
async def test_a_refusal_of_the_servers_own_credential_is_the_operators_matter(code: int, upstream: int) -> None:
    heard = await outcome(coded(code))
    assert isinstance(heard.error, ProviderRefused)
    assert (heard.error.status, heard.error.upstream_status, heard.error.retryable) == (502, upstream, False)
    assert "operator" in heard.error.message


async def test_a_refused_question_consumed_nothing() -> None:
    asked = callers()
    heard = await outcome(coded(11200), asked=asked)
    counted = CallMeter(asked).finish("failed", heard.error)
    assert (counted.usage.input_tokens, counted.estimated, counted.error_code) == (0, False, "credential_not_allowed")


# Cuts, stalls and garbage


@pytest.mark.parametrize("cut", [Cut(), Cut(politely=True)])
@pytest.mark.parametrize(
    "begun",
    [[], begin("Once", " upon"), [*begin("Once"), event(USAGE, content=" upon")], [event(reasoning_content="Hm")]],
)
async def test_a_stream_that_ends_before_done_is_a_cut(begun: Sequence[Step], cut: Cut) -> None:
    heard = await outcome(*begun, cut)
    assert isinstance(heard.error, ProviderCut)
    assert heard.error.retryable
    assert heard.finish_reason is None


async def test_a_body_that_is_cut_is_a_cut() -> None:
    heard = await outcome(*begin("Once", " upon"), Cut(), asked=call(whole=True))
    assert (type(heard.error), heard.deltas) == (ProviderCut, [])


async def test_a_stream_that_says_nothing_but_done_is_a_cut() -> None:
    heard = await outcome(DONE)
    assert (type(heard.error), heard.deltas) == (ProviderCut, [])


@pytest.mark.parametrize(
    "body",
    [
        "",
        "not JSON",
        "[]",
        {},
        {"code": 0, "message": "Success", "sid": SID},
        {"code": 0, "choices": []},
        {"code": 0, "choices": [{"index": 0}]},
        {"code": 0, "choices": "words"},
        {"code": 0, "choices": [{"message": {"role": "assistant", "content": "x", "tool_calls": 5}, "index": 0}]},
    ],
)
@BOTH
async def test_a_body_under_200_that_is_no_answer_is_a_cut(body: Any, whole: bool) -> None:
    heard = await outcome(Refuse(200, body), asked=call(whole=whole))
    assert (type(heard.error), heard.deltas) == (ProviderCut, [])


async def test_an_answer_in_one_body_where_a_stream_was_asked_for_is_an_answer() -> None:
    body = {"code": 0, "choices": [{"message": {"role": "assistant", "content": "Hello"}, "index": 0}]}
    heard = await outcome(Refuse(200, body))
    assert (heard.error, heard.finish_reason) == (None, "stop")
    assert [delta.message.text for delta in heard.deltas if not isinstance(delta, list)] == ["Hello", ""]


@pytest.mark.parametrize("begun", [[], begin("Once")])
async def test_silence_is_a_stall_and_the_connection_is_closed(begun: Sequence[Step]) -> None:
    async with x1_behind([*begun, Stall()]) as (provider, server):
        provider.stall_timeout_s = 0.5
        heard = await outcome_of(provider, call())
        await asyncio.wait_for(server.left_early.wait(), 30)
    assert isinstance(heard.error, ProviderStalled)
    assert heard.finish_reason is None


async def test_the_bearer_is_in_no_message_and_in_no_representation() -> None:
    async with x1_behind([coded(10012)]) as (provider, _):
        heard = await outcome_of(provider, call())
        shown = f"{heard.error} {provider!r}"
    assert API_KEY not in shown
    assert API_SECRET not in shown
