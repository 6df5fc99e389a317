"""An error means the same under its own status and under 200, in one piece and as an event: a used-up quota, a wait."""

import json
from typing import Any

import pytest

from domain.errors import (
    BadRequest,
    InsufficientQuota,
    ModelNotServed,
    ProviderCut,
    ProviderError,
    ProviderRefused,
    RateLimitedByProvider,
    RouteurError,
)
from tests.scripted_provider import API_KEY, Chunk, ContentType, Status, Step
from tests.wire_reader import answer_to

JSON = ContentType("application/json")


def forms_of(status: int, body: Any) -> dict[str, list[Step]]:
    spelt = json.dumps(body).encode()
    return {
        "its own status": [Status(status, body)],
        "a body": [JSON, Chunk(spelt)],
        "an event": [Chunk(b"data: " + spelt + b"\n\n")],
        "an event of errors": [Chunk(b"event: error\ndata: " + spelt + b"\n\n")],
    }


async def errors_of(status: int, body: Any) -> dict[str, RouteurError | None]:
    return {form: (await answer_to(*script)).error for form, script in forms_of(status, body).items()}


USED_UP: dict[str, tuple[int, Any]] = {
    "OpenAI's code": (429, {"error": {"message": "check your plan", "code": "insufficient_quota"}}),
    "in capitals": (429, {"error": {"message": "check your plan", "code": "INSUFFICIENT_QUOTA"}}),
    "beside the message": (429, {"message": "check your plan", "code": "insufficient_quota"}),
    "in a list": (429, {"errors": [{"message": "check your plan", "code": "insufficient_quota"}]}),
    "an error in an error": (429, {"error": {"error": {"message": "check your plan", "code": "insufficient_quota"}}}),
    "an error in a detail": (429, {"detail": {"error": {"message": "check your plan", "type": "insufficient_quota"}}}),
    "beside an error in an error": (429, {"error": {"code": "insufficient_quota", "error": {"message": "no"}}}),
    "the word alone": (429, {"error": "insufficient_quota"}),
    "Moonshot": (429, {"error": {"message": "suspended", "type": "exceeded_current_quota_error"}}),
    "OpenAI's bill": (429, {"error": {"message": "not active", "type": "billing_not_active"}}),
    "OpenAI's limit": (400, {"error": {"message": "reached", "code": "billing_hard_limit_reached"}}),
    "One API": (403, {"error": {"message": "none left", "type": "new_api_error", "code": "insufficient_user_quota"}}),
    "Zhipu": (429, {"error": {"code": "1113", "message": "none left"}}),
    "Zhipu, a number": (429, {"error": {"code": 1113, "message": "none left"}}),
    "Dashscope": (400, {"error": {"code": "Arrearage", "message": "Access denied", "type": "Arrearage"}}),
    "Volcengine": (403, {"error": {"code": "AccountOverdueError", "message": "overdue", "type": "Forbidden"}}),
    "SiliconFlow": (403, {"code": 30001, "message": "Sorry, your account balance is insufficient", "data": None}),
    "Anthropic": (
        400,
        {
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": "Your credit balance is too low to access the Anthropic API.",
            },
        },
    ),
    "Anthropic's bill": (402, {"type": "error", "error": {"type": "billing_error", "message": "pay"}}),
    "DeepSeek": (402, {"error": {"message": "Insufficient Balance", "code": "invalid_request_error"}}),
    "OpenRouter": (402, {"error": {"message": "Insufficient credits", "code": 402}}),
    "payment required": (402, {"code": "payment_required", "message": "pay"}),
}


@pytest.mark.parametrize(("status", "body"), USED_UP.values(), ids=USED_UP.keys())
async def test_a_used_up_quota_is_one_whatever_the_status_and_the_form(status: int, body: Any) -> None:
    for form, error in (await errors_of(status, body)).items():
        assert type(error) is InsufficientQuota, form
        assert (error.code, error.status, error.retryable) == ("insufficient_quota", 429, False)
        assert "credit" in error.message
        assert "billing" in error.message


async def test_a_402_is_a_used_up_quota_without_a_word_of_it() -> None:
    errors = await errors_of(402, {"error": {"message": "no", "code": 402}})
    assert {type(error) for error in errors.values()} == {InsufficientQuota}


async def test_a_used_up_quota_under_403_shows_nothing_of_a_key() -> None:
    body = {"error": {"message": f"insufficient balance of key {API_KEY}"}}
    error = (await answer_to(Status(403, body))).error
    assert type(error) is InsufficientQuota
    assert API_KEY not in error.message


NOT_USED_UP: dict[str, tuple[int, Any, type[RouteurError]]] = {
    "Google's daily limit": (
        429,
        {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "You exceeded your current quota"}},
        RateLimitedByProvider,
    ),
    "a limit of tokens": (429, {"error": {"message": "slow", "code": "rate_limit_exceeded"}}, RateLimitedByProvider),
    "a limit within": (429, {"error": {"error": {"message": "slow", "code": 429}}}, RateLimitedByProvider),
    "a wrong request": (400, {"error": {"message": "no such option", "code": 400}}, BadRequest),
    "a model within": (404, {"error": {"error": {"message": "none", "code": "model_not_found"}}}, ModelNotServed),
}


@pytest.mark.parametrize(("status", "body", "kind"), NOT_USED_UP.values(), ids=NOT_USED_UP.keys())
async def test_other_errors_are_alike_too(status: int, body: Any, kind: type[RouteurError]) -> None:
    assert {type(error) for error in (await errors_of(status, body)).values()} == {kind}


DETAILS = [{"@type": "type.googleapis.com/google.rpc.QuotaFailure"}, {"retryDelay": "40.5s"}]


@pytest.mark.parametrize(
    ("status", "kind", "kind_under_200"),
    [
        (429, RateLimitedByProvider, RateLimitedByProvider),
        (503, ProviderRefused, ProviderCut),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
async def test_the_wait_that_an_error_asks_for_in_its_body_holds_in_every_form(
    status: int, kind: type[ProviderError], kind_under_200: type[ProviderError], nested: bool
) -> None:
    body: dict[str, Any] = {"error": {"message": "slow", "code": status, "details": DETAILS}}
    for form, error in (await errors_of(status, {"error": body} if nested else body)).items():
        assert type(error) is (kind if form == "its own status" else kind_under_200), form
        assert isinstance(error, ProviderError)
        assert error.retry_after_s == 40.5, form
