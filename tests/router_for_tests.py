"""A router over providers that play scripts: a list of outcomes for each model, one a call."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk

from config.catalogue import Capabilities, Catalogue, ContextWindow, Endpoint, ModelEntry, Route, load_catalogue
from domain.errors import ProviderRefused, RateLimitedByProvider
from domain.runs import Hop
from domain.usage import Call
from services.llm.health import Health
from services.llm.providers.provider import Delta, ModelCall
from services.llm.router import Plan, Request, Router

CATALOGUE = load_catalogue()
Outcome = Sequence[Delta | BaseException]
"""What one call gives: deltas, and an error if it ends with one."""


def rare(content: str | list[Any] = "", **fields: Any) -> ChatGenerationChunk:
    """A rare chunk."""
    info = fields.pop("info", None)
    return ChatGenerationChunk(message=AIMessageChunk(content=content, **fields), generation_info=info)


ROLE = rare()
END = rare(info={"finish_reason": "stop"})
USAGE = rare(usage_metadata={"input_tokens": 3, "output_tokens": 2, "total_tokens": 5})
REASONING = rare(additional_kwargs={"reasoning_content": "hmm"})
TOOL = rare(tool_call_chunks=[tool_call_chunk(name="add", args="{", id="1", index=0)])


@dataclass
class FakeProvider:
    """Plays its deltas; raises those that are errors. `scripts` hold an outcome a call for single models."""

    name: str
    script: list[Delta | BaseException] = field(default_factory=list)
    reason: str | None = None
    scripts: dict[str, list[Outcome]] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    contexts: Mapping[str, int] = field(default_factory=dict)
    unsupported: Mapping[str, Sequence[str]] = field(default_factory=dict)
    closed: int = 0
    calls: list[ModelCall] = field(default_factory=list)

    def unavailable_reason(self, model: ModelEntry, credential: Any = None) -> str | None:
        if model.id in self.reasons and credential is None:
            return self.reasons[model.id]
        return self.reason and f"{model.id}: {self.reason}"

    def unsupported_parameter(self, model: ModelEntry, parameters: Mapping[str, Any]) -> str | None:
        name = next((name for name in self.unsupported.get(model.id, ()) if name in parameters), None)
        return name and f"{model.id!r} takes no {name!r}"

    def context_tokens(self, model: ModelEntry) -> int:
        return self.contexts.get(model.id, 1234)

    async def stream(self, call: ModelCall) -> AsyncGenerator[Delta]:
        self.calls.append(call)
        outcomes = self.scripts.get(call.model.id)
        try:
            for step in self.script if outcomes is None else outcomes.pop(0):
                if isinstance(step, BaseException):
                    raise step
                await asyncio.sleep(0)
                yield step
        finally:
            self.closed += 1

    @property
    def asked(self) -> list[str]:
        """Which models were asked, in order."""
        return [call.model.id for call in self.calls]


def router_of(*providers: FakeProvider, default_model: str | None = None, catalogue: Catalogue = CATALOGUE) -> Router:
    return Router(catalogue, {provider.name: provider for provider in providers}, default_model)


def entry(name: str, *, provider: str = "p", **fields: Any) -> ModelEntry:
    context = ContextWindow(tokens=8, source="a test", checked=date(2026, 11, 20))
    return ModelEntry(id=name, provider=provider, description=name, context=context, **fields)


def catalogue_of(models: Sequence[ModelEntry | str], routes: Mapping[str, Sequence[str]] | None = None) -> Catalogue:
    """Models of the provider `p` unless they say otherwise; all of them, in order, are the default chain."""
    entries = tuple(model if isinstance(model, ModelEntry) else entry(model) for model in models)
    names = {model.provider for model in entries} - {"local", "openai", "mistral", "spark", "huggingface"}
    return Catalogue(
        default=tuple(model.id for model in entries),
        endpoints=tuple(Endpoint(name=name, base_url="http://nowhere/v1") for name in sorted(names)),
        routes=tuple(Route(name=name, candidates=tuple(its)) for name, its in (routes or {}).items()),
        models=entries,
    )


class Clock:
    """The time, as the test says."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Table:
    """A router over one provider `p` whose models play scripts; the route `r` leads to all of them, in order."""

    provider: FakeProvider
    router: Router
    clock: Clock

    async def ask(self, name: str | None = "r", **fields: Any) -> "Answer":
        answer = Answer()
        request = Request([HumanMessage("Hi")], on_call=answer.calls.append, on_hop=answer.hops.append, **fields)
        await answer.hear(self.router, self.router.plan(name, request.credentials), request)
        return answer


def table(scripts: Mapping[str, Sequence[Outcome]], **provider: Any) -> Table:
    """`table({"a": [[error], ["Hi"]], "b": []})`: a's first call fails and its second answers; b is never asked."""
    catalogue = catalogue_of(list(scripts), {"r": list(scripts)})
    playing = FakeProvider("p", scripts={name: list(outcomes) for name, outcomes in scripts.items()}, **provider)
    clock = Clock()
    return Table(playing, Router(catalogue, {"p": playing}, None, Health(clock)), clock)


@dataclass
class Answer:
    """Everything that a caller of the router hears."""

    deltas: list[Delta] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    hops: list[Hop] = field(default_factory=list)
    error: BaseException | None = None
    model: str = ""

    async def hear(self, router: Router, plan: Plan, request: Request) -> None:
        try:
            async with aclosing(router.stream(plan, request)) as stream:
                async for delta in stream:
                    assert request.answering_model, "the model is known from the first delta on"
                    self.deltas.append(delta)
        except Exception as error:  # noqa: BLE001 - handed to the test
            self.error = error
        self.model = request.answering_model

    @property
    def text(self) -> str:
        return "".join("".join(delta) if isinstance(delta, list) else str(delta.message.text) for delta in self.deltas)

    @property
    def left(self) -> list[tuple[str, str]]:
        """The hops."""
        return [(hop.model, hop.reason) for hop in self.hops]


def refused(status: int, *, retry_after_s: float | None = None) -> ProviderRefused | RateLimitedByProvider:
    """The provider's error status, as `refusals` reads it."""
    if status == 429:
        return RateLimitedByProvider("answered 429", retry_after_s=retry_after_s)
    retryable = status in {408, 409, 425} or status >= 500
    return ProviderRefused(
        f"answered {status}", retryable=retryable, upstream_status=status, retry_after_s=retry_after_s
    )


def seeing(name: str, **capabilities: bool) -> ModelEntry:
    return entry(name, capabilities=Capabilities(**capabilities))
