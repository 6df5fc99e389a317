"""From deltas to LangChain's messages: gathered whole for `ainvoke`, piece by piece for `astream`."""

from typing import Any

import orjson
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk

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
        rest = AIMessageChunk(content="")
        for chunk in self._chunks:
            info.update(chunk.generation_info or {})
            if isinstance(chunk.message, AIMessageChunk):
                # LangChain joins repeated strings of the metadata; ours is gathered in `info`, once.
                rest += chunk.message.model_copy(update={"content": "", "response_metadata": {}})
        message = AIMessage(
            content="".join(self._texts),
            tool_calls=rest.tool_calls,
            invalid_tool_calls=rest.invalid_tool_calls,
            usage_metadata=rest.usage_metadata,
            additional_kwargs=rest.additional_kwargs,
            response_metadata=info,
        )
        return ChatGeneration(message=message, generation_info=info)


def text_of(chunk: ChatGenerationChunk) -> list[str]:
    """The chunk's text as pieces: none or one."""
    text = str(chunk.message.text)
    return [text] if text else []


def as_chunks(delta: Delta) -> list[ChatGenerationChunk]:
    """A delta as LangChain's chunks, one a piece."""
    if isinstance(delta, list):
        return [ChatGenerationChunk(message=AIMessageChunk(content=piece)) for piece in delta]
    return [delta]


def as_one_chunk(generation: ChatGeneration) -> ChatGenerationChunk:
    """A whole answer as a stream of one chunk."""
    message = generation.message
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    fragments = [
        tool_call_chunk(name=call["name"], args=orjson.dumps(call["args"]).decode(), id=call["id"], index=index)
        for index, call in enumerate(calls)
    ]
    usage = message.usage_metadata if isinstance(message, AIMessage) else None
    chunk = AIMessageChunk(content=message.content, tool_call_chunks=fragments, usage_metadata=usage)
    return ChatGenerationChunk(message=chunk, generation_info=generation.generation_info)
