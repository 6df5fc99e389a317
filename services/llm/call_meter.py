"""Counts one call to a model, once, however it ends: answered, failed, or hung up on."""

import time

from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk

from domain.errors import BadRequest, ProviderRefused, ProviderUnreachable, RateLimitedByProvider, RouteurError
from domain.usage import Call, CallStatus, TokenUsage
from services.llm.providers.provider import AnswerChunk, ModelCall, text_in
from services.llm.providers.usage import NOTHING_COUNTED, Counted

CHARS_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4
"""Rough figures for text that no provider counted (OpenAI's own rule of thumb for English); marked `estimated`."""

NOTHING_WAS_SERVED = (BadRequest, ProviderRefused, ProviderUnreachable, RateLimitedByProvider)
"""Refusals before any work: they consumed zero tokens, which is known and not estimated."""


class CallMeter:
    """Watches the deltas of one call. `finish` makes the `Call` from what was seen."""

    __slots__ = ("_call", "_chars", "_counted", "_first_s", "_pieces", "_started")

    def __init__(self, call: ModelCall) -> None:
        self._call = call
        self._started = time.perf_counter()
        self._first_s: float | None = None
        self._pieces = 0
        self._chars = 0
        self._counted = NOTHING_COUNTED

    def saw_pieces(self, pieces: list[str]) -> None:
        if self._first_s is None:
            self._first_s = time.perf_counter() - self._started
        self._pieces += len(pieces)
        self._chars += sum(map(len, pieces))

    def saw_chunk(self, chunk: ChatGenerationChunk) -> None:
        message = chunk.message
        if isinstance(message, AIMessageChunk):
            if (counted := _counted_in(chunk, message)) is not None:
                # Some endpoints repeat a growing total on every chunk: the last one is the call's.
                self._counted = self._counted.updated(counted)
            if message.tool_call_chunks:
                self.saw_pieces([fragment.get("args") or "" for fragment in message.tool_call_chunks])
        if text := text_in(message):
            self.saw_pieces([text])

    def finish(self, status: CallStatus, error: BaseException | None) -> Call:
        """The call as it is counted. Usage that the provider did not give is estimated from what passed."""
        usage, estimated = self._consumed(error)
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

    def _consumed(self, error: BaseException | None) -> tuple[TokenUsage, bool]:
        """What the provider counted, the figures that it left out estimated; and whether one is."""
        read, written = self._reported()
        if read is not None and written is not None:
            return self._usage(read, written), False
        if isinstance(error, NOTHING_WAS_SERVED) and self._first_s is None:
            return TokenUsage(0, 0), False
        if written is None and not self._is_lost(error):
            written = max(self._pieces, self._chars // CHARS_PER_TOKEN)
            if (total := self._counted.total) and read is None:
                written = min(written, total)
                read = total - written
        if read is None:
            prompt_chars = sum(len(text_in(message)) for message in self._call.messages)
            read = prompt_chars // CHARS_PER_TOKEN + TOKENS_PER_MESSAGE * len(self._call.messages)
        return self._usage(read, written), True

    def _reported(self) -> tuple[int | None, int | None]:
        """Input and output as the provider counted them. A count of nothing for an answer that came is not a count."""
        read, written = self._counted.input, self._counted.output
        if self._pieces and not written:
            written = None
        if self._pieces and not read:
            read = None
        return read, written

    def _is_lost(self, error: BaseException | None) -> bool:
        """An answer was on its way in one piece: how much of it had been written is not known."""
        return self._call.whole and error is not None and self._first_s is None

    def _usage(self, read: int, written: int | None) -> TokenUsage:
        return TokenUsage(read, written, self._counted.cache_read, self._counted.reasoning)


def _counted_in(chunk: ChatGenerationChunk, message: AIMessageChunk) -> Counted | None:
    """The figures of a chunk; of one whose provider has none of its own for them, LangChain's."""
    if isinstance(chunk, AnswerChunk):
        return chunk.counted
    usage = message.usage_metadata
    if not usage:
        return None
    return Counted(
        usage["input_tokens"],
        usage["output_tokens"],
        usage["total_tokens"],
        usage.get("input_token_details", {}).get("cache_read"),
        usage.get("output_token_details", {}).get("reasoning"),
    )
