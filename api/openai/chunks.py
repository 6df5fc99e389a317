"""The chunks of a streamed chat completion. What repeats from token to token is encoded once a choice."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from api.json_response import encoded, encoded_texts
from api.openai.consumption import Consumption
from api.openai.finish_reason import finish_reason_of
from domain.runs import ModelDelta

DONE = b"data: [DONE]\n\n"
CONTENT_MARK = "here stands the text of the token: 51c0d7"
"""Encoded once in the place of the text, to see what stands before and after it."""


@dataclass(slots=True)
class _Choice:
    """What one choice's chunks depend on. `before` and `after` surround the text of a token."""

    index: int
    before: bytes = b""
    after: bytes = b""
    has_begun: bool = False
    held: list[str] = field(default_factory=list)
    reason: str | None = None
    calls: set[int] = field(default_factory=set)


class ChatChunks:
    """Encodes the events of an answer's runs. Id, date and model are those of its first event throughout."""

    def __init__(self, choices: int, *, include_usage: bool, with_logprobs: bool) -> None:
        self._choices = [_Choice(index) for index in range(choices)]
        self._head: dict[str, Any] = {}
        self._include_usage = include_usage
        # A token and its log probabilities come apart, one after the other, and go out together.
        self._holds_text = with_logprobs

    def start(self, run_id: UUID) -> None:
        """The first run was accepted."""
        if not self._head:
            self._head = {
                "id": f"chatcmpl-{run_id.hex}",
                "object": "chat.completion.chunk",
                "created": int(time.time()),
                "model": None,
            }

    def tokens(self, index: int, pieces: list[str], model: str) -> bytes:
        """One chunk a piece, joined for a single write; nothing while the text waits for its log probabilities."""
        choice = self._choices[index]
        if self._holds_text:
            choice.held += pieces
            return b""
        begin = b"" if choice.has_begun else self._begin(choice, model)
        texts = (choice.after + choice.before).join(encoded_texts(pieces))
        return begin + choice.before + texts + choice.after

    def delta(self, index: int, delta: ModelDelta) -> bytes:
        """A rare piece; nothing when it only says why the choice ends, which its last chunk will."""
        choice = self._choices[index]
        choice.reason = delta.finish_reason or choice.reason
        content = dict(delta.content)
        if fragments := content.get("tool_calls"):
            content["tool_calls"] = [_with_its_id(fragment, choice.calls) for fragment in fragments]
        if choice.held:
            content["content"] = "".join(choice.held)
            choice.held = []
        if not content and delta.logprobs is None:
            return b""
        if not choice.has_begun:
            self._begin(choice, delta.model)
            content = {"role": "assistant", "content": None, **content}
        return self._chunk(choice, content, logprobs=delta.logprobs)

    def ended(self, index: int, reason: str | None) -> None:
        """The choice's run says why it ended; a model's own last delta has said so already."""
        choice = self._choices[index]
        choice.reason = choice.reason or reason

    def finish(self, index: int, model: str) -> bytes:
        """The choice's last chunk, unless more is to be said with it: see `last`."""
        return self._rest(self._choices[index], model) + self._finish(self._choices[index], {})

    def last(self, index: int, model: str, consumption: Consumption) -> bytes:
        """The last choice's last chunk, usage where it was asked for, what it all consumed, and the end."""
        choice = self._choices[index]
        rest = self._rest(choice, model)
        report = consumption.report()
        more = {**consumption.told_by_provider(), "impact": consumption.impact(report)}
        if not self._include_usage:
            return rest + self._finish(choice, more) + DONE
        usage = {**self._head, "choices": [], "usage": consumption.usage(report), **more}
        return rest + self._finish(choice, {}) + _event(usage) + DONE

    def _begin(self, choice: _Choice, model: str) -> bytes:
        """The first chunk of a choice, which alone names the role; it fixes what surrounds the text of the others."""
        if self._head["model"] is None:
            self._head["model"] = model
        choice.has_begun = True
        token = self._chunk(choice, {"content": CONTENT_MARK})
        choice.before, _, choice.after = token.partition(encoded(CONTENT_MARK))
        return self._chunk(choice, {"role": "assistant", "content": ""})

    def _rest(self, choice: _Choice, model: str) -> bytes:
        """What is still to be said of a choice: its held text, or that it says nothing."""
        begin = b"" if choice.has_begun else self._begin(choice, model)
        if not choice.held:
            return begin
        text, choice.held = "".join(choice.held), []
        return begin + self._chunk(choice, {"content": text})

    def _finish(self, choice: _Choice, more: Mapping[str, Any]) -> bytes:
        reason = finish_reason_of(choice.reason, has_tool_calls=bool(choice.calls))
        return self._chunk(choice, {}, reason=reason, more=more)

    def _chunk(
        self,
        choice: _Choice,
        delta: Mapping[str, Any],
        *,
        logprobs: Any = None,
        reason: str | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> bytes:
        content = {"index": choice.index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        usage = {"usage": None} if self._include_usage else {}
        return _event({**self._head, "choices": [content], **usage, **(more or {})})


def failure(error: Mapping[str, Any], consumption: Consumption) -> bytes:
    """An error after the first byte, and what was consumed: the last event, which no `[DONE]` follows."""
    impact = consumption.impact(consumption.report()) if consumption.finished else None
    return _event({"error": error, "impact": impact})


def _with_its_id(fragment: Mapping[str, Any], seen: set[int]) -> Mapping[str, Any]:
    """The first fragment of a call has an id: results are sent back under it, and some endpoints give none."""
    index = fragment["index"]
    if index in seen:
        return fragment
    seen.add(index)
    call_id = fragment.get("id") or f"call_{uuid4().hex}"
    return {**fragment, "index": index, "id": call_id, "type": "function"}


def _event(content: Mapping[str, Any]) -> bytes:
    return b"data: " + encoded(content) + b"\n\n"
