"""OpenAI's events, read fast: plain text pieces in batches, anything rare as its parsed object.

A token costs what this file costs: one `orjson.loads` and a few comparisons. Vendor classes see only the rare objects.
"""

import json
from typing import Any

import orjson

from domain.errors import ProviderCut, RouteurError
from services.llm.providers.quirks import AS_OPENAI, Quirks
from services.llm.providers.refusals import words_of

MAX_EVENT_BYTES = 4_000_000
"""An event longer than this is not an answer: the stream is given up before it fills the memory."""

TRIAL_CONTENT = "a content that stands nowhere else: 7d0c51"
"""Put into a surrounding that is about to be learnt, to see it come out again as the content."""

FINISH_REASONS_OF_FAILURE = ("error",)
"""Mistral closes an answer that it could not finish so."""


class Decoder:
    """Cuts bytes into events and events into deltas; remembers whether a finish reason was seen.

    `failure` is what the provider did wrong: to be raised once the deltas that came before it have been passed on.
    """

    __slots__ = (
        "_after",
        "_before",
        "_candidate",
        "_news",
        "_pending",
        "_provider",
        "_quirks",
        "_refusal_in",
        "done",
        "failure",
        "finished",
    )

    def __init__(self, provider: str, quirks: Quirks = AS_OPENAI) -> None:
        self._provider = provider
        self._quirks = quirks
        self._refusal_in = quirks.refusal_in
        self._pending = b""
        self._news = False
        # What stands before and after the content of a plain piece; see `_learn`.
        self._before = b""
        self._after = b""
        self._candidate = (b"", b"")
        self.failure: RouteurError | None = None
        self.done = False
        self.finished = False

    def take_news(self) -> bool:
        """Whether an event, and not only comments, came since the last question."""
        news, self._news = self._news, False
        return news

    def feed(self, received: bytes) -> list[list[str] | dict[str, Any]]:
        """The deltas that these bytes complete: runs of text pieces joined in lists, rare objects between."""
        data = self._pending + received if self._pending else received
        if b"\r" in data:
            # JSON escapes carriage returns, so raw ones are line ends; a lone last one waits for its line feed.
            data = data.replace(b"\r\n", b"\n")
        events = data.split(b"\n\n")
        self._pending = events.pop()
        deltas: list[list[str] | dict[str, Any]] = []
        try:
            self._read(events, deltas)
            if len(self._pending) > MAX_EVENT_BYTES:
                raise ProviderCut(f"{self._provider} sent an event of over {MAX_EVENT_BYTES} bytes", retryable=False)
        except RouteurError as failure:
            self.failure = failure
        return deltas

    def whole(self, body: bytes) -> dict[str, Any]:
        """An answer that came in one piece, as the one chunk that says it all: its messages are its deltas."""
        if len(body) > MAX_EVENT_BYTES:
            raise ProviderCut(f"{self._provider} sent an answer of over {MAX_EVENT_BYTES} bytes", retryable=False)
        parsed = self._parse(b"data: " + body.replace(b"\n", b" "))
        if parsed is None:
            raise ProviderCut(f"{self._provider} sent an empty answer", retryable=True)
        choices = parsed.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            message = choice.pop("message", None) if isinstance(choice, dict) else None
            if not isinstance(message, dict):
                raise ProviderCut(f"{self._provider} sent a choice without a message", retryable=True)
            choice["delta"] = {**message, "tool_calls": self._numbered(message.get("tool_calls"))}
        self._note_rare(parsed)
        if not self.finished and (self._quirks.gives_finish_reason or not choices):
            raise ProviderCut(f"{self._provider} ended its answer without a finish reason", retryable=True)
        return parsed

    def _numbered(self, calls: Any) -> list[dict[str, Any]]:
        """Tool calls as the fragments of a stream, which say where they stand."""
        return [{**call, "index": index} for index, call in enumerate(self._listed(calls))]

    def _listed(self, calls: Any) -> list[dict[str, Any]]:
        if isinstance(calls, dict) and not self._quirks.numbers_tool_calls:
            return [calls]
        if not isinstance(calls or [], list) or not all(isinstance(call, dict) for call in calls or ()):
            raise ProviderCut(f"{self._provider} sent tool calls that are not objects", retryable=True)
        return calls or []

    def _read(self, events: list[bytes], deltas: list[list[str] | dict[str, Any]]) -> None:  # noqa: C901 - one loop on purpose: a call an event would cost as much as reading it
        """Add the events' deltas; those before a failure too."""
        texts: list[str] = []
        before, after = self._before, self._after
        for event in events:
            if before and event.startswith(before) and event.endswith(after):
                try:
                    piece = orjson.loads(event[len(before) : -len(after)])
                except orjson.JSONDecodeError:
                    piece = None
                if piece.__class__ is str:
                    self._news = True
                    if piece:
                        if not texts:
                            deltas.append(texts)
                        texts.append(piece)
                    continue
            parsed = self._parse(event)
            if parsed is None:
                continue
            self._news = True
            piece = plain_text(parsed)
            if piece is None:
                self._note_rare(parsed)
                deltas.append(parsed)
                texts = []
                continue
            self._learn(event, piece)
            before, after = self._before, self._after
            if piece:
                if not texts:
                    deltas.append(texts)
                texts.append(piece)

    def _learn(self, event: bytes, piece: str) -> None:
        """Remember what surrounds the content of a plain piece: the next pieces mostly differ in nothing else.

        Sound because JSON is context-free: an event with the same bytes around another string literal is the same
        object with another content. That the literal is the content, and not its twin elsewhere in the object, is
        tried out with a content that is nowhere else. A surrounding is learnt when it comes twice in a row: events
        that vary elsewhere too (a padding, say) are parsed whole, without being tried each time.
        """
        before, mark, rest = event.partition(b'"content":')
        literal = orjson.dumps(piece)
        space = b" " if rest.startswith(b" ") else b""
        if not mark or not rest.startswith(space + literal):
            return
        template = (before + mark + space, rest[len(space) + len(literal) :])
        if template != self._candidate:
            self._candidate = template
            return
        trial = self._parse(template[0] + orjson.dumps(TRIAL_CONTENT) + template[1])
        if trial is not None and plain_text(trial) == TRIAL_CONTENT:
            self._before, self._after = template

    def _parse(self, event: bytes) -> dict[str, Any] | None:
        content = event[6:] if event.startswith(b"data: ") and b"\n" not in event else _data_of(event)
        if not content:
            return None
        if content == b"[DONE]":
            self.done = True
            self.finished = self.finished or not self._quirks.gives_finish_reason
            return None
        try:
            parsed = orjson.loads(content)
        except orjson.JSONDecodeError:
            parsed = self._parse_leniently(content)
        if not isinstance(parsed, dict):
            raise ProviderCut(f"{self._provider} sent an event that is not an object", retryable=True)
        if self._refusal_in is not None and (refused := self._refusal_in(parsed, 200)) is not None:
            raise refused
        return parsed

    def _parse_leniently(self, content: bytes) -> Any:
        """Halves of surrogate pairs are legal in JSON's escapes and refused by orjson: replace them."""
        try:
            text = json.dumps(json.loads(content), ensure_ascii=False)
            return orjson.loads(text.encode("utf-8", "replace"))
        except (ValueError, RecursionError) as error:
            raise ProviderCut(f"{self._provider} sent an event that is not JSON", retryable=True) from error

    def _note_rare(self, parsed: dict[str, Any]) -> None:
        if error := parsed.get("error"):
            raise ProviderCut(f"{self._provider} failed in mid-answer: {words_of(error)}", retryable=True)
        choices = parsed.get("choices") or []
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise ProviderCut(f"{self._provider} sent choices that are not objects", retryable=True)
        for choice in choices:
            if choice.get("delta") is None:
                # Some leave it out of the last choice, and the vendors' readers then see no finish reason at all.
                choice["delta"] = {}
            elif not self._quirks.numbers_tool_calls and isinstance(choice["delta"], dict):
                self._number_fragments(choice["delta"])
            reason = choice.get("finish_reason")
            if reason in FINISH_REASONS_OF_FAILURE:
                raise ProviderCut(f"{self._provider} could not finish its answer", retryable=True)
            self.finished = self.finished or bool(reason)

    def _number_fragments(self, delta: dict[str, Any]) -> None:
        """The vendors' readers pass over a fragment that does not say where it stands, and its call would be lost."""
        for index, call in enumerate(calls := self._listed(delta.get("tool_calls"))):
            if call.get("index") is None:
                call["index"] = index
        delta["tool_calls"] = calls


def _data_of(event: bytes) -> bytes:
    """The data lines of an event of the general form; comments and other fields are passed over."""
    lines = (line for line in event.split(b"\n") if line.startswith(b"data:"))
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines)


def plain_text(parsed: dict[str, Any]) -> str | None:
    """The piece of text, when the object holds nothing else worth seeing; `None` for a rare one."""
    choices = parsed.get("choices")
    if choices.__class__ is not list or len(choices) != 1 or parsed.get("usage"):
        return None
    try:
        choice = choices[0]
        if choice.get("finish_reason") is not None or choice.get("logprobs"):
            return None
        delta = choice["delta"]
        content = delta.get("content")
        if content.__class__ is not str:
            return None
        if len(delta) > 1 and any(value and key not in {"content", "role"} for key, value in delta.items()):
            return None
    except (AttributeError, KeyError, TypeError):
        return None
    return str(content)
