"""From deltas to LangChain's messages: gathered whole for `ainvoke`, piece by piece for `astream`."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import orjson
from langchain_core.messages import AIMessage, AIMessageChunk, InvalidToolCall, ToolCall
from langchain_core.messages.ai import UsageMetadata, add_ai_message_chunks
from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk
from langchain_core.messages.tool import invalid_tool_call as create_invalid_tool_call
from langchain_core.messages.tool import tool_call as create_tool_call
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk

from domain.runs import ModelDelta
from services.llm.providers.provider import Delta


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
        for chunk in self._chunks:
            info.update(chunk.generation_info or {})
            if isinstance(chunk.message, AIMessageChunk):
                # Some endpoints repeat a growing total on every chunk: LangChain would add them up.
                usage = chunk.message.usage_metadata or usage
                # LangChain joins repeated strings of the metadata; ours is gathered in `info`, once.
                bare: dict[str, Any] = {"content": "", "response_metadata": {}, "usage_metadata": None}
                rest.append(chunk.message.model_copy(update=bare))
        joined = add_ai_message_chunks(AIMessageChunk(content=""), *rest)
        calls, invalid_calls = _tool_calls(joined)
        message = AIMessage(
            content="".join(self._texts),
            tool_calls=calls,
            invalid_tool_calls=invalid_calls,
            usage_metadata=usage,
            additional_kwargs=joined.additional_kwargs,
            response_metadata=info,
        )
        return ChatGeneration(message=message, generation_info=info)


def _tool_calls(joined: AIMessageChunk) -> tuple[list[ToolCall], list[InvalidToolCall]]:
    """The calls, and those whose arguments are no object. LangChain's chunks complete a JSON that was cut off: a tool
    would then be called with half an argument."""
    calls: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    for fragment in joined.tool_call_chunks:
        name, text, call_id = fragment["name"] or "", fragment["args"] or "", fragment["id"]
        try:
            arguments = json.loads(text or "{}", strict=False)
        except ValueError:
            arguments = None
        if isinstance(arguments, dict):
            calls.append(create_tool_call(name=name, args=arguments, id=call_id))
        else:
            problem = "the arguments are not a JSON object"
            invalid.append(create_invalid_tool_call(name=name, args=text, id=call_id, error=problem))
    return calls, invalid


def text_of(chunk: ChatGenerationChunk) -> list[str]:
    """The chunk's text as pieces: none or one."""
    text = str(chunk.message.text)
    return [text] if text else []


def rare_delta(chunk: ChatGenerationChunk, model: str) -> ModelDelta | None:
    """What a chunk says beside its text, as a delta of OpenAI's shape; `None` when that is nothing."""
    message, info = chunk.message, chunk.generation_info or {}
    content: dict[str, Any] = {}
    if reasoning := message.additional_kwargs.get("reasoning_content"):
        content["reasoning_content"] = reasoning
    if refusal := message.additional_kwargs.get("refusal"):
        content["refusal"] = refusal
    if isinstance(message, AIMessageChunk) and message.tool_call_chunks:
        content["tool_calls"] = [_fragment(fragment) for fragment in message.tool_call_chunks]
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
    """Deltas as LangChain's chunks, one a piece. Usage comes once, at the end: whoever adds chunks adds it up."""
    usage: UsageMetadata | None = None
    async for delta in deltas:
        if isinstance(delta, list):
            for piece in delta:
                yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
            continue
        if isinstance(delta.message, AIMessageChunk) and delta.message.usage_metadata:
            usage, delta.message.usage_metadata = delta.message.usage_metadata, None
        yield delta
    if usage:
        yield ChatGenerationChunk(message=AIMessageChunk(content="", usage_metadata=usage))


def as_one_chunk(generation: ChatGeneration) -> ChatGenerationChunk:
    """A whole answer as a stream of one chunk."""
    message = generation.message
    if not isinstance(message, AIMessage):
        return ChatGenerationChunk(message=AIMessageChunk(content=message.content))
    calls = [(call["name"], orjson.dumps(call["args"]).decode(), call["id"]) for call in message.tool_calls]
    calls += [(call["name"] or "", call["args"] or "", call["id"]) for call in message.invalid_tool_calls]
    fragments = [
        tool_call_chunk(name=name, args=args, id=call_id, index=index)
        for index, (name, args, call_id) in enumerate(calls)
    ]
    chunk = AIMessageChunk(content=message.content, tool_call_chunks=fragments, usage_metadata=message.usage_metadata)
    return ChatGenerationChunk(message=chunk, generation_info=generation.generation_info)
