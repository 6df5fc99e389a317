"""OpenAI's events, read fast: plain text pieces in batches, anything rare as its parsed object.

A token costs what this file costs: one `orjson.loads` and a few comparisons. Vendor classes see only the rare objects.
"""

import json
from collections.abc import Collection
from typing import Any

import orjson

from domain.errors import ProviderCut, RouteurError
from services.llm.providers.body_forms import (
    BYTE_ORDER_MARK,
    Form,
    contents_of,
    form_of,
    is_object,
    with_line_feeds,
    words_of_page,
)
from services.llm.providers.error_bodies import error_in
from services.llm.providers.normaliser import Normaliser
from services.llm.providers.plain_text import plain_text
from services.llm.providers.quirks import AS_OPENAI, Quirks
from services.llm.providers.surrogates import encodable, text_of

MAX_EVENT_BYTES = 4_000_000
"""An event longer than this is not an answer: the stream is given up before it fills the memory."""

TRIAL_CONTENT = "a content that stands nowhere else: 7d0c51"
"""Put into a surrounding that is about to be learnt, to see it come out again as the content."""


class Decoder:
    """Cuts bytes into events and events into deltas; `normaliser` knows how far the answer has come.

    What the bytes are is read from them and not from their label: events, or JSON in one piece. `failure` is what the
    provider did wrong: to be raised once the deltas that came before it have been passed on. `is_cut`, at the end: all
    that came was read, and it is the rest that is missing.
    """

    __slots__ = (
        "_after",
        "_before",
        "_candidate",
        "_form",
        "_is_odd",
        "_news",
        "_notes_text",
        "_pending",
        "_provider",
        "_quirks",
        "_reads_events",
        "_refusal_in",
        "_saw_event",
        "content_type",
        "done",
        "failure",
        "is_cut",
        "normaliser",
    )

    def __init__(self, provider: str, quirks: Quirks = AS_OPENAI, *, tools: Collection[str] | None = None) -> None:
        self._provider = provider
        self._quirks = quirks
        self._refusal_in = quirks.refusal_in
        self._pending = b""
        self._news = False
        self._form: Form | None = None
        self._reads_events = False
        self._saw_event = False
        self._before = b""
        self._after = b""
        self._candidate = (b"", b"")
        # The last event held half a character, or what only the lenient parser reads.
        self._is_odd = False
        self._notes_text = True
        self.normaliser = Normaliser(provider, tools)
        self.content_type = "nothing known"
        self.failure: RouteurError | None = None
        self.is_cut = False
        self.done = False

    @property
    def finished(self) -> bool:
        """Whether the answer is one when nothing more comes."""
        return self.normaliser.finished

    @property
    def is_settled(self) -> bool:
        """Whether nothing but usage may follow: then whatever happens to the connection, the answer stands."""
        return self.finished and (self.done or self.normaliser.is_settled)

    def take_news(self) -> bool:
        """Whether an event, and not only comments, came since the last question."""
        news, self._news = self._news, False
        return news

    def feed(self, received: bytes) -> list[list[str] | dict[str, Any]]:
        """The deltas that these bytes complete: runs of text pieces joined in lists, rare objects between."""
        data = self._pending + received if self._pending else received
        deltas: list[list[str] | dict[str, Any]] = []
        try:
            if not self._reads_events:
                if not self._is_of_events(data, deltas):
                    return deltas
                data = self._pending
            if b"\r" in data:
                data = with_line_feeds(data)
            events = data.split(b"\n\n")
            self._pending = events.pop()
            if not events and b"\ndata:" in self._pending:
                events = self._lines_that_are_events()
            self._read(events, deltas)
            if len(self._pending) > MAX_EVENT_BYTES:
                raise self._too_large()
        except RouteurError as failure:
            self.failure = failure
        return deltas

    def end(self) -> list[list[str] | dict[str, Any]]:
        """The deltas that the end of the body completes: its last event may lack the blank line."""
        deltas: list[list[str] | dict[str, Any]] = []
        rest, self._pending = self._pending.replace(b"\r", b"\n").strip(b"\n"), b""
        try:
            if self._form == "json" and not self.done:
                self._read_json(rest, deltas)
            elif rest and not self.done:
                self._read_last(rest, deltas)
            self.is_cut = True
            if (held := self.normaliser.end()) is not None:
                deltas.append(held)
            if not self.finished:
                raise self._unfinished(rest)
        except RouteurError as failure:
            self.failure = failure
            self.is_cut = self.is_cut or isinstance(failure, _NotJson)
        return deltas

    def whole(self, body: bytes) -> list[list[str] | dict[str, Any]]:
        """The deltas of a body that has been read to its end. Raises what is wrong with it."""
        deltas = self.feed(body)
        deltas += self.end() if self.failure is None else []
        if self.failure is not None:
            raise self.failure
        return deltas

    def _is_of_events(self, data: bytes, deltas: list[list[str] | dict[str, Any]]) -> bool:
        """Whether the body is one of events, as its first bytes show; keeps, and where it can reads, what is none."""
        if self._form is None:
            data = data.removeprefix(BYTE_ORDER_MARK).lstrip()
            self._form = form_of(data)
        self._pending = data
        if self._form == "json":
            self._news = True
            if len(data) > MAX_EVENT_BYTES:
                raise self._too_large()
            if data.rstrip().endswith(b"}"):
                self._read_json_that_is_whole(data, deltas)
        elif self._form == "page":
            raise self._no_answer(words_of_page(data))
        self._reads_events = self._form == "events"
        return self._reads_events

    def _read_json_that_is_whole(self, data: bytes, deltas: list[list[str] | dict[str, Any]]) -> None:
        """A body of one object may keep its connection open: it has ended when the object has."""
        try:
            parsed = orjson.loads(data)
        except orjson.JSONDecodeError:
            return
        choices = parsed.get("choices") if isinstance(parsed, dict) else None
        if isinstance(choices, list) and choices and isinstance(choices[0], dict) and "message" in choices[0]:
            self._read_object(parsed, deltas, is_whole=True)
            self._pending = b""

    def _read_json(self, body: bytes, deltas: list[list[str] | dict[str, Any]]) -> None:
        """One object, or several one after the other, or events after it: `{…} data: [DONE]`."""
        while body:
            if body.startswith(b"data:") or body.strip() == b"[DONE]":
                self._read((body if body.startswith(b"data:") else b"data: " + body).split(b"\n\n"), deltas)
                return
            parsed, body = self._first_object(body)
            for each in parsed if isinstance(parsed, list) and parsed else [parsed]:
                self._read_object(each, deltas, is_whole=True)

    def _first_object(self, body: bytes) -> tuple[Any, bytes]:
        try:
            return orjson.loads(body), b""
        except orjson.JSONDecodeError:
            pass
        try:
            text = text_of(body)
            parsed, length = json.JSONDecoder(strict=False).raw_decode(text)
        except (ValueError, RecursionError) as error:
            raise self._not_json(body) from error
        self._is_odd = True
        return parsed, text[length:].lstrip().encode("utf-8", "surrogateescape")

    def _read_object(self, parsed: Any, deltas: list[list[str] | dict[str, Any]], *, is_whole: bool) -> None:
        """Add what an object says that came outside the plain way."""
        parsed = self._checked(parsed)
        choices = parsed.get("choices")
        if is_whole and isinstance(choices, list):
            for choice in choices:
                if isinstance(choice, dict) and not choice.keys() & {"message", "delta", "text"}:
                    raise ProviderCut(f"{self._provider} sent a choice without a message", retryable=True)
        normal = self._normal(parsed)
        if normal.get("choices") or normal.get("usage"):
            deltas.append(normal)
        if is_whole and choices and (not self._quirks.gives_finish_reason or "message" in choices[0]):
            self._saw_end()

    def _saw_end(self) -> None:
        """The provider has ended its answer by its form, with a finish reason or not."""
        self.done = True
        if self._quirks.gives_finish_reason:
            self.normaliser.close()
        else:
            self.normaliser.finished = True

    def _read_last(self, rest: bytes, deltas: list[list[str] | dict[str, Any]]) -> None:
        """The event that no blank line ends. Half of one after the finish reason is of no interest."""
        settled = self.is_settled
        try:
            self._read([rest], deltas)
        except _NotJson:
            if not settled:
                raise

    def _read(self, events: list[bytes], deltas: list[list[str] | dict[str, Any]]) -> None:  # noqa: C901, PLR0912 - one loop on purpose: a call an event would cost as much as reading it
        """Add the events' deltas; those before a failure too."""
        texts: list[str] = []
        before, after = (b"", b"") if self._is_odd else (self._before, self._after)
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
            if parsed.__class__ is not dict:
                if parsed is not None:
                    self._read(parsed, deltas)
                    texts = []
                continue
            self._news = True
            piece = plain_text(parsed)
            if piece is None or self._is_odd:
                normal = self._normal(parsed)
                before, after = (b"", b"") if self._is_odd else (self._before, self._after)
                piece = None if normal is parsed else plain_text(normal)
                if piece is None:
                    deltas.append(normal)
                    texts = []
                    continue
            else:
                self.normaliser.choice_index = 0
                if piece:
                    self._learn(event, piece)
                    before, after = self._before, self._after
            if piece:
                if self._notes_text:
                    self._notes_text = False
                    self.normaliser.saw_text()
                if not texts:
                    deltas.append(texts)
                texts.append(piece)

    def _normal(self, parsed: dict[str, Any]) -> dict[str, Any]:
        """The object in OpenAI's form, with nothing in it that an encoder refuses."""
        try:
            normal = self.normaliser.event(parsed)
            if self._is_odd:
                normal = encodable(normal)
        except RecursionError as error:
            raise ProviderCut(f"{self._provider} sent an event that is nested too deep", retryable=True) from error
        self._is_odd = self.normaliser.reads_all
        if self.normaliser.finished:
            # Text that still comes must be seen to come after the finish reason.
            self._before = self._after = b""
            self._notes_text = True
        return normal

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
        if isinstance(trial, dict) and plain_text(trial) == TRIAL_CONTENT:
            self._before, self._after = template

    def _parse(self, event: bytes) -> Any:
        """The object of an event; `None` where it only keeps the line open; a list where it is several events."""
        if event.startswith(b"data: ") and b"\n" not in event:
            content = event[6:]
        else:
            contents, error = contents_of(event)
            if error is not None:
                raise self._failure_of(error)
            if len(contents) > 1:
                return [b"data: " + each for each in contents]
            content = contents[0]
        if not content:
            return None
        if not content.startswith(b"{") and content.strip() == b"[DONE]":
            self._saw_end()
            return None
        try:
            parsed = orjson.loads(content)
        except orjson.JSONDecodeError:
            parsed = self._parse_leniently(content)
        if self._refusal_in is None and parsed.__class__ is dict:
            self._saw_event = True
            return parsed
        return self._checked(parsed)

    def _checked(self, parsed: Any) -> dict[str, Any]:
        self._saw_event = True
        if isinstance(parsed, list) and len(parsed) == 1:
            parsed = parsed[0]
        if not isinstance(parsed, dict):
            raise ProviderCut(f"{self._provider} sent an event that is not an object", retryable=True)
        if self._refusal_in is not None and (refused := self._refusal_in(parsed, 200)) is not None:
            raise refused
        return parsed

    def _failure_of(self, content: bytes) -> RouteurError:
        """What an error says that is one by its label: an object, or words."""
        try:
            reason = encodable(json.loads(text_of(content)))
        except (ValueError, RecursionError):
            reason = content.decode("utf-8", "replace")
        if isinstance(reason, list) and len(reason) == 1:
            reason = reason[0]
        named = reason if isinstance(reason, dict) and reason.get("error") else {"error": reason or "no reason"}
        own = self._refusal_in(named, 200) if self._refusal_in is not None else None
        failure = own or (error_in(self._provider, reason) if isinstance(reason, dict) else None)
        failure = failure or error_in(self._provider, named)
        return failure or ProviderCut(f"{self._provider} failed in mid-answer", retryable=True)

    def _lines_that_are_events(self) -> list[bytes]:
        """The complete lines of what is pending, when each is an event: some send no blank lines between them."""
        *lines, last = self._pending.split(b"\n")
        if not is_object(lines[0].removeprefix(b"data:")):
            return []
        self._pending = last
        return lines

    def _parse_leniently(self, content: bytes) -> Any:
        """Halves of surrogate pairs are legal in JSON's escapes, and halves of characters in UTF-8 are sent in its
        strings; orjson refuses both, the normaliser joins them."""
        try:
            parsed = json.loads(text_of(content))
        except (ValueError, RecursionError) as error:
            raise self._not_json(content) from error
        self._is_odd = True
        return parsed

    def _not_json(self, content: bytes) -> ProviderCut:
        words = " ".join(content[:200].decode("utf-8", "replace").split())
        return _NotJson(f"{self._provider} sent an event that is not JSON: {words}", retryable=True)

    def _unfinished(self, rest: bytes) -> ProviderCut:
        words = " ".join(rest[:200].decode("utf-8", "replace").split())
        if not self._saw_event and not self.done:
            return self._no_answer(words or "nothing")
        more = f": {words}" if words and not rest.startswith((b"data", b"event", b"id", b":")) else ""
        return ProviderCut(f"{self._provider} ended its answer without a finish reason{more}", retryable=True)

    def _no_answer(self, words: str) -> ProviderCut:
        label = self.content_type[:80]
        return ProviderCut(f"{self._provider} answered {label!r} where an answer was due: {words}", retryable=True)

    def _too_large(self) -> ProviderCut:
        return ProviderCut(f"{self._provider} sent an event of over {MAX_EVENT_BYTES} bytes", retryable=False)


class _NotJson(ProviderCut):
    """Half an event, or none at all."""
