"""From a model's name to an answer: candidates in order, one retry loop, fallback before the first word.

A name leads to models of the catalogue (`routes`), of which those that can serve are tried in order. A failure before
the first meaningful delta is retried or handed to the next candidate; after it, the failure is the caller's to hear.
Every call made on the way is counted, and every candidate given up is a hop with its reason.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk

from config.catalogue import Catalogue, ModelEntry
from domain.errors import (
    ContextOverflow,
    ModelUnavailable,
    ProviderCut,
    ProviderError,
    ProviderStalled,
    ProviderUnreachable,
    RouteurError,
    UnknownModel,
)
from domain.runs import Hop
from domain.usage import Call
from services.llm.counting import counted
from services.llm.health import Health, deployment_key
from services.llm.providers.provider import Delta, ModelCall, Provider

logger = logging.getLogger("routeur.router")

ATTEMPTS_OF_THE_LAST = 3
ATTEMPTS_OF_OTHERS = 2
"""A stale connection or a hiccup deserves a second try before another model answers in its place."""

FIRST_DELAY_S = 0.25
LONGEST_DELAY_S = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What serves a name, in order: models, and in the place of those that cannot, a hop that says why."""

    steps: tuple[ModelEntry | Hop, ...]

    @property
    def candidates(self) -> tuple[ModelEntry, ...]:
        return tuple(step for step in self.steps if isinstance(step, ModelEntry))

    @property
    def passed_over(self) -> tuple[Hop, ...]:
        return tuple(step for step in self.steps if isinstance(step, Hop))

    @property
    def first(self) -> ModelEntry:
        return next(step for step in self.steps if isinstance(step, ModelEntry))


@dataclass(slots=True)
class Request:
    """What is asked of the router: the same of each candidate. `credentials` are the caller's own, by provider.

    The router writes `model` before the first delta: who answers. `on_call` is told of each call, also a failed one.
    """

    messages: Sequence[BaseMessage]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    stop: list[str] | None = None
    credentials: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = False
    on_call: Callable[[Call], None] = lambda _: None
    on_hop: Callable[[Hop], None] = lambda _: None
    model: ModelEntry | None = None

    def __post_init__(self) -> None:
        # A second candidate may be asked seconds later: it hears what the first one heard.
        self.messages = list(self.messages)
        self.parameters = dict(self.parameters)

    @property
    def answering_model(self) -> str:
        """The id of the model that answers; known from the first delta on."""
        return self.model.id if self.model else ""


class Router:
    """Knows the catalogue and the providers; chooses, retries, falls back, and counts."""

    def __init__(
        self,
        catalogue: Catalogue,
        providers: Mapping[str, Provider],
        default_model: str | None,
        health: Health | None = None,
    ) -> None:
        self.catalogue = catalogue
        self._providers = providers
        self._default_model = default_model
        self._models_of: dict[str | None, list[ModelEntry]] = {}
        self._health = health or Health()

    def unavailable_reason(self, model: ModelEntry, credentials: Mapping[str, Any] | None = None) -> str | None:
        """Why nothing is set up to serve this model; `None` when something is. Never calls out."""
        provider = self._providers.get(model.provider)
        if provider is None:
            return f"the provider {model.provider!r} is not set up"
        return provider.unavailable_reason(model, (credentials or {}).get(model.provider))

    def cooling_reason(self, model: ModelEntry) -> str | None:
        """Why a model that is set up is passed over just now."""
        return self._health.cooling(deployment_key(model, None))

    def plan(self, name: str | None, credentials: Mapping[str, Any] | None = None) -> Plan:
        """The models that serve this name now; without a name, the default chain. Raises when none can."""
        steps: list[ModelEntry | Hop] = []
        reasons: list[str] = []
        for model in self._named(name):
            if (reason := self.unavailable_reason(model, credentials)) is None:
                steps.append(model)
                continue
            reasons.append(reason)
            if name is not None:
                # An unnamed model is whichever is set up: those that are not were never asked for.
                steps.append(Hop(model.id, reason))
        if all(isinstance(step, Hop) for step in steps):
            what = "no model can serve now" if name is None else f"model {name!r} cannot serve now"
            raise ModelUnavailable(f"{what}: {'; '.join(dict.fromkeys(reasons))}")
        return Plan(tuple(steps))

    def resolve(self, name: str | None) -> ModelEntry:
        """The first model that can serve this name now."""
        return self.plan(name).first

    def context_tokens(self, model: ModelEntry) -> int:
        """How many tokens the model is served with, prompt and answer together."""
        return self._providers[model.provider].context_tokens(model)

    async def stream(self, plan: Plan, request: Request) -> AsyncGenerator[Delta]:
        """The deltas of one answer, from the first candidate that gives one."""
        waiting = self._in_order(plan, request)
        tried: set[str] = set()
        while waiting:
            model = waiting.popleft()
            if isinstance(model, Hop):
                request.on_hop(model)
                continue
            tried.add(model.id)
            is_last = not any(isinstance(step, ModelEntry) for step in waiting)
            attempts = ATTEMPTS_OF_THE_LAST if is_last else ATTEMPTS_OF_OTHERS
            started = False
            for attempt in range(1, attempts + 1):
                try:
                    async with aclosing(self._attempt(model, request)) as deltas:
                        async for delta in deltas:
                            started = True
                            yield delta
                except RouteurError as error:
                    if started:
                        raise
                    delay_s = _delay_s(error, attempt, attempts, is_last=is_last)
                    if delay_s is None:
                        self._give_up(model, error, request, waiting, tried)
                        break
                    await asyncio.sleep(delay_s)
                else:
                    return

    def _in_order(self, plan: Plan, request: Request) -> deque[ModelEntry | Hop]:
        """The plan, a hop in the place of what cools, unless all do: a lone deployment is asked in any case."""
        steps = deque[ModelEntry | Hop]()
        for step in plan.steps:
            if isinstance(step, ModelEntry):
                key = deployment_key(step, request.credentials.get(step.provider))
                reason = self._health.cooling(key)
                steps.append(step if reason is None else Hop(step.id, reason))
            else:
                steps.append(step)
        return steps if any(isinstance(step, ModelEntry) for step in steps) else deque(plan.steps)

    async def _attempt(self, model: ModelEntry, request: Request) -> AsyncGenerator[Delta]:
        """One call to one model. Deltas are held back until one means something, so that a failure leaves no trace."""
        credential = request.credentials.get(model.provider)
        key = deployment_key(model, credential)
        call = ModelCall(
            model=model,
            messages=list(request.messages),
            parameters=request.parameters,
            stop=request.stop,
            credential=credential,
            whole=request.whole,
        )
        held: list[Delta] = []
        started = False
        try:
            async with aclosing(counted(self._providers[model.provider], call, request.on_call)) as deltas:
                async for delta in deltas:
                    if started:
                        yield delta
                    elif _means_something(delta):
                        started = True
                        request.model = model
                        for early in held:
                            yield early
                        yield delta
                    else:
                        held.append(delta)
        except ProviderError as error:
            self._health.failed(key, error)
            raise
        self._health.succeeded(key)
        if not started:
            request.model = model
            for early in held:
                yield early

    def _give_up(
        self,
        model: ModelEntry,
        error: RouteurError,
        request: Request,
        waiting: deque[ModelEntry | Hop],
        tried: set[str],
    ) -> None:
        """Go on with the next candidate, or raise: the caller's own mistakes are not cured by another model."""
        if isinstance(error, ContextOverflow):
            larger = self._larger(model, waiting, tried, request)
            waiting.clear()
            waiting.extend(larger)
        elif not isinstance(error, ProviderError | ModelUnavailable):
            raise error
        following = next((step for step in waiting if isinstance(step, ModelEntry)), None)
        if following is None:
            raise error
        request.on_hop(Hop(model.id, error.message))
        logger.warning("falling back", extra={"model": model.id, "to": following.id, "code": error.code})

    def _larger(
        self, model: ModelEntry, waiting: deque[ModelEntry | Hop], tried: set[str], request: Request
    ) -> list[ModelEntry]:
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
            and _can_do(other, request)
            and not self.unavailable_reason(other, request.credentials)
        ]
        return [min(siblings, key=self.context_tokens)] if siblings else []

    def _named(self, name: str | None) -> list[ModelEntry]:
        """The models behind a name. Kept: a run asks several times, and the catalogue does not change."""
        models = self._models_of.get(name)
        if models is None:
            models = self._models_of[name] = self._look_up(name)
        return models

    def _look_up(self, name: str | None) -> list[ModelEntry]:
        if name is None:
            names = [*([self._default_model] if self._default_model else []), *self.catalogue.default]
            chain = {model.id: model for each in names for model in self.catalogue.candidates(each)}
            return [model for model in chain.values() if model.type == "llm"]
        models = [model for model in self.catalogue.candidates(name) if model.type == "llm"]
        if not models:
            known = [entry.id for entry in self.catalogue.models if entry.type == "llm"]
            routes = [route.name for route in self.catalogue.routes]
            raise UnknownModel(f"unknown model {name!r}; known models: {', '.join(dict.fromkeys([*known, *routes]))}")
        return models


def _means_something(delta: Delta) -> bool:
    """Text, or a piece of a tool call or of reasoning: what a caller would see."""
    if isinstance(delta, list):
        return any(delta)
    return _chunk_means_something(delta)


def _chunk_means_something(chunk: ChatGenerationChunk) -> bool:
    message = chunk.message
    if message.text or message.additional_kwargs:
        return True
    if isinstance(message.content, list) and any(_is_not_text(block) for block in message.content):
        return True
    return isinstance(message, AIMessageChunk) and bool(message.tool_call_chunks)


def _is_not_text(block: str | dict[Any, Any]) -> bool:
    """A block of reasoning, as Mistral sends it."""
    return isinstance(block, dict) and block.get("type") != "text"


def _can_do(model: ModelEntry, request: Request) -> bool:
    """Whether a model that the caller did not name takes what is asked: it would refuse, and hide the real problem."""
    can, asked = model.capabilities, request.parameters
    if asked.get("tools") and not can.tools:
        return False
    if asked.get("response_format") and not can.json_schema:
        return False
    return can.vision or not any(_has_image(message) for message in request.messages)


def _has_image(message: BaseMessage) -> bool:
    parts = message.content if isinstance(message.content, list) else []
    return any(isinstance(part, dict) and part.get("type") != "text" for part in parts)


def _delay_s(error: RouteurError, attempt: int, attempts: int, *, is_last: bool) -> float | None:
    """How long to wait before the same model is asked again; `None` when it should not be."""
    if not isinstance(error, ProviderError) or not error.retryable or attempt >= attempts:
        return None
    if isinstance(error, ProviderStalled):
        return None  # The caller has waited long enough.
    asked_s = error.retry_after_s or 0.0
    if not is_last and (asked_s or not _is_hiccup(error)):
        return None  # Another model can answer now.
    if asked_s > LONGEST_DELAY_S:
        return None
    # Never sooner than the provider asked for, and not with everybody else at the same instant.
    backoff_s: float = FIRST_DELAY_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311  # nosec B311 - jitter, not a secret
    return asked_s + backoff_s


def _is_hiccup(error: ProviderError) -> bool:
    """Whether the same model may well answer a moment later."""
    if isinstance(error, ProviderCut | ProviderUnreachable):
        return True
    return error.upstream_status is not None and error.upstream_status >= 500
