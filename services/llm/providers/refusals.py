"""What a provider's error answer means for the caller."""

import email.utils
import time
from typing import Any

import aiohttp
import orjson

from domain.errors import BadRequest, ContextOverflow, ProviderRefused, RateLimitedByProvider, RouteurError

MAX_ERROR_BYTES = 65_536
OVERFLOW_MARKS = (
    "context_length_exceeded",
    "maximum context length",
    "context size",
    "too many tokens",
    "exceed_context",
)
"""How OpenAI, vLLM, llama.cpp and Mistral say that the prompt is too long."""


async def refusal(provider: str, response: aiohttp.ClientResponse) -> RouteurError:
    """The error for an answer whose status is not 200. A refused credential never shows the provider's text."""
    status = response.status
    body = await response.content.read(MAX_ERROR_BYTES)
    message = _message_of(body)
    if status == 429:
        return RateLimitedByProvider(
            f"{provider} answered 429 (too many requests): {message}",
            retry_after_s=_retry_after_s(response.headers.get("Retry-After")),
        )
    if status in {401, 403}:
        # The provider's own text may quote a part of the key.
        return ProviderRefused(
            f"{provider} refused the server's credential ({status}): the operator must check its key",
            retryable=False,
            upstream_status=status,
        )
    if status in {400, 413, 422}:
        if any(mark in body.decode("utf-8", "replace").lower() for mark in OVERFLOW_MARKS):
            return ContextOverflow(f"the conversation is too long for the model: {message}")
        return BadRequest(f"{provider} refused the request ({status}): {message}")
    return ProviderRefused(
        f"{provider} answered {status}: {message}",
        retryable=status in {408, 409, 425} or status >= 500,
        upstream_status=status,
        retry_after_s=_retry_after_s(response.headers.get("Retry-After")),
    )


def _message_of(body: bytes) -> str:
    """The provider's message, in the shapes OpenAI, Mistral and Hugging Face use, cut to a line."""
    try:
        parsed: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "no readable message"
    if isinstance(parsed, dict):
        error = parsed.get("error", parsed)
        parsed = (error.get("message") or error.get("detail")) if isinstance(error, dict) else error
    text = parsed if isinstance(parsed, str) else orjson.dumps(parsed).decode()
    return " ".join(text.split())[:300] or "no readable message"


def _retry_after_s(value: str | None) -> float | None:
    """Seconds from a Retry-After header, given as seconds or as a date."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        parsed = email.utils.parsedate_tz(value)
        return max(0.0, email.utils.mktime_tz(parsed) - time.time()) if parsed else None
