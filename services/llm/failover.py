"""From a model's name to who serves it: candidates in order, one retry loop, fallback before the first word.

A name leads to models of the catalogue (`routes`), of which those that can serve are tried in order. A failure before
anything was given is retried or handed to the next candidate; after it, the failure is the caller's to hear. Every
candidate given up is a hop with its reason. What is asked of a candidate, and what it gives, is the subclass's matter:
chat (`services/llm/router.py`), transcription (`services/audio/router.py`).
"""

import logging
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from config.catalogue import Catalogue, ModelEntry
from domain.errors import (
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
from services.llm.health import Health, deployment_key
from services.retry_wait import RetryWait

logger = logging.getLogger("routeur.router")

ATTEMPTS_OF_THE_LAST = 3
ATTEMPTS_OF_OTHERS = 2
"""A stale connection or a hiccup deserves a second try before another model answers in its place."""

FIRST_DELAY_S = 0.25
RETRY_WAIT_S = 8.0
"""How long a request may wait between attempts, all its calls together, unless the setting says otherwise."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What serves a name, in order: models, and in the place of those that cannot, a hop that says why."""

    steps: tuple[ModelEntry | Hop, ...]

    @property
    def candidates(self) -> tuple[ModelEntry, ...]:
        return tuple(step for step in self.steps if isinstance(step, ModelEntry))

    @property
    def first(self) -> ModelEntry:
        return next(step for step in self.steps if isinstance(step, ModelEntry))


@dataclass(slots=True, kw_only=True)
class Asked:
    """What is asked, the same of each candidate. `credentials` are the caller's own, by provider.

    `model` is written before anything is given: who answers. `on_call` is told of each call, also a failed one.
    """

    credentials: Mapping[str, Any] = field(default_factory=dict)
    on_call: Callable[[Call], None] = lambda _: None
    on_hop: Callable[[Hop], None] = lambda _: None
    retry_wait: RetryWait | None = None
    """Shared with the other calls of a run; without it, the call's own."""
    model: ModelEntry | None = None

    @property
    def answering_model(self) -> str:
        """The id of the model that answers; known from the first thing given on."""
        return self.model.id if self.model else ""


class Serves(Protocol):
    """A provider or a transcriber, as far as choosing goes."""

    def unavailable_reason(self, model: ModelEntry, credential: Any = None) -> str | None: ...


AskedT = TypeVar("AskedT", bound=Asked)
GivenT = TypeVar("GivenT")
ServerT = TypeVar("ServerT", bound=Serves)
Waiting = deque[ModelEntry | Hop]


class Failover(ABC, Generic[ServerT, AskedT, GivenT]):
    """Knows the catalogue and who serves its models of one type; chooses, retries and falls back.

    `default` names what serves a request without a model's name, in order.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        servers: Mapping[str, ServerT],
        *,
        model_type: Literal["llm", "transcription"],
        default: Sequence[str],
        health: Health | None = None,
        retry_wait_s: float = RETRY_WAIT_S,
    ) -> None:
        self.catalogue = catalogue
        self._servers = servers
        self._model_type = model_type
        self._default = tuple(default)
        self._models_of: dict[str | tuple[str, ...], list[ModelEntry]] = {}
        self._health = health or Health()
        self._retry_wait_s = retry_wait_s

    @abstractmethod
    def _attempt(self, model: ModelEntry, asked: AskedT) -> AsyncGenerator[GivenT]:
        """One call to one model. Nothing is given before it means something, so that a failure leaves no trace."""

    def unavailable_reason(self, model: ModelEntry, credentials: Mapping[str, Any] | None = None) -> str | None:
        """Why nothing is set up to serve this model; `None` when something is. Never calls out."""
        server = self._servers.get(model.provider)
        if server is None:
            return f"the provider {model.provider!r} is not set up"
        return server.unavailable_reason(model, (credentials or {}).get(model.provider))

    def cooling_reason(self, model: ModelEntry) -> str | None:
        """Why a model that is set up is passed over just now."""
        return self._health.cooling(deployment_key(model, None))

    def plan(
        self, name: str | None, credentials: Mapping[str, Any] | None = None, *, default: Sequence[str] | None = None
    ) -> Plan:
        """The models that serve this name now; without a name, the default chain. Raises when none can."""
        steps: list[ModelEntry | Hop] = []
        reasons: list[str] = []
        is_served = False
        for model in self._named(name, default):
            if (reason := self.unavailable_reason(model, credentials)) is None:
                steps.append(model)
                is_served = True
                continue
            reasons.append(reason)
            if name is not None:
                # An unnamed model is whichever is set up: those that are not were never asked for.
                steps.append(Hop(model.id, reason))
        if not is_served:
            what = "no model can serve now" if name is None else f"model {name!r} cannot serve now"
            raise ModelUnavailable(f"{what}: {'; '.join(dict.fromkeys(reasons))}")
        return Plan(tuple(steps))

    def new_retry_wait(self) -> RetryWait:
        """How long the calls of one request may wait between attempts."""
        return RetryWait(self._retry_wait_s)

    def resolve(self, name: str | None) -> ModelEntry:
        """The first model that can serve this name now."""
        return self.plan(name).first

    async def stream(self, plan: Plan, asked: AskedT) -> AsyncGenerator[GivenT]:
        """What is given, by the first candidate that gives anything."""
        waiting = self._in_order(self._able(plan, asked), asked)
        tried: set[str] = set()
        retry_wait = asked.retry_wait or self.new_retry_wait()
        while waiting:
            model = waiting.popleft()
            if isinstance(model, Hop):
                asked.on_hop(model)
                continue
            tried.add(model.id)
            is_last = not waiting or not any(isinstance(step, ModelEntry) for step in waiting)
            attempts = ATTEMPTS_OF_THE_LAST if is_last else ATTEMPTS_OF_OTHERS
            started = False
            for attempt in range(1, attempts + 1):
                given = self._attempt(model, asked)
                try:
                    async for each in given:
                        started = True
                        yield each
                except RouteurError as error:
                    if started:
                        raise
                    delay_s = _delay_s(error, attempt, attempts, retry_wait.longest_s, is_last=is_last)
                    if delay_s is None:
                        self._give_up(model, error, asked, waiting, tried)
                        break
                    await retry_wait.sleep(delay_s)
                else:
                    return
                finally:
                    await given.aclose()

    def _able(self, plan: Plan, asked: AskedT) -> Plan:
        """The plan, a hop in the place of what cannot do what the request needs, unless no model of the name can.

        Raises `ModelUnavailable` when only a model that is not available could: another would hide the reason.
        """
        unable = {
            step.id: reason
            for step in plan.steps
            if isinstance(step, ModelEntry) and (reason := self._inability(step, asked)) is not None
        }
        if not unable:
            return plan
        steps = [
            Hop(step.id, unable[step.id]) if isinstance(step, ModelEntry) and step.id in unable else step
            for step in plan.steps
        ]
        if any(isinstance(step, ModelEntry) for step in steps):
            return Plan(tuple(steps))
        unavailable = [(self.catalogue.get(step.model), step) for step in plan.steps if isinstance(step, Hop)]
        if any(model is not None and self._inability(model, asked) is None for model, _ in unavailable):
            reasons = dict.fromkeys(step.reason for step in steps if isinstance(step, Hop))
            raise ModelUnavailable(f"no model can serve this request now: {'; '.join(reasons)}")
        return plan

    def _inability(self, model: ModelEntry, asked: AskedT) -> str | None:
        """What the request needs and the model cannot do, in words; `None` when it can do all of it."""
        return None

    def _in_order(self, plan: Plan, asked: AskedT) -> Waiting:
        """The plan, a hop in the place of what cools, unless all do: a lone deployment is asked in any case."""
        steps = Waiting()
        is_served = False
        for step in plan.steps:
            if isinstance(step, ModelEntry):
                key = deployment_key(step, asked.credentials.get(step.provider))
                reason = self._health.cooling(key)
                steps.append(step if reason is None else Hop(step.id, reason))
                is_served = is_served or reason is None
            else:
                steps.append(step)
        return steps if is_served else Waiting(plan.steps)

    def _give_up(
        self, model: ModelEntry, error: RouteurError, asked: AskedT, waiting: Waiting, tried: set[str]
    ) -> None:
        """Go on with the next candidate, or raise: the caller's own mistakes are not cured by another model."""
        if not self._find_others(model, error, asked, waiting, tried) and not isinstance(
            error, ProviderError | ModelUnavailable
        ):
            raise error
        following = next((step for step in waiting if isinstance(step, ModelEntry)), None)
        if following is None:
            for step in waiting:
                if isinstance(step, Hop):
                    asked.on_hop(step)  # Also a failed answer names those that were passed over.
            raise error
        asked.on_hop(Hop(model.id, error.message))
        logger.warning("falling back", extra={"model": model.id, "to": following.id, "code": error.code})

    def _find_others(
        self, model: ModelEntry, error: RouteurError, asked: AskedT, waiting: Waiting, tried: set[str]
    ) -> bool:
        """Whether this error is one that chosen others may cure; `waiting` then holds those, perhaps none."""
        return False

    def _named(self, name: str | None, default: Sequence[str] | None) -> list[ModelEntry]:
        """The models behind a name. Kept: a run asks several times, and the catalogue does not change."""
        key = name if name is not None else tuple(default or self._default)
        models = self._models_of.get(key)
        if models is None:
            models = self._models_of[key] = self._look_up(key)
        return models

    def _look_up(self, key: str | tuple[str, ...]) -> list[ModelEntry]:
        wanted = self._model_type
        if not isinstance(key, str):
            chain = {model.id: model for each in key for model in self.catalogue.candidates(each)}
            return [model for model in chain.values() if model.type == wanted]
        models = [model for model in self.catalogue.candidates(key) if model.type == wanted]
        if not models:
            raise self._unknown(key)
        return models

    def _unknown(self, name: str) -> UnknownModel:
        known = [entry.id for entry in self.catalogue.models if entry.type == self._model_type]
        known += [route.name for route in self.catalogue.routes if self._serves_our_type(route.name)]
        what = "model" if self._model_type == "llm" else f"{self._model_type} model"
        return UnknownModel(f"unknown {what} {name!r}; known {what}s: {', '.join(dict.fromkeys(known))}")

    def _serves_our_type(self, name: str) -> bool:
        return any(model.type == self._model_type for model in self.catalogue.candidates(name))


def _delay_s(error: RouteurError, attempt: int, attempts: int, longest_s: float, *, is_last: bool) -> float | None:
    """How long to wait before the same model is called again; `None` when it should not be."""
    if not isinstance(error, ProviderError) or not error.retryable or attempt >= attempts:
        return None
    if isinstance(error, ProviderStalled):
        return None  # The caller has waited long enough.
    asked_s = error.retry_after_s or 0.0
    if not is_last and (asked_s or not _is_hiccup(error)):
        return None  # Another model can answer now.
    if asked_s > longest_s:
        return None  # The caller is not held that long: the provider's Retry-After goes on to it.
    # Never sooner than the provider asked for, and not with everybody else at the same instant.
    backoff_s: float = FIRST_DELAY_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311  # nosec B311 - jitter, not a secret
    return min(asked_s + backoff_s, longest_s)


def _is_hiccup(error: ProviderError) -> bool:
    """Whether the same model may well answer a moment later."""
    if isinstance(error, ProviderCut | ProviderUnreachable):
        return True
    return error.upstream_status is not None and error.upstream_status >= 500
