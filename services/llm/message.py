"""From deltas to LangChain's messages: gathered whole for `ainvoke`, piece by piece for `astream`."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata, add_ai_message_chunks
from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk

from domain.messages import VENDOR_FIELDS
from domain.runs import ModelDelta
from services.llm.history import RAW_TOOL_CALLS, REASONING, parse_tool_calls
from services.llm.providers.provider import AnswerChunk, Delta, text_in
from services.llm.vendor_fields import merged, with_fields


class WholeMessage:
    """Gathers deltas into the message that a node gets."""

    __slots__ = ("_chunks", "_texts")

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._chunks: list[ChatGenerationChunk] = []

    def add(self, delta: Delta) -> None:
        if isinstance(delta, list):
            self._texts += delta
        else:
            self._texts += text_of(delta)
            self._chunks.append(delta)

    def generation(self) -> ChatGeneration:
        """The message: all text, and the tool calls, usage and finish reason of the rare chunks."""
        info: dict[str, Any] = {}
        usage: UsageMetadata | None = None
        rest: list[AIMessageChunk] = []
        fields: dict[str, Any] = {}
        call_fields: dict[int, dict[str, Any]] = {}
        for chunk in self._chunks:
            info.update(chunk.generation_info or {})
            if isinstance(chunk.message, AIMessageChunk):
                # Some endpoints repeat a growing total on every chunk: LangChain would add them up.
                usage = chunk.message.usage_metadata or usage
                # LangChain joins repeated strings of the metadata; ours is gathered in `info`, once.
                bare: dict[str, Any] = {"content": "", "response_metadata": {}, "usage_metadata": None}
                rest.append(chunk.message.model_copy(update={**bare, "additional_kwargs": {}}))
                fields = merged(fields, chunk.message.additional_kwargs)
            for index, more in _call_fields(chunk).items():
                call_fields[index] = merged(call_fields.get(index, {}), more)
        joined = add_ai_message_chunks(AIMessageChunk(content=""), *rest)
        if raw := _raw_calls(joined, call_fields):
            fields[RAW_TOOL_CALLS] = raw
        calls, invalid_calls = parse_tool_calls(raw)
        message = AIMessage(
            content="".join(self._texts),
            tool_calls=calls,
            invalid_tool_calls=invalid_calls,
            usage_metadata=usage,
            additional_kwargs=fields,
            response_metadata=info,
        )
        return ChatGeneration(message=message, generation_info=info)


def _call_fields(chunk: ChatGenerationChunk) -> Mapping[int, dict[str, Any]]:
    return chunk.call_fields if isinstance(chunk, AnswerChunk) else {}


def _raw_calls(joined: AIMessageChunk, call_fields: Mapping[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """The calls as they stood on the wire, whose arguments go back to the letter with the next turn."""
    return [
        with_fields(
            {
                "id": fragment["id"],
                "type": "function",
                "function": {"name": fragment["name"] or "", "arguments": fragment["args"] or ""},
            },
            call_fields.get(fragment["index"] or 0, {}),
        )
        for fragment in joined.tool_call_chunks
    ]


def text_of(chunk: ChatGenerationChunk) -> list[str]:
    """The chunk's text as pieces: none or one."""
    text = text_in(chunk.message)
    return [text] if text else []


def rare_delta(chunk: ChatGenerationChunk, model: str) -> ModelDelta | None:
    """What a chunk says beside its text, as a delta of OpenAI's shape; `None` when that is nothing."""
    message, info = chunk.message, chunk.generation_info or {}
    content: dict[str, Any] = {**message.additional_kwargs, **message.additional_kwargs.get(VENDOR_FIELDS, {})}
    content.pop(VENDOR_FIELDS, None)
    if reasoning := content.get("reasoning_content"):
        content["reasoning"] = reasoning  # Clients look under the one name or the other.
    else:
        # An empty one is kept for the history alone.
        content = {name: value for name, value in content.items() if name not in REASONING}
    if isinstance(message, AIMessageChunk) and message.tool_call_chunks:
        fields = _call_fields(chunk)
        content["tool_calls"] = [
            with_fields(_fragment(fragment), fields.get(fragment["index"] or 0, {}))
            for fragment in message.tool_call_chunks
        ]
    reason, logprobs, extra = info.get("finish_reason"), info.get("logprobs"), info.get("spark")
    if not content and reason is None and logprobs is None and not extra:
        return None
    return ModelDelta(model, content, reason, logprobs, extra or {})


def _fragment(fragment: ToolCallChunk) -> dict[str, Any]:
    """A part of a tool call: id, type and name in its first one only, as OpenAI sends them."""
    function = {"arguments": fragment["args"] or ""}
    if fragment["name"]:
        function = {"name": fragment["name"], **function}
    whole = {"index": fragment["index"] or 0, "function": function}
    return {**whole, "id": fragment["id"], "type": "function"} if fragment["id"] else whole


async def as_chunks(deltas: AsyncIterator[Delta]) -> AsyncGenerator[ChatGenerationChunk]:
    """Deltas as LangChain's chunks, one a piece.

    Usage comes once, at the end: whoever adds chunks adds it up. So do the calls as they stood on the wire, of which
    the sum of the chunks keeps neither the spelling nor the vendor's fields.
    """
    usage: UsageMetadata | None = None
    calling: WholeMessage | None = None
    async for delta in deltas:
        if isinstance(delta, list):
            for piece in delta:
                yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
            continue
        if isinstance(delta.message, AIMessageChunk) and delta.message.usage_metadata:
            usage, delta.message.usage_metadata = delta.message.usage_metadata, None
        if isinstance(delta.message, AIMessageChunk) and delta.message.tool_call_chunks:
            calling = calling or WholeMessage()
            calling.add(delta)
        yield delta
    raw = calling.generation().message.additional_kwargs.get(RAW_TOOL_CALLS) if calling else None
    if not usage and not raw:
        return
    last = AIMessageChunk(content="", usage_metadata=usage)
    if raw:
        # Set and not given: the constructor would read calls in them, of which the chunks before have given the pieces.
        last.additional_kwargs[RAW_TOOL_CALLS] = raw
    yield ChatGenerationChunk(message=last)


def as_one_chunk(generation: ChatGeneration) -> ChatGenerationChunk:
    """A whole answer as a stream of one chunk."""
    message = generation.message
    if not isinstance(message, AIMessage):
        return ChatGenerationChunk(message=AIMessageChunk(content=message.content))
    raw = message.additional_kwargs.get(RAW_TOOL_CALLS) or ()
    fragments = [
        tool_call_chunk(name=call["function"]["name"], args=call["function"]["arguments"], id=call["id"], index=index)
        for index, call in enumerate(raw)
    ]
    chunk = AIMessageChunk(
        content=message.content,
        additional_kwargs=message.additional_kwargs,
        tool_call_chunks=fragments,
        usage_metadata=message.usage_metadata,
    )
    return ChatGenerationChunk(message=chunk, generation_info=generation.generation_info)
