"""Calls to Spark as the router makes them, with the fake server's credentials."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGenerationChunk

from config.catalogue import Capabilities, ContextWindow, ModelEntry
from domain.errors import (
    BadRequest,
    ContentFiltered,
    ContextOverflow,
    CredentialNotAllowed,
    CredentialRefused,
    ModelNotServed,
    ProviderRefused,
    RateLimitedByProvider,
    RouteurError,
)
from services.llm.message import WholeMessage
from services.llm.providers.provider import Delta, ModelCall, Provider
from services.llm.providers.spark import Spark
from tests.spark_server import CREDENTIALS, SparkServer


def model(name: str = "spark-api", *, most: int | None = None, temperature: bool = True) -> ModelEntry:
    context = ContextWindow(
        tokens=8192, max_output_tokens=most, source="https://www.xfyun.cn", checked=date(2026, 11, 20)
    )
    capabilities = Capabilities(temperature=temperature)
    return ModelEntry(id=name, provider="spark", description="", context=context, capabilities=capabilities)


def spark(server: SparkServer | None = None, **changed: Any) -> Spark:
    url = server.base_url if server else "ws://127.0.0.1:9"
    settings: dict[str, Any] = {"credentials": CREDENTIALS, "text_base_url": url, "vision_base_url": url}
    return Spark(**{**settings, "stall_timeout_s": 20.0, "connect_timeout_s": 20.0, **changed})


def call(messages: Sequence[BaseMessage] | str = "Hi", entry: ModelEntry | None = None, **parameters: Any) -> ModelCall:
    asked = [HumanMessage(messages)] if isinstance(messages, str) else list(messages)
    return ModelCall(entry or model(), asked, parameters)


async def deltas_of(provider: Provider, asked: ModelCall) -> list[Delta]:
    async with aclosing(provider.stream(asked)) as deltas:
        return [delta async for delta in deltas]


async def answer(provider: Provider, asked: ModelCall) -> AIMessage:
    whole = WholeMessage()
    for delta in await deltas_of(provider, asked):
        whole.add(delta)
    message = whole.generation().message
    assert isinstance(message, AIMessage)
    return message


@dataclass
class Outcome:
    """What came, and how it ended."""

    deltas: list[Delta] = field(default_factory=list)
    error: RouteurError | None = None

    @property
    def finish_reason(self) -> str | None:
        last = self.deltas[-1] if self.deltas else None
        return (last.generation_info or {}).get("finish_reason") if isinstance(last, ChatGenerationChunk) else None


async def outcome_of(provider: Provider, asked: ModelCall) -> Outcome:
    outcome = Outcome()
    try:
        async with aclosing(provider.stream(asked)) as deltas:
            async for delta in deltas:
                outcome.deltas.append(delta)
    except RouteurError as error:
        outcome.error = error
    return outcome


CODES: list[tuple[int, type[RouteurError], int, bool | None]] = [
    # code, error, its HTTP status, whether it is worth another try
    (10000, ProviderRefused, 502, True),
    (10001, ProviderRefused, 502, True),
    (10002, ProviderRefused, 502, True),
    (10003, BadRequest, 400, None),
    (10004, BadRequest, 400, None),
    (10005, BadRequest, 400, None),
    (10006, RateLimitedByProvider, 429, True),
    (10007, RateLimitedByProvider, 429, True),
    (10008, ProviderRefused, 502, True),
    (10009, ProviderRefused, 502, True),
    (10010, ProviderRefused, 502, True),
    (10011, ProviderRefused, 502, True),
    (10012, ProviderRefused, 502, True),
    (10013, ContentFiltered, 400, None),
    (10014, ContentFiltered, 400, None),
    (10015, CredentialNotAllowed, 403, False),
    (10016, CredentialNotAllowed, 403, False),
    (10019, ContentFiltered, 400, None),
    (10110, ProviderRefused, 502, True),
    (10163, BadRequest, 400, None),
    (10222, ProviderRefused, 502, True),
    (10404, ModelNotServed, 404, False),
    (10907, ContextOverflow, 400, None),
    (11200, CredentialNotAllowed, 403, False),
    (11201, RateLimitedByProvider, 429, True),
    (11202, RateLimitedByProvider, 429, True),
    (11203, RateLimitedByProvider, 429, True),
    (11500, CredentialRefused, 401, False),
    (11501, ProviderRefused, 502, True),
    (99999, ProviderRefused, 502, True),
]
