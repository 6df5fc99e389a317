"""Errors that come under status 200: in a body, or in an event before, in or after an answer."""

import json
from collections.abc import Mapping
from typing import Any

from domain.errors import ContextOverflow, InsufficientQuota, ProviderCut, RouteurError
from services.llm.providers.refusals import (
    NAMES_STREAM_OPTIONS,
    NO_WORDS,
    OVERFLOW,
    StreamOptionsRefused,
    codes_of,
    is_quota_used_up,
    parts_of,
    refusal_by_status,
    retry_delay_in,
    with_one_error,
    words_of,
)

STATUS_KEYS = ("code", "status", "status_code", "statusCode", "http_status", "http_code", "error_code")

STATUS_OF_CODE: Mapping[str, int] = {
    **dict.fromkeys(("invalid_request_error", "badrequesterror", "bad_request", "invalid_argument"), 400),
    **dict.fromkeys(("invalidparameter", "context_length_exceeded", "exceed_context_size_error"), 400),
    **dict.fromkeys(("validation_error", "unprocessable_entity", "unprocessableentityerror"), 422),
    **dict.fromkeys(("authentication_error", "authenticationerror", "invalid_api_key", "unauthenticated"), 401),
    **dict.fromkeys(("permission_error", "permission_denied", "permissiondeniederror", "forbidden"), 403),
    **dict.fromkeys(("billing_error", "payment_required"), 402),
    **dict.fromkeys(("not_found_error", "notfounderror", "model_not_found", "not_found"), 404),
    "request_too_large": 413,
    **dict.fromkeys(("rate_limit_error", "rate_limit_exceeded", "ratelimiterror", "resource_exhausted"), 429),
    **dict.fromkeys(("too_many_requests", "insufficient_quota"), 429),
}
"""What vendors call their errors where they give no number."""


def error_in(provider: str, parsed: dict[str, Any]) -> RouteurError | None:
    """The error that an object tells of; `None` when it tells of none."""
    if "errors" in parsed and not parsed.get("choices"):
        parsed = with_one_error(parsed)
    error = _error_of(parsed)
    if error is None:
        return None
    shown = parsed if error is parsed else {**parsed, "error": error}
    status, text, wait_s = _status_of(shown), json.dumps(shown, ensure_ascii=False), retry_delay_in(shown)
    if is_quota_used_up(status, shown):
        status = status or InsufficientQuota.status
        return refusal_by_status(provider, status, shown, text)
    if status is not None and 400 <= status < 500:
        return refusal_by_status(provider, status, shown, text, wait_s)
    words = words_of(shown)
    if OVERFLOW.search(words) or codes_of(shown) & {"context_length_exceeded"}:
        return ContextOverflow(f"the conversation is too long for the model: {words}")
    failure = ProviderCut(
        f"{provider} failed in mid-answer: {words}", retryable=True, upstream_status=status, retry_after_s=wait_s
    )
    return StreamOptionsRefused(failure) if NAMES_STREAM_OPTIONS.search(json.dumps(error)) else failure


def _error_of(parsed: dict[str, Any]) -> Any:
    """The part of the object that is an error."""
    if error := parsed.get("error"):
        return error
    if "error" in (parsed.get("object"), parsed.get("type"), parsed.get("status")):
        return parsed
    choices = parsed.get("choices")
    if isinstance(choices, list) and choices:
        return choices[0].get("error") or None if isinstance(choices[0], dict) else None
    base = parsed.get("base_resp")
    if isinstance(base, dict) and base.get("status_code"):
        return base
    if "choices" in parsed or parsed.get("usage"):
        return None
    # No part of an answer, and words: what else would they be for?
    return parsed if words_of({**parsed, "type": None, "code": None}) != NO_WORDS else None


def _status_of(shown: dict[str, Any]) -> int | None:
    for part in reversed(list(parts_of(shown))):
        for key in STATUS_KEYS:
            if (status := _as_status(part.get(key))) is not None:
                return status
    return next((STATUS_OF_CODE[code] for code in sorted(codes_of(shown)) if code in STATUS_OF_CODE), None)


def _as_status(value: Any) -> int | None:
    if isinstance(value, str) and value.isdecimal() and len(value) == 3:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599 else None
