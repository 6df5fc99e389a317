"""What a provider is: it streams one call to one model, and says whether it can serve now."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk
from pydantic import Field

from config.catalogue import ModelEntry
from domain.usage import LocalWork
from services.llm.providers.usage import Counted


class AnswerChunk(ChatGenerationChunk):
    """A rare chunk with what LangChain's has no place for.

    `counted`: the provider's figures, as far as it gave them. `call_fields`: what only the vendor knows of a tool call
    (`extra_content`, `provider_specific_fields`), by the call's index; such fields of the message itself are in its
    `additional_kwargs`, under `vendor_fields`.
    """

    counted: Counted | None = Field(default=None, exclude=True)
    call_fields: dict[int, dict[str, Any]] = Field(default_factory=dict, exclude=True)


Delta = list[str] | ChatGenerationChunk
"""Plain text pieces as they came, or a rare chunk: tool calls, finish reason, usage."""


@dataclass(slots=True)
class ModelCall:
    """One request to one model. `parameters` are OpenAI's names; `local_work` is set by who ran it here.

    `credential` is what the caller sent for this provider, in the provider's own type: it goes before the server's.
    """

    model: ModelEntry
    messages: list[BaseMessage]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    stop: list[str] | None = None
    whole: bool = False
    """Nobody reads along: the provider may be asked for the answer in one piece."""
    local_work: LocalWork | None = None
    credential: Any = field(default=None, repr=False)


def text_in(message: BaseMessage) -> str:
    """The text of a message. LangChain's property makes an object of its own kind of string each time."""
    content = message.content
    return content if isinstance(content, str) else str(message.text)


class Provider(Protocol):
    """Serves the catalogue's models of its `name`. It neither retries nor logs prompts."""

    name: str

    def unavailable_reason(self, model: ModelEntry, credential: Any = None) -> str | None:
        """Why it cannot serve this model now, naming the way out; `None` when it can. Never calls out.

        `credential` is the caller's own, which makes up for one that the server lacks.
        """

    def unsupported_parameter(self, model: ModelEntry, parameters: Mapping[str, Any]) -> str | None:
        """What of these parameters it would refuse, in words, for what they change in the answer; `None`: nothing."""

    def context_tokens(self, model: ModelEntry) -> int:
        """How many tokens, prompt and answer together, it serves this model with."""

    def stream(self, call: ModelCall) -> AsyncGenerator[Delta]:
        """The deltas of the answer, usage on a late one; raises `ProviderError` when it breaks or is cut."""
