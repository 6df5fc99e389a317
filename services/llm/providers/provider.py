"""What a provider is: it streams one call to one model, and says whether it can serve now."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk

from config.catalogue import ModelEntry
from domain.usage import LocalWork

Delta = list[str] | ChatGenerationChunk
"""Plain text pieces as they came, or a rare chunk: tool calls, finish reason, usage."""


@dataclass(slots=True)
class ModelCall:
    """One request to one model. `parameters` are OpenAI's names; `local_work` is set by who ran it here."""

    model: ModelEntry
    messages: list[BaseMessage]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    stop: list[str] | None = None
    local_work: LocalWork | None = None


class Provider(Protocol):
    """Serves the catalogue's models of its `name`. It neither retries nor logs prompts."""

    name: str

    def unavailable_reason(self, model: ModelEntry) -> str | None:
        """Why it cannot serve this model now, naming the way out; `None` when it can. Never calls out."""

    def context_tokens(self, model: ModelEntry) -> int:
        """How many tokens, prompt and answer together, it serves this model with."""

    def stream(self, call: ModelCall) -> AsyncGenerator[Delta]:
        """The deltas of the answer, usage on a late one; raises `ProviderError` when it breaks or is cut."""
