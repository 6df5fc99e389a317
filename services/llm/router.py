"""The router of chat models: one answer from the first candidate that gives one, every call on the way counted.

Which candidate is asked, when again, and who stands in for it: `services/llm/failover.py`.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk

from config.catalogue import Catalogue, ModelEntry
from domain.errors import ContextOverflow, ProviderError, RouteurError
from domain.messages import VENDOR_FIELDS
from services.llm.counting import counted
from services.llm.failover import RETRY_WAIT_S, Asked, Failover, Plan, Waiting
from services.llm.health import Health, deployment_key
from services.llm.providers.provider import Delta, ModelCall, Provider, text_in

__all__ = ["Plan", "Request", "Router"]

Capability = Literal["tools", "json_schema", "vision"]
INABILITIES: Mapping[Capability, str] = {
    "tools": "takes no tools",
    "json_schema": "takes no JSON schema",
    "vision": "takes no images",
}
IMAGE_PARTS = frozenset({"image", "image_url", "input_image"})
"""The types of a message's parts, in OpenAI's and LangChain's words, that only a model with vision reads."""


@dataclass(slots=True)
class Request(Asked):
    """What is asked of the router: the same of each candidate."""

    messages: Sequence[BaseMessage]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    stop: list[str] | None = None
    whole: bool = False
    held: bool = False
    """The answer is read as a whole: none of it is given before its end, so that a broken one can be made again."""
    on_first_token: Callable[[], None] = lambda: None
    needs: Sequence[Capability] = ()
    """What a model must be able to do to serve it."""

    def __post_init__(self) -> None:
        # A second candidate may be asked seconds later: it hears what the first one heard.
        self.messages = list(self.messages)
        self.parameters = dict(self.parameters)
        self.needs = _needed(self)


class Router(Failover[Provider, Request, Delta]):
    """Knows the catalogue and the providers; chooses, retries, falls back, and counts."""

    def __init__(
        self,
        catalogue: Catalogue,
        providers: Mapping[str, Provider],
        default_model: str | None,
        health: Health | None = None,
        retry_wait_s: float = RETRY_WAIT_S,
    ) -> None:
        default = [*([default_model] if default_model else []), *catalogue.default]
        super().__init__(
            catalogue, providers, model_type="llm", default=default, health=health, retry_wait_s=retry_wait_s
        )

    def context_tokens(self, model: ModelEntry) -> int:
        """How many tokens the model is served with, prompt and answer together."""
        return self._servers[model.provider].context_tokens(model)

    async def _attempt(self, model: ModelEntry, asked: Request) -> AsyncGenerator[Delta]:
        """One call to one model. Deltas are held back until one means something, so that a failure leaves no trace."""
        credential = asked.credentials.get(model.provider)
        key = deployment_key(model, credential)
        call = ModelCall(
            model=model,
            messages=list(asked.messages),
            parameters=asked.parameters,
            stop=asked.stop,
            credential=credential,
            whole=asked.whole,
        )
        held: list[Delta] = []
        spoke = started = False
        deltas = counted(self._servers[model.provider], call, asked.on_call)
        try:
            async for delta in deltas:
                if started:
                    yield delta
                    continue
                held.append(delta)
                if not spoke and _means_something(delta):
                    spoke = True
                    asked.on_first_token()
                if spoke and not asked.held:
                    started = True
                    asked.model = model
                    for early in held:
                        yield early
        except ProviderError as error:
            self._health.failed(key, error)
            raise
        finally:
            await deltas.aclose()
        self._health.succeeded(key)
        if not started:
            asked.model = model
            for early in held:
                yield early

    def _inability(self, model: ModelEntry, asked: Request) -> str | None:
        for capability in asked.needs:
            if not getattr(model.capabilities, capability):
                return f"{model.id!r} {INABILITIES[capability]}"
        server = self._servers.get(model.provider)
        return None if server is None else server.unsupported_parameter(model, asked.parameters)

    def _find_others(
        self, model: ModelEntry, error: RouteurError, asked: Request, waiting: Waiting, tried: set[str]
    ) -> bool:
        """A conversation that is too long for one model may fit another: larger ones, and nobody else."""
        if not isinstance(error, ContextOverflow):
            return False
        larger = self._larger(model, waiting, tried, asked)
        waiting.clear()
        waiting.extend(larger)
        return True

    def _larger(self, model: ModelEntry, waiting: Waiting, tried: set[str], asked: Request) -> list[ModelEntry]:
        """Contexts above this model's: the candidates left, the next larger first; else one of its provider's own."""
        room = self.context_tokens(model)
        left = [step for step in waiting if isinstance(step, ModelEntry) and self.context_tokens(step) > room]
        if left:
            following = min(left, key=self.context_tokens)
            return [following, *(other for other in left if other is not following)]
        siblings = [
            other
            for other in self.catalogue.models
            if other.provider == model.provider
            and other.type == "llm"
            and other.id not in tried
            and self.context_tokens(other) > room
            and not self.unavailable_reason(other, asked.credentials)
            and self._inability(other, asked) is None
            # Nor is a model that was not named trusted with `json_object`, which has no capability of its own.
            and (other.capabilities.json_schema or not asked.parameters.get("response_format"))
        ]
        return [min(siblings, key=self.context_tokens)] if siblings else []


def _means_something(delta: Delta) -> bool:
    """Text, or a piece of a tool call or of reasoning: what a caller would see."""
    if isinstance(delta, list):
        return any(delta)
    return _chunk_means_something(delta)


def _chunk_means_something(chunk: ChatGenerationChunk) -> bool:
    message = chunk.message
    if text_in(message) or any(map(_says_something, message.additional_kwargs.items())):
        return True
    if isinstance(message.content, list) and any(_is_not_text(block) for block in message.content):
        return True
    return isinstance(message, AIMessageChunk) and bool(message.tool_call_chunks)


def _says_something(field: tuple[str, Any]) -> bool:
    name, value = field
    return any(value.values()) if name == VENDOR_FIELDS and isinstance(value, dict) else bool(value)


def _is_not_text(block: str | dict[Any, Any]) -> bool:
    """A block of reasoning, as Mistral sends it."""
    return isinstance(block, dict) and block.get("type") != "text"


def _needed(request: Request) -> list[Capability]:
    """What a model must be able to do to serve the request."""
    needed: list[Capability] = []
    if request.parameters.get("tools"):
        needed.append("tools")
    shape = request.parameters.get("response_format")
    if isinstance(shape, dict) and shape.get("type") == "json_schema":
        needed.append("json_schema")
    for message in request.messages:
        if isinstance(message.content, list) and _has_image(message.content):
            needed.append("vision")
            break
    return needed


def _has_image(parts: list[Any]) -> bool:
    return any(isinstance(part, dict) and part.get("type") in IMAGE_PARTS for part in parts)
