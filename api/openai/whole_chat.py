"""A chat completion that is answered whole: the fold of its runs' events."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from api.openai.consumption import Consumption
from api.openai.finish_reason import finish_reason_of
from domain.runs import ModelDelta
from services.llm.vendor_fields import merged

OWN_KEYS = frozenset({"index", "id", "type", "function"})


@dataclass(slots=True)
class WholeChoice:
    """Gathers one choice."""

    index: int
    texts: list[str] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    """What the message says beside its text: reasoning, a refusal, and what only its vendor knows."""
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    logprobs: dict[str, list[Any]] | None = None
    reason: str | None = None

    def add(self, delta: ModelDelta) -> None:
        """A rare piece."""
        self.reason = delta.finish_reason or self.reason
        self.fields = merged(self.fields, {key: delta.content[key] for key in delta.content if key != "tool_calls"})
        for fragment in delta.content.get("tool_calls", ()):
            self._add_to_call(fragment)
        if isinstance(delta.logprobs, Mapping):
            self._add_logprobs(delta.logprobs)

    def content(self) -> dict[str, Any]:
        """The choice as the answer has it."""
        reason = finish_reason_of(self.reason, has_tool_calls=bool(self.calls))
        return {"index": self.index, "message": self._message(), "logprobs": self.logprobs, "finish_reason": reason}

    def _message(self) -> dict[str, Any]:
        text = "".join(self.texts)
        refusal = self.fields.get("refusal")
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if not text and (self.calls or refusal) else text,
            "refusal": refusal,
            **{key: value for key, value in self.fields.items() if key != "refusal"},
        }
        if self.calls:
            message["tool_calls"] = [self.calls[index] for index in sorted(self.calls)]
        return message

    def _add_to_call(self, fragment: Mapping[str, Any]) -> None:
        call = self.calls.setdefault(
            fragment["index"], {"id": None, "type": "function", "function": {"name": "", "arguments": ""}}
        )
        function, more = call["function"], dict(fragment["function"])
        call["id"] = call["id"] or fragment.get("id") or f"call_{uuid4().hex}"
        function["name"] += more.pop("name", "")
        function["arguments"] += more.pop("arguments", "")
        call["function"] = merged(function, more)
        call |= merged(call, {key: value for key, value in fragment.items() if key not in OWN_KEYS})

    def _add_logprobs(self, logprobs: Mapping[str, Any]) -> None:
        gathered = self.logprobs = self.logprobs or {"content": [], "refusal": []}
        for name in gathered:
            gathered[name] += logprobs.get(name) or []


def whole_chat(choices: list[WholeChoice], consumption: Consumption) -> dict[str, Any]:
    """The body of the answer."""
    first, report = consumption.finished[0], consumption.report()
    return {
        "id": f"chatcmpl-{first.run_id.hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": first.model,
        "choices": [choice.content() for choice in choices],
        "usage": consumption.usage(report),
        **consumption.told_by_provider(),
        "impact": consumption.impact(report),
    }
