"""What a call to a model consumed, as counted where every call passes."""

from dataclasses import dataclass
from typing import Literal

CallStatus = Literal["succeeded", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of one call. `None` means not known; `cache_read_tokens` is a part of `input_tokens`.

    `audio_s` is how much audio it heard, in seconds; `None` for a call that hears none.
    """

    input_tokens: int | None
    output_tokens: int | None
    cache_read_tokens: int | None = None
    reasoning_tokens: int | None = None
    audio_s: float | None = None

    @property
    def total_tokens(self) -> int | None:
        """The sum, or `None` when a part is not known."""
        if self.input_tokens is None or self.output_tokens is None:
            return None
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class LocalWork:
    """What a call cost this machine: CPU-seconds over all inference threads, and its share of memory."""

    cpu_s: float
    ram_gb_s: float


@dataclass(frozen=True, slots=True)
class Call:
    """One request to one model, finished. `estimated` is true when the provider gave no usage of its own.

    `model` is the catalogue id that answered; `local_work` is set only where the model ran on this machine.
    """

    model: str
    provider: str
    usage: TokenUsage
    estimated: bool
    status: CallStatus
    latency_s: float
    time_to_first_token_s: float | None = None
    local_work: LocalWork | None = None
    error_code: str | None = None
