"""One answer in OpenAI's form, whatever endpoint it comes from: its rare events, repaired where they need it.

An event that needs no repair comes out as the same object. Plain pieces of text never come here.
"""

from collections.abc import Collection
from typing import Any

from domain.errors import ProviderCut
from services.llm.providers.error_bodies import error_in
from services.llm.providers.finish_reasons import finish_reason_of, is_failure
from services.llm.providers.surrogates import Halves, joined
from services.llm.providers.tool_calls import ToolCalls

TEXTS = ("content", "reasoning_content", "reasoning", "refusal")


class Normaliser:
    """Holds what must be known of the events before. `finished`: a finish reason was seen."""

    __slots__ = (
        "_by_messages",
        "_calls",
        "_halves",
        "_has_spoken",
        "_is_doubtful",
        "_provider",
        "_reason",
        "_reason_due",
        "choice_index",
        "ended_with_text",
        "finished",
        "has_begun",
    )

    def __init__(self, provider: str, tools: Collection[str] | None = None) -> None:
        self._provider = provider
        self._calls = ToolCalls(provider, tools)
        self._halves: dict[str, Halves] = {}
        self._by_messages = False
        self.has_begun = False
        self._has_spoken = False
        self._is_doubtful = False
        self._reason: str | None = None
        self._reason_due = False
        self.choice_index: int | None = None
        self.ended_with_text = False
        self.finished = False

    @property
    def is_settled(self) -> bool:
        """Whether nothing but usage may follow. Some endpoints repeat a finish reason on every event: then no reason
        means the end, and text may still come."""
        return self.finished and not self._is_doubtful

    @property
    def holds_half(self) -> bool:
        """Whether half a character waits for the rest."""
        in_text = bool(self._halves) and any(halves.held for halves in self._halves.values())
        return in_text or (self._calls.seen and self._calls.holds_half)

    @property
    def reads_all(self) -> bool:
        """Whether the next event must come here, plain or not."""
        return bool(self.choice_index) or self.holds_half

    def saw_text(self) -> None:
        """Text came in an event that says nothing else."""
        self.has_begun = self._has_spoken = True
        self._is_doubtful = self._is_doubtful or self.finished

    def event(self, parsed: dict[str, Any]) -> dict[str, Any]:
        """The event in OpenAI's form. Raises the provider's failure that it tells of."""
        if (failure := error_in(self._provider, parsed)) is not None:
            raise failure
        choices = parsed.get("choices")
        if not choices:
            if self.finished and parsed.get("usage"):
                # Usage beside no choice is the last event of a stream.
                self._is_doubtful = False
            return parsed
        own = self._own(choices)
        if own is None:
            return {**parsed, "choices": []}
        choice = self._choice(own)
        if self.finished and parsed.get("usage") and "message" in own and "delta" not in own:
            # Nothing is missing from it: it is an answer in one piece, in a stream of one event.
            self._is_doubtful = self.ended_with_text = False
        return parsed if choice is choices[0] and len(choices) == 1 else {**parsed, "choices": [choice]}

    def _own(self, choices: Any) -> dict[str, Any] | None:
        """One answer is requested, the first choice that comes: another one would be glued to it."""
        own: dict[str, Any] | None = None
        for choice in choices if isinstance(choices, list) else [None]:
            if not isinstance(choice, dict):
                raise ProviderCut(f"{self._provider} sent choices that are not objects", retryable=True)
            if own is None:
                index = choice.get("index")
                if self.choice_index is None and isinstance(index, int):
                    self.choice_index = index
                own = choice if not isinstance(index, int) or index == self.choice_index else None
        return own

    def close(self) -> None:
        """The form of the answer has ended it: something that was complete needs no finish reason to be an answer."""
        if not self.finished and (self._has_spoken or self._calls.seen) and not self._calls.has_half:
            self.finished = self._reason_due = True

    def end(self) -> dict[str, Any] | None:
        """What was held back, as a last event. Raises `ProviderCut` for what makes no sense without the rest."""
        delta: dict[str, Any] = {name: rest for name, halves in self._halves.items() if (rest := halves.rest())}
        if self._calls.seen and (calls := self._calls.end()):
            delta["tool_calls"] = calls
        reason = ("tool_calls" if self._calls.seen else "stop") if self._reason_due and self._reason is None else None
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]} if delta or reason else None

    def _choice(self, choice: dict[str, Any]) -> dict[str, Any]:
        given = self._delta_of(choice)
        delta = self._texts(given)
        called = self._tool_calls(delta)
        if is_failure(word := choice.get("finish_reason")):
            raise ProviderCut(
                f"{self._provider} could not finish its answer: {joined(str(word))[:100]}", retryable=True
            )
        reason = finish_reason_of(choice.get("finish_reason"), has_tool_calls=self._calls.seen)
        if reason is None and self._reason == "stop" and self._calls.seen:
            reason = "tool_calls"
        delta = _with_calls(delta, called)
        self._note_end(reason, has_content=_has_content(delta))
        if reason is not None and self._calls.seen and (empty := self._calls.settle()):
            # They came before, and waited: the reason has not come with them.
            delta = {**delta, "tool_calls": called + empty}
        if delta is choice.get("delta") and reason == choice.get("finish_reason"):
            return choice
        rest = {key: value for key, value in choice.items() if key not in ("message", "text")}
        return {**rest, "delta": delta, "finish_reason": reason}

    def _delta_of(self, choice: dict[str, Any]) -> dict[str, Any]:
        """A message that came whole, and the text of an old completion, are a delta that says it all."""
        delta = choice.get("delta")
        if delta is None:
            delta = self._message_of(choice)
        if delta is None and isinstance(choice.get("text"), str):
            delta = {"content": choice["text"]}
        if delta is None:
            delta = {}
        if not isinstance(delta, dict):
            raise ProviderCut(f"{self._provider} sent a choice without a message", retryable=True)
        return delta

    def _message_of(self, choice: dict[str, Any]) -> Any:
        """The message of a choice, without the text that has come in deltas before: it then sums the answer up."""
        message = choice.get("message")
        if not self._has_spoken:
            self._by_messages = True
        if isinstance(message, dict) and not self._by_messages:
            return {key: value for key, value in message.items() if key not in TEXTS}
        return message

    def _texts(self, delta: dict[str, Any]) -> dict[str, Any]:
        """The delta with whole characters, and with blocks of content split: text, and thoughts."""
        content = delta.get("content")
        if content is not None and not isinstance(content, str):
            text, thoughts = _of_blocks(content)
            if text is None:
                raise ProviderCut(f"{self._provider} sent a content that cannot be read", retryable=True)
            delta = {**delta, "content": text}
            if thoughts:
                delta["reasoning_content"] = thoughts
        for name in TEXTS:
            piece = delta.get(name)
            if not isinstance(piece, str) or (piece.isascii() and name not in self._halves):
                continue
            halves = self._halves.setdefault(name, Halves())
            if (whole := halves.join(piece)) != piece:
                delta = {**delta, name: whole}
        return delta

    def _tool_calls(self, delta: dict[str, Any]) -> list[dict[str, Any]]:
        fragments = delta.get("tool_calls")
        if fragments:
            return self._calls.normalise(fragments)
        if isinstance(function := delta.get("function_call"), dict) and function:
            return self._calls.normalise([{"function": function}])
        return []

    def _note_end(self, reason: str | None, *, has_content: bool) -> None:
        if has_content:
            # After a finish reason, or with one from the start: it does not mean the end here.
            self._is_doubtful = self._is_doubtful or self.finished or (reason is not None and not self._has_spoken)
        elif reason is not None and not self.finished:
            self._is_doubtful = not self.has_begun
        if reason is None:
            self.has_begun = True
            self._has_spoken = self._has_spoken or has_content
            return
        self._reason = reason
        # A reason that is repeated without text takes nothing back of what the first one left open.
        self.ended_with_text = has_content or (self.finished and self.ended_with_text)
        self.finished = True


def _with_calls(delta: dict[str, Any], called: list[dict[str, Any]]) -> dict[str, Any]:
    given = delta.get("tool_calls")
    if delta.get("function_call"):
        delta = {key: value for key, value in delta.items() if key != "function_call"}
    if not given and not called:
        return delta
    return delta if called == given else {**delta, "tool_calls": called}


def _has_content(delta: dict[str, Any]) -> bool:
    given = delta.get
    return bool(
        given("content") or given("tool_calls") or given("reasoning_content") or given("reasoning") or given("refusal")
    )


def _of_blocks(content: Any) -> tuple[str | None, str]:
    """Text and thoughts of a content in blocks; the text is `None` when they are none."""
    blocks = [content] if isinstance(content, dict) else content
    if not isinstance(blocks, list):
        return None, ""
    texts: list[str] = []
    thoughts: list[str] = []
    for block in blocks:
        if isinstance(block, str):
            texts.append(block)
        elif not isinstance(block, dict):
            return None, ""
        elif isinstance(block.get("text"), str):
            texts.append(block["text"])
        elif (thinking := block.get("thinking")) is not None:
            thoughts.append(thinking if isinstance(thinking, str) else _of_blocks(thinking)[0] or "")
    return "".join(texts), "".join(thoughts)
