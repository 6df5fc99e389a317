"""From a model's name to the provider that serves it; every call is counted here, once.

Retry, fallback and cooldown belong here and nowhere else: before the first delta, a failed attempt is counted and
the next candidate tried. Today a model has one candidate.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from langchain_core.messages import BaseMessage

from config.catalogue import Catalogue, ModelEntry
from domain.errors import ModelUnavailable, RouteurError, UnknownModel
from domain.usage import Call, CallStatus
from services.llm.call_meter import CallMeter
from services.llm.providers.provider import Delta, ModelCall, Provider

logger = logging.getLogger("routeur.router")


class Router:
    """Knows the catalogue and the providers; chooses, and meters what it chose."""

    def __init__(self, catalogue: Catalogue, providers: Mapping[str, Provider], default_model: str | None) -> None:
        self.catalogue = catalogue
        self._providers = providers
        self._default_model = default_model

    def unavailable_reason(self, model: ModelEntry) -> str | None:
        """Why nothing can serve this model now; `None` when something can."""
        provider = self._providers.get(model.provider)
        if provider is None:
            return f"the provider {model.provider!r} is not set up"
        return provider.unavailable_reason(model)

    def resolve(self, name: str | None) -> ModelEntry:
        """The model that serves this name now; without a name, the default. Raises when none can."""
        if name is None:
            return self._default()
        model = self.catalogue.get(name)
        if model is None or model.type != "llm":
            known = ", ".join(entry.id for entry in self.catalogue.models if entry.type == "llm")
            raise UnknownModel(f"unknown model {name!r}; known models: {known}")
        if reason := self.unavailable_reason(model):
            raise ModelUnavailable(f"model {name!r} cannot serve now: {reason}")
        return model

    def context_tokens(self, model: ModelEntry) -> int:
        """How many tokens the model is served with, prompt and answer together."""
        return self._providers[model.provider].context_tokens(model)

    def stream(
        self,
        model: ModelEntry,
        messages: Sequence[BaseMessage],
        *,
        parameters: Mapping[str, Any],
        stop: list[str] | None,
        on_call: Callable[[Call], None],
    ) -> AsyncGenerator[Delta]:
        """The deltas of one answer. `on_call` is told of each call made for it, also a failed or cancelled one."""
        call = ModelCall(model=model, messages=list(messages), parameters=parameters, stop=stop)
        return _counted(self._providers[model.provider], call, on_call)

    def _default(self) -> ModelEntry:
        if self._default_model is not None:
            return self.resolve(self._default_model)
        reasons = []
        for name in self.catalogue.default:
            model = self.catalogue.get(name)
            if model is None:
                continue
            reason = self.unavailable_reason(model)
            if reason is None:
                return model
            reasons.append(reason)
        raise ModelUnavailable("no model can serve now: " + "; ".join(dict.fromkeys(reasons)))


async def _counted(provider: Provider, call: ModelCall, on_call: Callable[[Call], None]) -> AsyncGenerator[Delta]:
    """The provider's deltas, counted. Also reached when the client hangs up: what was consumed is still counted."""
    meter = CallMeter(call)
    status: CallStatus = "cancelled"
    failure: BaseException | None = None
    try:
        async with aclosing(provider.stream(call)) as deltas:
            async for delta in deltas:
                if delta.__class__ is list:
                    meter.saw_pieces(delta)
                else:
                    meter.saw_chunk(delta)  # type: ignore[arg-type]  # The other arm of `Delta`.
                yield delta
        status = "succeeded"
    except RouteurError as error:
        status, failure = "failed", error
        logger.warning("call failed", extra={"model": call.model.id, "code": error.code, "reason": error.message})
        raise
    except (GeneratorExit, asyncio.CancelledError) as hang_up:
        failure = hang_up
        raise
    except Exception as error:
        # A fault of our own, or of a vendor's class: what was consumed is counted all the same.
        status, failure = "failed", error
        raise
    finally:
        on_call(meter.finish(status, failure))
