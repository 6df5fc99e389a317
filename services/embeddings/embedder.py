"""What an embedder is: it turns the texts of one call into vectors, and says whether it can serve now."""

import base64
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from config.catalogue import ModelEntry
from domain.usage import LocalWork

Vector: TypeAlias = "array[float]"
"""32-bit floats, an eighth of a list's memory. `.tolist()` gives JSON its numbers."""


@dataclass(slots=True)
class EmbeddingCall:
    """One request to one embedding model.

    `input_tokens` and `local_work` are set by who knows them, also when the call fails or is cancelled.
    """

    model: ModelEntry
    texts: Sequence[str]
    dimensions: int | None = None
    input_tokens: int | None = None
    local_work: LocalWork | None = None


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How much one call may hold. A single text longer than `max_chars` is a call of its own."""

    max_texts: int
    max_chars: int


class Embedder(Protocol):
    """Serves the catalogue's embedding models of its `name`. It neither retries nor logs texts."""

    name: str
    batch: BatchLimits

    def unavailable_reason(self, model: ModelEntry) -> str | None:
        """Why it cannot serve this model now, naming the way out; `None` when it can. Never calls out."""

    async def embed(self, call: EmbeddingCall) -> list[Vector]:
        """One vector a text, in their order. Raises `ProviderError`, or `ContextOverflow` for a text too long."""


def as_base64(vector: Sequence[float]) -> str:
    """The vector as OpenAI's `encoding_format: base64` has it: 32-bit floats, little-endian."""
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode("ascii")
