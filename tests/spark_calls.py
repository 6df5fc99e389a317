"""Calls to Spark as the router makes them, with the fake server's credentials."""

from collections.abc import Sequence
from contextlib import aclosing
from datetime import date
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from config.catalogue import Capabilities, ContextWindow, ModelEntry
from services.llm.message import WholeMessage
from services.llm.providers.provider import Delta, ModelCall
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
    return Spark(**{**settings, "stall_timeout_s": 2.0, "connect_timeout_s": 2.0, **changed})


def call(messages: Sequence[BaseMessage] | str = "Hi", entry: ModelEntry | None = None, **parameters: Any) -> ModelCall:
    asked = [HumanMessage(messages)] if isinstance(messages, str) else list(messages)
    return ModelCall(entry or model(), asked, parameters)


async def deltas_of(provider: Spark, asked: ModelCall) -> list[Delta]:
    async with aclosing(provider.stream(asked)) as deltas:
        return [delta async for delta in deltas]


async def answer(provider: Spark, asked: ModelCall) -> AIMessage:
    whole = WholeMessage()
    for delta in await deltas_of(provider, asked):
        whole.add(delta)
    message = whole.generation().message
    assert isinstance(message, AIMessage)
    return message
