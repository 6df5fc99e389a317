"""What a provider's error answer means for the caller."""

import email.utils
import math
import time
from typing import Any

import aiohttp
import orjson

from domain.errors import (
    BadRequest,
    ContextOverflow,
    ModelNotServed,
    ProviderError,
    ProviderRefused,
    RateLimitedByProvider,
    RouteurError,
)
from services.llm.providers.quirks import RefusalIn

MAX_ERROR_BYTES = 65_536
NO_WORDS = "no readable message"
OVERFLOW_MARKS = (
    "context_length_exceeded",
    "maximum context length",
    "context size",
    "too many tokens",
    "exceed_context",
)
"""How OpenAI, vLLM, llama.cpp and Mistral say that the prompt is too long."""


async def refusal(provider: str, response: aiohttp.ClientResponse, refusal_in: RefusalIn | None = None) -> RouteurError:
    """The error for an answer whose status is not 200. A refused credential never shows the provider's text."""
    body = await _body_of(response)
    told = _told(body, response, refusal_in) if refusal_in is not None else None
    return told or _by_status(provider, response, body)


async def refusal_told(response: aiohttp.ClientResponse, refusal_in: RefusalIn) -> RouteurError | None:
    """The refusal that a vendor's body tells whatever its status."""
    return _told(await _body_of(response), response, refusal_in)


def _by_status(provider: str, response: aiohttp.ClientResponse, body: bytes) -> RouteurError:
    status = response.status
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
    if status == 404 or "model_not_supported" in body.decode("utf-8", "replace"):
        return ModelNotServed(
            f"{provider} serves no such model ({status}): {message}", retryable=False, upstream_status=404
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


def words_of(parsed: Any) -> str:
    """The provider's message, in the shapes OpenAI, Mistral and Hugging Face use, cut to a line."""
    while isinstance(parsed, dict):
        parsed = parsed.get("error") or parsed.get("message") or parsed.get("detail")
    if not parsed:
        return NO_WORDS
    text = parsed if isinstance(parsed, str) else orjson.dumps(parsed).decode()
    return " ".join(text.split())[:300] or NO_WORDS


async def _body_of(response: aiohttp.ClientResponse) -> bytes:
    """The body up to a bound; what came of it when the connection breaks, for the status is known already."""
    body = b""
    try:
        while len(body) < MAX_ERROR_BYTES and (part := await response.content.read(MAX_ERROR_BYTES - len(body))):
            body += part
    except aiohttp.ClientError:
        pass
    return body


def _told(body: bytes, response: aiohttp.ClientResponse, refusal_in: RefusalIn) -> RouteurError | None:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        parsed = None
    error = refusal_in(parsed, response.status)
    if isinstance(error, ProviderError):
        error.retry_after_s = _retry_after_s(response.headers.get("Retry-After"))
    return error


def _message_of(body: bytes) -> str:
    try:
        return words_of(orjson.loads(body))
    except orjson.JSONDecodeError:
        return NO_WORDS


def _retry_after_s(value: str | None) -> float | None:
    """Seconds from a Retry-After header, given as seconds or as a date; `None` when it is neither."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = _seconds_until(value)
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _seconds_until(date: str) -> float:
    """Not a number when it is not a date."""
    try:
        parsed = email.utils.parsedate_tz(date)
        return email.utils.mktime_tz(parsed) - time.time() if parsed else math.nan
    except (ValueError, OverflowError, IndexError):
        return math.nan
