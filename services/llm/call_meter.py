"""Counts one call to a model, once, however it ends: answered, failed, or hung up on."""

import time
from collections.abc import Mapping
from typing import Any

from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk

from domain.errors import BadRequest, ProviderRefused, ProviderUnreachable, RateLimitedByProvider, RouteurError
from domain.usage import Call, CallStatus, TokenUsage
from services.llm.providers.provider import ModelCall

CHARS_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4
"""Rough figures for text that no provider counted (OpenAI's own rule of thumb for English); marked `estimated`."""

NOTHING_WAS_SERVED = (BadRequest, ProviderRefused, ProviderUnreachable, RateLimitedByProvider)
"""Refusals before any work: they consumed zero tokens, which is known and not estimated."""


class CallMeter:
    """Watches the deltas of one call. `finish` makes the `Call` from what was seen."""

    __slots__ = ("_call", "_chars", "_first_s", "_pieces", "_started", "_usage")

    def __init__(self, call: ModelCall) -> None:
        self._call = call
        self._started = time.perf_counter()
        self._first_s: float | None = None
        self._pieces = 0
        self._chars = 0
        self._usage: Mapping[str, Any] | None = None

    def saw_pieces(self, pieces: list[str]) -> None:
        if self._first_s is None:
            self._first_s = time.perf_counter() - self._started
        self._pieces += len(pieces)
        self._chars += sum(map(len, pieces))

    def saw_chunk(self, chunk: ChatGenerationChunk) -> None:
        message = chunk.message
        if isinstance(message, AIMessageChunk):
            if message.usage_metadata:
                # Some endpoints repeat a growing total on every chunk: the last one is the call's.
                self._usage = message.usage_metadata
            if message.tool_call_chunks:
                self.saw_pieces([fragment.get("args") or "" for fragment in message.tool_call_chunks])
        if text := message.text:
            self.saw_pieces([text])

    def finish(self, status: CallStatus, error: BaseException | None) -> Call:
        """The call as it is counted. Usage that the provider did not give is estimated from what passed."""
        usage, estimated = self._counted(error)
        return Call(
            model=self._call.model.id,
            provider=self._call.model.provider,
            usage=usage,
            estimated=estimated,
            status=status,
            latency_s=time.perf_counter() - self._started,
            time_to_first_token_s=self._first_s,
            local_work=self._call.local_work,
            error_code=error.code if isinstance(error, RouteurError) else None,
        )

    def _counted(self, error: BaseException | None) -> tuple[TokenUsage, bool]:
        # A count of nothing for an answer that came is not a count.
        if self._usage is not None and (self._usage["output_tokens"] or not self._pieces):
            return _reported(self._usage), False
        if isinstance(error, NOTHING_WAS_SERVED) and self._first_s is None:
            return TokenUsage(0, 0), False
        prompt_chars = sum(len(message.text) for message in self._call.messages)
        prompt = prompt_chars // CHARS_PER_TOKEN + TOKENS_PER_MESSAGE * len(self._call.messages)
        if self._call.whole and error is not None and self._first_s is None:
            # The answer was on its way in one piece: how much of it had been written, nobody saw.
            return TokenUsage(prompt, None), True
        return TokenUsage(prompt, max(self._pieces, self._chars // CHARS_PER_TOKEN)), True


def _reported(usage: Mapping[str, Any]) -> TokenUsage:
    return TokenUsage(
        input_tokens=usage["input_tokens"],
        output_tokens=usage["output_tokens"],
        cache_read_tokens=usage.get("input_token_details", {}).get("cache_read"),
        reasoning_tokens=usage.get("output_token_details", {}).get("reasoning"),
    )
