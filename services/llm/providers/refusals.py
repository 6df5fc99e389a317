"""What a provider's error answer means for the caller."""

import email.utils
import json
import math
import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from domain.errors import (
    BadRequest,
    ContextOverflow,
    InsufficientQuota,
    ModelNotServed,
    ProviderError,
    ProviderRefused,
    RateLimitedByProvider,
    RouteurError,
)
from services.llm.providers.quirks import RefusalIn
from services.llm.providers.surrogates import joined

MAX_ERROR_BYTES = 65_536
LONGEST_WAIT_S = 86_400.0
"""What a provider asks for beyond a day is passed on as a day: its figure is then no measure of anything."""
NO_WORDS = "no readable message"
WORD_KEYS = ("error", "message", "detail", "msg", "error_msg", "error_message", "status_msg", "errors")

OVERFLOW = re.compile(
    "|".join(
        (
            # OpenAI, vLLM, DeepSeek, Mistral, OpenRouter, Ollama; "context window" is the word of newer endpoints.
            r"context_length_exceeded|exceed_context|context_window_exceeded",
            r"maximum (context|model|prompt|input)[ _]length|model'?s (maximum )?context length|max_model_len",
            r"exceeds? (the |its |this |model'?s |available |max |maximum )*(context|prompt)",
            r"(greater|larger|longer) than (the |its |this |model'?s |available |max |maximum )*context",
            r"context (size|length|window|limit)s? (is |was |has been )?(exceed|reached|too)",
            r"available context size|context size has been exceeded",
            # Anthropic, Bedrock, Fireworks, Yi; Cohere; Gemini; Moonshot; Zhipu; Dashscope.
            r"(prompt|input|request|conversation|messages?)( is| are|:)? too long",
            r"too many (input |prompt )?tokens|(input|prompt) token count|maximum number of (input )?tokens",
            r"exceeded model token limit|prompt exceeds max length|range of input length should be",
            # Groq and Cerebras; TGI and Together.
            r"reduce the length of (the|your) (messages|prompt|input)",
            r"max_new_tokens.{0,3} must be <=|inputs.{0,3} must have less than|too large for model with",
        )
    ),
    re.IGNORECASE,
)
"""How vendors say that the prompt is too long."""

QUOTA_CODES = frozenset(
    {
        "insufficient_quota",
        "insufficient_user_quota",
        "exceeded_current_quota_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "insufficient_balance",
        "insufficient_credits",
        "payment_required",
        "billing_error",  # Anthropic's.
        "arrearage",  # Dashscope's.
        "allocationquota.freetieronly",
        "accountoverdueerror",  # Volcengine's.
        "1113",  # Zhipu's.
    }
)
"""Codes of an account that has nothing left: no other try will help, however the status reads."""

QUOTA_WORDS = re.compile(
    r"credit balance is too low|insufficient (account )?balance|balance is insufficient", re.IGNORECASE
)
"""What those write who give it no code, or the one of a wrong request: Anthropic, DeepSeek, MiniMax, SiliconFlow. The
words "exceeded your current quota" are no such: Google has them for limits by the minute."""

SPEAKS_OF_CREDENTIALS = re.compile(r"key|token|credential|secret|bearer|auth|sign|sk-|\w{24}", re.IGNORECASE)

NAMES_STREAM_OPTIONS = re.compile(r"stream_options|include_usage", re.IGNORECASE)


class StreamOptionsRefused(BadRequest):
    """The endpoint does not know `stream_options`: the same request without it may be answered.

    `otherwise` is what its answer means to a request that held none.
    """

    def __init__(self, otherwise: RouteurError) -> None:
        super().__init__(otherwise.message)
        self.otherwise = otherwise


async def refusal(provider: str, response: aiohttp.ClientResponse, refusal_in: RefusalIn | None = None) -> RouteurError:
    """The error for an answer whose status is not 200. A refused credential never shows the provider's text."""
    if 300 <= response.status < 400:
        return _redirect(provider, response)
    body = await _body_of(response)
    parsed = _parsed(body)
    wait_s = retry_after_of(response) or retry_delay_in(parsed)
    if refusal_in is not None and (own := refusal_in(parsed, response.status)) is not None:
        if isinstance(own, ProviderError):
            own.retry_after_s = wait_s
        return own
    return refusal_by_status(provider, response.status, parsed, body.decode("utf-8", "replace"), wait_s)


def _redirect(provider: str, response: aiohttp.ClientResponse) -> ProviderRefused:
    """The host is named and not the address, which may hold a token."""
    try:
        host = urlsplit(response.headers.get("Location", "")).hostname
    except ValueError:
        host = None
    where = f"to {joined(host)[:200]!r}" if host else "to another address"
    return ProviderRefused(
        f"{provider} answered {response.status}: a redirect {where}, which is not followed: the operator must check "
        "its base URL",
        retryable=False,
        upstream_status=response.status,
    )


def refusal_by_status(
    provider: str, status: int, parsed: Any, text: str, retry_after_s: float | None = None
) -> RouteurError:
    """What an error status means. `parsed` holds the provider's words, `text` all that it sent."""
    meant = _meaning_of(provider, status, parsed, text, retry_after_s)
    if status == 401 or isinstance(meant, InsufficientQuota | RateLimitedByProvider | ContextOverflow):
        return meant
    # Whatever else the status: some answer 404 to a field that they do not know, or hand it on and fail with 500.
    return StreamOptionsRefused(meant) if NAMES_STREAM_OPTIONS.search(text) else meant


def _meaning_of(provider: str, status: int, parsed: Any, text: str, retry_after_s: float | None) -> RouteurError:
    words = words_of(parsed)
    if is_quota_used_up(status, parsed):
        problem = (
            f"{provider} answered {status}: the server's quota or credit there is used up, the operator must check"
        )
        may_quote_the_key = status in {401, 403} and SPEAKS_OF_CREDENTIALS.search(words)
        shown = "its plan and billing" if may_quote_the_key else f"its plan and billing: {words}"
        return InsufficientQuota(f"{problem} {shown}", upstream_status=status)
    if status == 429:
        return RateLimitedByProvider(
            f"{provider} answered 429 (too many requests): {words}", retry_after_s=retry_after_s
        )
    if status in {401, 403}:
        return _refused_account(provider, status, words)
    if status == 404 or "model_not_supported" in text:
        return ModelNotServed(
            f"{provider} serves no such model ({status}): {words}", retryable=False, upstream_status=404
        )
    if (refused := _refused_request(provider, status, words, text)) is not None:
        return refused
    return ProviderRefused(
        f"{provider} answered {status}: {words}",
        retryable=status == 408 or status >= 500,
        upstream_status=status,
        retry_after_s=retry_after_s,
    )


def is_quota_used_up(status: int | None, parsed: Any) -> bool:
    """Whether the server's account there has nothing left, by the status, by a code or in words."""
    return status == 402 or bool(codes_of(parsed) & QUOTA_CODES) or bool(QUOTA_WORDS.search(words_of(parsed)))


def _refused_account(provider: str, status: int, words: str) -> ProviderRefused:
    if status == 403 and words != NO_WORDS and not SPEAKS_OF_CREDENTIALS.search(words):
        # A moderation, a region, a model that the account may not use.
        problem = f"{provider} answered 403 (not allowed): {words}"
    else:
        # The provider's own text may quote a part of the key.
        problem = f"{provider} refused the server's credential ({status}): the operator must check its key"
    return ProviderRefused(problem, retryable=False, upstream_status=status)


def _refused_request(provider: str, status: int, words: str, text: str) -> BadRequest | None:
    """The caller's own mistake, when it is one."""
    if status in {400, 413, 422, 500} and OVERFLOW.search(text):
        return ContextOverflow(f"the conversation is too long for the model: {words}")
    if status in {400, 413, 422}:
        return BadRequest(f"{provider} refused the request ({status}): {words}")
    return None


def words_of(parsed: Any) -> str:
    """The provider's message, in the shapes that vendors use, cut to a line."""
    named = ""
    for part in parts_of(parsed):
        named = next((each for key in ("type", "code") if isinstance(each := part.get(key), str)), named)
        parsed = _words_in(part)
    if not parsed:
        return joined(named)[:300] or NO_WORDS
    text = parsed if isinstance(parsed, str) else json.dumps(parsed, ensure_ascii=False, separators=(",", ":"))
    return " ".join(joined(text).split())[:300] or NO_WORDS


def parts_of(parsed: Any) -> Iterator[dict[str, Any]]:
    """The object and those in it that lead to its words: some wrap an error in an error, or in a `detail`."""
    while isinstance(parsed, dict):
        yield parsed
        parsed = _words_in(parsed)


def _words_in(part: dict[str, Any]) -> Any:
    found = (part.get(key) for key in WORD_KEYS)
    return next((each for each in found if each and isinstance(each, str | dict | list)), None)


def with_one_error(parsed: Any) -> Any:
    """The object with the first of its `errors` as its `error`, where it has only a list of them."""
    if not isinstance(parsed, dict) or parsed.get("error"):
        return parsed
    errors = parsed.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else errors
    return {**parsed, "error": first} if first and isinstance(first, str | dict) else parsed


def codes_of(parsed: Any) -> set[str]:
    """The words by which an error names its kind."""
    values = [part.get(key) for part in parts_of(parsed) for key in ("code", "type", "status", "error")]
    return {str(value).lower() for value in values if isinstance(value, str | int)}


def retry_after_of(response: aiohttp.ClientResponse) -> float | None:
    """How long the provider wants to be left alone, in seconds. OpenAI and Azure say it in milliseconds too."""
    wait_s = _bounded(_number(response.headers.get("Retry-After-Ms", "")) / 1000)
    return retry_after_s(response.headers.get("Retry-After")) if wait_s is None else wait_s


def retry_delay_in(parsed: Any) -> float | None:
    """Google says it in the body: `{"error": {"details": [{"retryDelay": "40s"}]}}`."""
    for part in parts_of(parsed):
        details = part.get("details")
        for each in details if isinstance(details, list) else ():
            delay = each.get("retryDelay") if isinstance(each, dict) else None
            if isinstance(delay, str) and delay.endswith("s") and (wait_s := retry_after_s(delay[:-1])) is not None:
                return wait_s
    return None


async def _body_of(response: aiohttp.ClientResponse) -> bytes:
    """The body up to a bound; what came of it when the connection breaks, for the status is known already."""
    body = b""
    try:
        while len(body) < MAX_ERROR_BYTES and (part := await response.content.read(MAX_ERROR_BYTES - len(body))):
            body += part
    except aiohttp.ClientError:
        pass
    return body


def _parsed(body: bytes) -> Any:
    """The object of an error's body, also where it comes as an event or in a list; `None` when there is none."""
    try:
        parsed = orjson.loads(body.strip().removeprefix(b"data:"))
    except orjson.JSONDecodeError:
        return None
    return with_one_error(parsed[0] if isinstance(parsed, list) and parsed else parsed)


def retry_after_s(value: str | None) -> float | None:
    """Seconds from a Retry-After header, in seconds or as a date; a day at most; `None` when it is neither."""
    if not value:
        return None
    seconds = _number(value)
    if not math.isnan(seconds):
        return _bounded(seconds)
    until_s = _seconds_until(value)
    return None if math.isnan(until_s) else _bounded(max(0.0, until_s))


def _number(text: str) -> float:
    """Not a number when it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _bounded(seconds: float) -> float | None:
    """A day at most; `None` for what is no time to wait."""
    return min(seconds, LONGEST_WAIT_S) if seconds >= 0 else None


def _seconds_until(date: str) -> float:
    """Not a number when it is not a date."""
    try:
        parsed = email.utils.parsedate_tz(date)
        return email.utils.mktime_tz(parsed) - time.time() if parsed else math.nan
    except (ValueError, OverflowError, IndexError):
        return math.nan
