"""A rare event in OpenAI's form as LangChain's chunk: reasoning, tool calls, finish reason, usage, vendors' fields."""

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import orjson
from langchain_core.messages import AIMessageChunk
from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk

from core.http_client import HttpClient
from domain.errors import ProviderCut
from domain.messages import VENDOR_FIELDS
from services.llm.providers.provider import AnswerChunk, Delta
from services.llm.providers.usage import counted_in
from services.llm.providers.wire import Endpoint, ask_whole, stream_events

logger = logging.getLogger("routeur.router")

READ_KEYS = frozenset({"role", "content", "tool_calls", "reasoning", "reasoning_content", "refusal"})
READ_KEYS_OF_CALLS = frozenset({"index", "id", "type"})
MARGIN = 12
"""How many objects a vendor's field may be nested in on its way out: the encoder has a bound on depth."""


async def read_answer(
    http: HttpClient, endpoint: Endpoint, payload: Mapping[str, Any], *, whole: bool
) -> AsyncGenerator[Delta]:
    """One call over OpenAI's wire: text pieces in batches, rare events as chunks."""
    if whole:
        for delta in await ask_whole(http, endpoint, payload):
            yield _read(endpoint.provider, delta)
        return
    async with aclosing(stream_events(http, endpoint, payload)) as deltas:
        async for delta in deltas:
            yield delta if isinstance(delta, list) else _read(endpoint.provider, delta)


def _read(provider: str, delta: list[str] | dict[str, Any]) -> Delta:
    if isinstance(delta, list):
        return delta
    try:
        return read_chunk(delta)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        # What makes no sense is the provider's fault, and not the agent's.
        logger.warning("chunk not readable", extra={"provider": provider, "error": type(error).__name__})
        raise ProviderCut(f"{provider} sent a chunk that cannot be read", retryable=True) from error


def read_chunk(parsed: Mapping[str, Any]) -> AnswerChunk:
    """The chunk. `parsed` comes from the normaliser."""
    counted = counted_in(parsed)
    metadata = counted.as_metadata() if counted is not None else None
    choices = parsed.get("choices")
    if not choices:
        return AnswerChunk(message=AIMessageChunk(content="", usage_metadata=metadata), counted=counted)
    choice = choices[0]
    delta = choice["delta"]
    fragments = delta.get("tool_calls") or []
    message = AIMessageChunk(
        content=delta.get("content") or "",
        additional_kwargs=_fields_of(delta),
        tool_call_chunks=[_fragment(fragment) for fragment in fragments],
        usage_metadata=metadata,
    )
    return AnswerChunk(
        message=message,
        generation_info=_info_of(parsed, choice) or None,
        counted=counted,
        call_fields={fragment["index"]: more for fragment in fragments if (more := _fields_of_call(fragment))},
    )


def _fields_of(delta: Mapping[str, Any]) -> dict[str, Any]:
    """What the message says beside its text: reasoning under one name, a refusal, and what only the vendor knows."""
    kept: dict[str, Any] = {}
    reasoning = delta.get("reasoning_content") or delta.get("reasoning")
    if isinstance(reasoning, str) and reasoning:
        kept["reasoning_content"] = reasoning
        if reasoning == delta.get("reasoning"):
            kept["reasoning"] = reasoning  # It goes back under the name that the vendor gave it.
    else:
        # Models that think insist on the field beside their tool calls, and not on words in it.
        kept |= {name: "" for name in ("reasoning_content", "reasoning") if delta.get(name) == ""}
    if len(delta) > 1 or "content" not in delta:
        if refusal := delta.get("refusal"):
            kept["refusal"] = refusal
        if more := delta.keys() - READ_KEYS:
            fields = {key: delta[key] for key in delta if key in more and _is_worth_passing(delta[key])}
            if fields:
                kept[VENDOR_FIELDS] = fields
    return kept


def _fragment(fragment: Mapping[str, Any]) -> ToolCallChunk:
    function = fragment["function"]
    return tool_call_chunk(
        name=function.get("name"), args=function["arguments"], id=fragment.get("id"), index=fragment["index"]
    )


def _fields_of_call(fragment: Mapping[str, Any]) -> dict[str, Any]:
    """What only the vendor knows of a tool call: a signature of the thought that led to it, say."""
    more = {
        key: value
        for key, value in fragment.items()
        if key not in READ_KEYS_OF_CALLS and key != "function" and _is_worth_passing(value)
    }
    of_function = {
        key: value
        for key, value in fragment["function"].items()
        if key not in {"name", "arguments"} and _is_worth_passing(value)
    }
    return {**more, "function": of_function} if of_function else more


def _info_of(parsed: Mapping[str, Any], choice: Mapping[str, Any]) -> dict[str, Any]:
    info: dict[str, Any] = {}
    if reason := choice.get("finish_reason"):
        info["finish_reason"] = reason
        named = {"model_name": "model", "system_fingerprint": "system_fingerprint", "service_tier": "service_tier"}
        info |= {ours: value for ours, theirs in named.items() if isinstance(value := parsed.get(theirs), str)}
    if logprobs := choice.get("logprobs"):
        info["logprobs"] = logprobs
    return info


def _is_worth_passing(value: Any) -> bool:
    """Whether it says something, as `false` and 0 do, and our encoder takes it too, wherever it will stand."""
    if value is None or value in ("", [], {}):
        return False
    if isinstance(value, str | bool):
        return True
    for _ in range(MARGIN):
        value = [value]
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True
