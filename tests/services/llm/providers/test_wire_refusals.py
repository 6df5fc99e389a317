"""A refusal: what its status means for the caller, and what of the provider's words is shown."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage

from config.catalogue import Endpoint
from domain.errors import (
    BadRequest,
    ContextOverflow,
    InsufficientQuota,
    ModelNotServed,
    ProviderError,
    ProviderRefused,
    RateLimitedByProvider,
)
from services.llm.factory import create_router
from services.llm.providers.provider import ModelCall
from services.llm.providers.refusals import LONGEST_WAIT_S, retry_after_s
from tests.house_for_tests import CATALOGUE, settings_for
from tests.scripted_provider import (
    API_KEY,
    Chunk,
    Status,
    Wait,
    finish,
    say,
    scripted_provider,
)
from tests.wire_reader import PAYLOAD, answer_to, endpoint, http_client, raw_server, read


@pytest.mark.parametrize(
    ("status", "body", "error", "retryable"),
    [
        (400, {"error": {"message": "no such option"}}, BadRequest, None),
        (400, {"error": {"message": "long", "code": "context_length_exceeded"}}, ContextOverflow, None),
        (400, {"message": "This model's maximum context length is 8 tokens"}, ContextOverflow, None),
        (413, {"error": "too big"}, BadRequest, None),
        (422, {"detail": [{"msg": "bad field"}]}, BadRequest, None),
        (401, {"error": {"message": f"wrong key {API_KEY}"}}, ProviderRefused, False),
        (403, {"error": {"message": f"wrong key {API_KEY}"}}, ProviderRefused, False),
        (402, {"error": "You have depleted your credits"}, InsufficientQuota, False),
        (404, {"error": {"message": "no such model"}}, ModelNotServed, False),
        (408, {"error": {"message": "too slow"}}, ProviderRefused, True),
        (429, {"error": {"message": "slow down"}}, RateLimitedByProvider, True),
        (500, "<html>oops</html>", ProviderRefused, True),
        (502, "", ProviderRefused, True),
        (503, {"error": None, "message": "loading"}, ProviderRefused, True),
        (302, "", ProviderRefused, False),
    ],
)
async def test_a_refusal_says_what_it_means_for_the_caller(status, body, error, retryable):
    answer = await answer_to(Status(status, body))
    assert type(answer.error) is error
    if isinstance(answer.error, ProviderError):
        assert (answer.error.upstream_status, answer.error.retryable) == (status, retryable)
        assert str(status) in answer.error.message


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("http://{elsewhere}/v1/chat/completions?token=t0p", "'127.0.0.1'"),
        ("https://login.example.org/?token=t0p", "'login.example.org'"),
        ("/v2/t0p", "another address"),
        ("http://[t0p", "another address"),
        ("", "another address"),
    ],
)
async def test_a_redirect_is_not_followed_and_named_with_its_host(status, location, shown):
    async with scripted_provider() as elsewhere:
        target = location.replace("{elsewhere}", urlsplit(elsewhere.base_url).netloc)
        answer = await answer_to(Status(status, "", (("Location", target),)))
        assert elsewhere.requests == []
    assert isinstance(answer.error, ProviderRefused)
    assert (answer.error.upstream_status, answer.error.retryable) == (status, False)
    assert f"{status}: a redirect to {shown}" in answer.error.message
    assert "t0p" not in answer.error.message


async def test_a_model_that_no_host_serves_is_not_the_callers_mistake():
    answer = await answer_to(Status(400, {"error": {"message": "none", "code": "model_not_supported"}}))
    assert type(answer.error) is ModelNotServed
    assert (answer.error.upstream_status, answer.error.retryable) == (404, False)


@pytest.mark.parametrize("status", [429, 403, 402, 400])
@pytest.mark.parametrize("named", ["code", "type"])
async def test_a_used_up_quota_is_no_rate_limit_and_is_not_tried_again(status, named):
    answer = await answer_to(Status(status, {"error": {"message": "check your plan", named: "insufficient_quota"}}))
    assert type(answer.error) is InsufficientQuota
    assert (answer.error.code, answer.error.retryable, answer.error.upstream_status) == (
        "insufficient_quota",
        False,
        status,
    )
    assert "check your plan" in answer.error.message


async def test_a_bill_that_is_not_paid_is_called_so():
    answer = await answer_to(Status(402, {"error": "You have depleted it"}))
    assert answer.error is not None
    assert "credit" in answer.error.message
    assert "billing" in answer.error.message
    assert "You have depleted it" in answer.error.message


async def test_a_403_that_is_not_about_the_credential_reaches_the_caller_in_the_providers_words():
    answer = await answer_to(Status(403, {"error": {"message": "Your input was flagged by moderation"}}))
    assert type(answer.error) is ProviderRefused
    assert "flagged by moderation" in answer.error.message


PARAMETER = {"message": "Unsupported parameter.", "param": "stream_options", "code": "unsupported_parameter"}
REFUSALS_OF_STREAM_OPTIONS = [
    (400, {"error": {"message": "Unrecognized request argument supplied: stream_options"}}),
    (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs"}]}),
    (400, 'json: unknown field "stream_options"'),
    (400, {"error": {"message": "[{'loc': ('body', 'stream_options', 'include_usage')}]"}}),
    (422, {"message": "Stream_Options is not permitted"}),
    (500, {"error": {"message": "create() got an unexpected keyword argument 'stream_options'"}}),
    (200, {"error": {"message": "Unknown field stream_options", "code": 400}}),
    (200, {"error": "stream_options: unknown", "code": 500}),
    (400, {"error": PARAMETER}),
    (200, {"error": PARAMETER}),
    (403, {"error": {"message": "stream_options is not permitted for this model"}}),
    (403, {"error": {"message": "this key may not send stream_options"}}),
    (404, {"error": {"code": "404", "message": "Unknown field: stream_options"}}),
    (501, {"error": "stream_options not implemented"}),
    (200, "Error: stream_options not supported"),
    (200, "<html><body>stream_options unsupported</body></html>"),
]


@pytest.mark.parametrize(("status", "body"), REFUSALS_OF_STREAM_OPTIONS)
async def test_an_endpoint_that_refuses_stream_options_is_called_once_more_without_them(status, body):
    scripts = [[Status(status, body)], [*say("Hi"), *finish()], [*say("Again"), *finish()]]
    payload = {**PAYLOAD, "stream_options": {"include_usage": True}}
    async with scripted_provider(*scripts) as provider, http_client() as http:
        where = endpoint(provider.base_url)
        first = await read(http, provider.base_url, where=where, payload=payload)
        second = await read(http, provider.base_url, where=where, payload=payload)
        sent = ["stream_options" in request for request in provider.requests]
    assert (first.text, first.error, second.text, second.error) == ("Hi", None, "Again", None)
    assert sent == [True, False, False], "that they are refused is remembered"


async def test_calls_at_the_same_time_are_each_called_once_more_without_stream_options():
    """The second is refused when the first has been answered without them."""
    waits = iter([Wait(0.2), Wait(0.7)])

    def script(body):
        refused = "stream_options" in body
        return [next(waits), Chunk({"error": PARAMETER})] if refused else [*say("Hi"), *finish()]

    payload = {**PAYLOAD, "stream_options": {"include_usage": True}}
    async with scripted_provider(compose=script) as provider, http_client() as http:
        where = endpoint(provider.base_url)
        first = asyncio.create_task(read(http, provider.base_url, where=where, payload=payload))
        second = await read(http, provider.base_url, where=where, payload=payload)
        assert [(answer.text, answer.error) for answer in (await first, second)] == [("Hi", None)] * 2


@pytest.mark.parametrize(
    ("status", "kind"), [(400, BadRequest), (403, ProviderRefused), (404, ModelNotServed), (500, ProviderRefused)]
)
async def test_an_error_that_names_stream_options_means_what_its_status_does_where_none_were_sent(status, kind):
    answer = await answer_to(Status(status, {"error": {"message": "no such model for stream_options"}}))
    assert type(answer.error) is kind


@pytest.mark.parametrize("status", [400, 200])
async def test_stream_options_that_were_not_the_matter_are_sent_again(status):
    refused = Status(status, {"error": {"message": "no stream_options, and no such model anyway", "code": 400}})
    payload = {**PAYLOAD, "stream_options": {"include_usage": True}}
    async with scripted_provider([refused], [refused], [*say("Hi"), *finish()]) as provider, http_client() as http:
        where = endpoint(provider.base_url)
        first = await read(http, provider.base_url, where=where, payload=payload)
        await read(http, provider.base_url, where=where, payload=payload)
        sent = ["stream_options" in request for request in provider.requests]
    assert isinstance(first.error, BadRequest)
    assert sent == [True, False, True]


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_credential_shows_nothing_of_what_the_provider_said(status):
    answer = await answer_to(Status(status, {"error": {"message": f"Incorrect API key provided: {API_KEY}"}}))
    assert answer.error is not None
    assert API_KEY not in answer.error.message
    assert "Incorrect" not in answer.error.message


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ({"error": {"message": "no such option"}}, "no such option"),
        ({"error": "flat text"}, "flat text"),
        ({"error": None, "message": "beside"}, "beside"),
        ({"detail": [{"msg": "bad field"}]}, '[{"msg":"bad field"}]'),
        ({"object": "error", "message": {"detail": "nested"}}, "nested"),
        ({"errors": [{"message": "first of a list", "code": 7003}]}, "first of a list"),
        ({"error": {}}, "no readable message"),
        ("not json", "no readable message"),
        ({"error": {"message": "two\n\n  lines"}}, "two lines"),
    ],
)
async def test_the_providers_own_words_are_shown_in_one_line(body, shown):
    answer = await answer_to(Status(400, body))
    assert answer.error is not None
    assert answer.error.message == f"fake refused the request (400): {shown}"


async def test_a_refusal_that_comes_in_two_reads_is_read_whole():
    body = {"error": {"message": "x" * 200 + " context_length_exceeded"}}
    answer = await answer_to(Status(400, body, in_halves=True))
    assert isinstance(answer.error, ContextOverflow)


async def test_a_refusal_keeps_its_status_when_its_body_is_cut():
    cut_short = b"HTTP/1.1 503 Busy\r\nContent-Length: 1000\r\n\r\n{"
    async with raw_server(cut_short) as base_url, http_client() as http:
        answer = await read(http, base_url)
    assert isinstance(answer.error, ProviderRefused)
    assert answer.error.upstream_status == 503


async def test_retry_after_is_read_as_seconds_or_as_a_date():
    seconds = await answer_to(Status(429, {"error": "slow"}, (("Retry-After", "7.5"),)))
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    date = await answer_to(Status(503, {"error": "down"}, (("Retry-After", later),)))
    absent = await answer_to(Status(429, {"error": "slow"}))
    assert isinstance(seconds.error, RateLimitedByProvider)
    assert isinstance(date.error, ProviderRefused)
    assert isinstance(absent.error, RateLimitedByProvider)
    assert seconds.error.retry_after_s == 7.5
    assert date.error.retry_after_s == pytest.approx(30, abs=3)
    assert absent.error.retry_after_s is None


async def test_a_wait_in_milliseconds_and_one_in_the_body_are_read_too():
    exact = await answer_to(Status(429, {"error": "slow"}, (("Retry-After", "2"), ("retry-after-ms", "1250"))))
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "40.5s"}, "x", {"retryDelay": 5}]
    in_body = await answer_to(Status(429, [{"error": {"message": "slow", "details": details[1:] + details[:1]}}]))
    assert isinstance(exact.error, RateLimitedByProvider)
    assert isinstance(in_body.error, RateLimitedByProvider)
    assert (exact.error.retry_after_s, in_body.error.retry_after_s) == (1.25, 40.5)


@pytest.mark.parametrize(
    ("in_ms", "in_seconds", "wait_s"),
    [
        ("86400000", "2", 86_400),
        ("43200000", "2", 43_200),
        ("172800000", "2", 86_400),
        ("-5", "30", 30),
        ("nan", "30", 30),
        ("soon", "30", 30),
        ("Wed, 21 Oct 2099 07:28:00 GMT", "30", 30),
        ("", "30", 30),
        ("1250", "-5", 1.25),
        ("-5", "-5", None),
        ("-5", "soon", None),
    ],
)
async def test_of_two_waits_the_one_that_makes_sense_holds_and_milliseconds_are_capped_as_a_day(
    in_ms, in_seconds, wait_s
):
    headers = (("Retry-After", in_seconds), ("retry-after-ms", in_ms))
    answer = await answer_to(Status(429, {"error": "slow"}, headers))
    assert isinstance(answer.error, RateLimitedByProvider)
    assert answer.error.retry_after_s == wait_s


STRANGE_WAITS = ["inf", "nan", "-1", "1e400", "Wed, 21 Oct 99999 07:28:00 GMT", "Wed, 99 Oct 2015 99:99:99 +9999"]


@examples(deadline=None)
@given(value=st.text(max_size=30) | st.sampled_from(STRANGE_WAITS))
def test_any_retry_after_at_all_is_a_finite_wait_or_none(value):
    wait_s = retry_after_s(value)
    assert wait_s is None or 0 <= wait_s <= LONGEST_WAIT_S


@pytest.mark.parametrize("absurd", ["99999999999999999999", "9" * 400, "86401", "Wed, 21 Oct 2099 07:28:00 GMT"])
async def test_an_absurd_retry_after_is_passed_on_as_a_day(absurd):
    answer = await answer_to(Status(429, {"error": "slow"}, (("Retry-After", absurd),)))
    assert isinstance(answer.error, RateLimitedByProvider)
    assert answer.error.retry_after_s == 86_400


async def test_an_endpoint_that_the_catalogue_says_takes_no_stream_options_is_sent_none():
    model = CATALOGUE.models[0].model_copy(update={"provider": "lab"})
    async with scripted_provider([*say("Hi"), *finish()]) as provider, http_client() as http:
        named = Endpoint(name="lab", base_url=provider.base_url, stream_options=False)
        catalogue = CATALOGUE.model_copy(update={"endpoints": (named,)})
        settings = settings_for(provider.base_url).model_copy(update={"endpoint_keys": (f"lab:{API_KEY}",)})
        router = create_router(catalogue, settings, http, None)
        call = ModelCall(model, [HumanMessage("Hi")])
        deltas = [delta async for delta in router._servers["lab"].stream(call)]
        assert ["Hi"] in deltas
        assert "stream_options" not in provider.requests[0]
