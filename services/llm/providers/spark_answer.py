"""iFlytek Spark: what its frames and its refusals mean."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from langchain_core.messages import AIMessageChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGenerationChunk

from domain.errors import (
    BadRequest,
    ContentFiltered,
    ContextOverflow,
    CredentialNotAllowed,
    CredentialRefused,
    ModelNotServed,
    ProviderCut,
    ProviderRefused,
    RateLimitedByProvider,
    RouteurError,
)
from services.llm.providers.refusals import retry_after_s, words_of
from services.llm.providers.spark_auth import SparkRoute
from services.llm.providers.surrogates import joined

logger = logging.getLogger("routeur.router")

LAST = 2
"""The status of the frame that ends an answer."""

Meaning = Literal["malformed", "audit", "overflow", "credential", "not_allowed", "limited", "no_such_model"]

MEANINGS: Mapping[int, Meaning] = {
    **dict.fromkeys((10003, 10004, 10005, 10163), "malformed"),
    **dict.fromkeys((10013, 10014, 10019), "audit"),
    **dict.fromkeys((10006, 10007, 11201, 11202, 11203), "limited"),
    **dict.fromkeys((10015, 10016, 11200), "not_allowed"),
    10404: "no_such_model",
    10907: "overflow",
    11500: "credential",
}
"""The vendor's codes (its Web API page). Those not named here are failures on its side: 10000–10002
WebSocket, 10008 capacity, 10009–10012 engine, 10110 busy, 10222 engine network, 11501, and the unknown."""

CALLERS_FAULTS: Mapping[Meaning, tuple[type[BadRequest], str]] = {
    "malformed": (BadRequest, "it cannot be asked so"),
    "audit": (ContentFiltered, "the content was refused, put it in other words"),
    "overflow": (ContextOverflow, "the conversation is too long, shorten it or name a model with a larger context"),
}

CLOCK_MARK = "x-date header is required"
"""How the gateway says that the signature's date is more than 300 s off."""


@dataclass(frozen=True, slots=True)
class AnswerFrame:
    """One frame. `code` is 0 unless it is a refusal, of which `words` are the vendor's own."""

    pieces: list[str]
    reasoning: str
    is_last: bool
    usage: Mapping[str, Any]
    code: int
    words: str
    sid: str


def read_frame(provider: str, received: str | bytes) -> AnswerFrame:
    """The frame; raises `ProviderCut` when it cannot be one."""
    try:
        parsed = _parse(received)
        header = parsed["header"]
        code = int(header["code"])
        payload = parsed.get("payload") or {}
        choices = payload.get("choices") or {}
        texts = choices.get("text") or []
        return AnswerFrame(
            pieces=[text["content"] for text in texts if _is_text(text.get("content"))],
            reasoning="".join(text["reasoning_content"] for text in texts if _is_text(text.get("reasoning_content"))),
            is_last=LAST in {header.get("status"), choices.get("status")},
            usage=_counts_of(payload.get("usage")),
            code=code,
            words=words_of({"message": header.get("message")}),
            sid=joined(str(header.get("sid") or "")[:64]),
        )
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        logger.warning("frame not readable", extra={"provider": provider, "error": type(error).__name__})
        raise ProviderCut(f"{provider} sent a frame that cannot be read", retryable=True) from error


def refusal_in_frame(provider: str, frame: AnswerFrame, model: str, *, is_callers: bool) -> RouteurError:
    """The error that a refusing frame means. `is_callers`: the credential came with the request."""
    return refusal_by_code(provider, model, frame.code, words=frame.words, sid=frame.sid, is_callers=is_callers)


def refusal_by_code(provider: str, model: str, code: int, *, words: str, sid: str, is_callers: bool) -> RouteurError:
    """The error that one of the vendor's codes means, over its WebSocket and over HTTP."""
    said = f"{provider} answered {code} for {model!r} ({words}; sid {sid or 'unknown'})"
    meaning = MEANINGS.get(code)
    match meaning:
        case "malformed" | "audit" | "overflow":
            error, advice = CALLERS_FAULTS[meaning]
            return error(f"{said}: {advice}")
        case "credential" | "not_allowed":
            status: Literal[401, 403] = 401 if meaning == "credential" else 403
            return credential_refusal(provider, f"code {code}", status, is_callers=is_callers)
        case "limited":
            return RateLimitedByProvider(said, retry_after_s=None)
        case "no_such_model":
            advice = "it is no longer served, or not to this application"
            return ModelNotServed(f"{said}: {advice}", retryable=False, upstream_status=404)
        case None:
            return ProviderRefused(said, retryable=True)


def refusal_at_handshake(
    provider: str, status: int, body: bytes, retry_after: str | None, *, is_callers: bool
) -> RouteurError:
    """The error that an HTTP answer means where a WebSocket was asked for."""
    if status in {401, 403} and CLOCK_MARK in body.decode("utf-8", "replace"):
        return ProviderRefused(
            f"{provider} refused the date of the signature ({status}): the operator must set this server's clock",
            retryable=False,
            upstream_status=status,
        )
    if status in {401, 403}:
        # Both mean that the signature does not fit; what the application may do is told by codes, after it.
        return credential_refusal(provider, f"status {status}", 401, is_callers=is_callers)
    if status == 429:
        return RateLimitedByProvider(
            f"{provider} answered 429 (too many requests)", retry_after_s=retry_after_s(retry_after)
        )
    if status == 404:
        problem = f"{provider} answered 404: it serves nothing at this model's address"
        return ModelNotServed(problem, retryable=False, upstream_status=404)
    return ProviderRefused(
        f"{provider} answered {status} where a WebSocket was due", retryable=status >= 500, upstream_status=status
    )


def credential_refusal(provider: str, how: str, status: Literal[401, 403], *, is_callers: bool) -> ProviderRefused:
    """Never with the vendor's own words: they may quote a part of the credential."""
    if not is_callers:
        problem = (
            f"{provider} refused the server's credential ({how}): the operator must check APP_ID, API_SECRET, API_KEY"
        )
        return ProviderRefused(problem, retryable=False, upstream_status=status)
    if status == 403:
        problem = (
            f"{provider} grants this application no use of the model ({how}): check its quota in iFlytek's console"
        )
        return CredentialNotAllowed(problem, retryable=False, upstream_status=status)
    problem = f"{provider} refused the credential of the request ({how}): check X_APP_ID, X_API_SECRET and X_API_KEY"
    return CredentialRefused(problem, retryable=False, upstream_status=status)


def last_chunk(route: SparkRoute, frame: AnswerFrame, finish_reason: str) -> ChatGenerationChunk:
    """Usage, finish reason, and what callers of Spark are told besides (`generation_info["spark"]`)."""
    told = {
        "version": route.version,
        "domain": route.shown_domain,
        "question_tokens": _count(frame.usage, "question_tokens"),
    }
    return ChatGenerationChunk(
        message=AIMessageChunk(content="", usage_metadata=_usage(frame.usage)),
        generation_info={
            "finish_reason": finish_reason,
            "model_name": route.domain,
            "spark": {**told, "sid": frame.sid},
        },
    )


def reasoning_chunk(reasoning: str) -> ChatGenerationChunk:
    """What the model thinks before it answers; not part of the answer."""
    message = AIMessageChunk(content="", additional_kwargs={"reasoning_content": reasoning})
    return ChatGenerationChunk(message=message)


def finish_reason_of(frame: AnswerFrame, max_tokens: int) -> str:
    """The vendor gives no reason: an answer as long as it was allowed to be was cut short."""
    written = _count(frame.usage, "completion_tokens")
    return "length" if written is not None and written >= max_tokens else "stop"


def _usage(usage: Mapping[str, Any]) -> UsageMetadata | None:
    read, written = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    if read is None or written is None:
        return None
    return UsageMetadata(input_tokens=read, output_tokens=written, total_tokens=read + written)


def _counts_of(usage: Any) -> Mapping[str, Any]:
    """What was counted; nothing when it cannot be read, for accounting never breaks an answer."""
    counts = usage.get("text") if isinstance(usage, dict) else None
    return counts if isinstance(counts, dict) else {}


def _count(usage: Mapping[str, Any], name: str) -> int | None:
    value = usage.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _parse(received: str | bytes) -> dict[str, Any]:
    """Halves of surrogate pairs are legal in JSON's escapes and refused by orjson: who reads the frames joins them."""
    try:
        parsed = orjson.loads(received)
    except orjson.JSONDecodeError:
        parsed = json.loads(received)
    if not isinstance(parsed, dict):
        raise TypeError("not an object")
    return parsed


def _is_text(value: Any) -> bool:
    """Whether there is text to pass on. Anything but text or nothing is no frame of Spark's."""
    if value is not None and not isinstance(value, str):
        raise TypeError("content that is not text")
    return bool(value)
