"""The model on this machine: to the router one more OpenAI-compatible endpoint, metered by its CPU time."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from langchain_openai.chat_models.base import BaseChatOpenAI

from config.catalogue import ModelEntry
from core.http_client import HttpClient
from services.llm.providers.openai_compatible import openai_adapter, openai_endpoint, stream_openai
from services.llm.providers.provider import Delta, ModelCall
from services.local_models.runtime import LocalRuntime


@dataclass(slots=True)
class Local:
    """Serves the one model of its runtime; the catalogue's other local models say how to become that one."""

    name: str
    http: HttpClient
    runtime: LocalRuntime | None
    model_id: str | None
    start_timeout_s: float
    stall_timeout_s: float
    context_limit: int
    _adapters: dict[str, BaseChatOpenAI] = field(default_factory=dict)

    def unavailable_reason(self, model: ModelEntry, credential: Any = None) -> str | None:
        if self.runtime is None or model.id != self.model_id:
            return f"the local model is {self.model_id or 'none'!r}: set LOCAL_MODEL={model.id} to serve this one"
        if self.runtime.state in {"absent", "failed"}:
            return self.runtime.reason or f"the local model {model.id!r} did not start"
        return None

    def unsupported_parameter(self, model: ModelEntry, parameters: Mapping[str, Any]) -> str | None:
        return None  # What it does not take, it refuses itself.

    def context_tokens(self, model: ModelEntry) -> int:
        return min(model.context.tokens, self.context_limit)

    async def stream(self, call: ModelCall) -> AsyncGenerator[Delta]:
        runtime = self.runtime
        if runtime is None:
            return
        base_url = await runtime.base_url(self.start_timeout_s)
        adapter = self._adapters.get(call.model.id)
        if adapter is None:
            adapter = self._adapters[call.model.id] = openai_adapter(call.model.name_on_wire, is_openai=False)
        endpoint = openai_endpoint(self.name, base_url, runtime.api_key, self.stall_timeout_s)
        try:
            async with (
                runtime.metered() as meter,
                aclosing(stream_openai(self.http, endpoint, adapter, call)) as deltas,
            ):
                async for delta in deltas:
                    yield delta
        finally:
            # Also reached when the client hangs up: the CPU has been spent all the same.
            call.local_work = meter.work
