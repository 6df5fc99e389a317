"""OpenAI's streaming wire, read fast: plain text pieces pass in batches, anything rare as its parsed object.

A token costs what this file costs: one `orjson.loads` and a few dictionary look-ups, in batches of whatever
one read of the socket brought. Vendor classes see only the rare objects.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from core.http_client import HttpClient
from domain.errors import ProviderCut, ProviderStalled, ProviderUnreachable
from services.llm.providers.refusals import refusal, words_of

MAX_EVENT_BYTES = 4_000_000
"""An event longer than this is not an answer: the stream is given up before it fills the memory."""

MIN_RECHECK_S = 0.1
"""How soon a stalled read is looked at again when the deadline passed while the consumer was busy."""

AFTER_FINISH_S = 2.0
"""How long usage and the end may come after the finish reason; then the answer stands, its usage estimated."""

END_OF_BODY_S = 0.25
"""How long the end of the body may come after `[DONE]` before the connection is given up instead of reused."""

TRIAL_CONTENT = "a content that stands nowhere else: 7d0c51"
"""Put into a surrounding that is about to be learnt, to see it come out again as the content."""

FINISH_REASONS_OF_FAILURE = ("error",)
"""Mistral closes an answer that it could not finish so."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a call goes. Times in seconds; `stall_timeout_s` bounds the wait for each piece of news."""

    provider: str
    url: str
    headers: Mapping[str, str]
    stall_timeout_s: float


async def stream_events(
    http: HttpClient, endpoint: Endpoint, payload: Mapping[str, Any]
) -> AsyncGenerator[list[str] | dict[str, Any]]:
    """Send the payload and yield what comes: batches of text pieces, and every object that holds more.

    Raises `ProviderError` unless the stream said why it finished: a cut answer is not an answer.
    """
    decoder = _Decoder(endpoint.provider)
    with _as_provider_errors(endpoint, decoder):
        response = await _ask(http, endpoint, payload)
        watch = _StallWatch(response.content, endpoint.stall_timeout_s)
        try:
            while received := await watch.read():
                for delta in decoder.feed(received):
                    yield delta
                if decoder.failure is not None:
                    raise decoder.failure
                if decoder.done:
                    # Only the end of the body is left: reading it gives the connection back to the pool.
                    watch.allow(END_OF_BODY_S)
                elif decoder.take_news():
                    # After the finish reason only usage may follow: the caller, who has the text, is not kept waiting.
                    watch.allow(AFTER_FINISH_S if decoder.finished else endpoint.stall_timeout_s)
        finally:
            watch.stop()
            # Returns a connection whose body was read to its end, and closes one that is still talking.
            response.close()
    if not decoder.finished:
        raise ProviderCut(f"{endpoint.provider} ended its answer without a finish reason", retryable=True)


async def _ask(http: HttpClient, endpoint: Endpoint, payload: Mapping[str, Any]) -> aiohttp.ClientResponse:
    """The response, its headers read: an event stream. Raises what the provider's refusal means."""
    async with asyncio.timeout(endpoint.stall_timeout_s):
        response = await http.session.post(
            endpoint.url, data=orjson.dumps(payload), headers=endpoint.headers, proxy=http.proxy_for(endpoint.url)
        )
        try:
            if response.status != 200:
                raise await refusal(endpoint.provider, response)
            _check_is_event_stream(endpoint.provider, response)
        except BaseException:
            response.close()
            raise
    return response


@contextmanager
def _as_provider_errors(endpoint: Endpoint, decoder: "_Decoder") -> Iterator[None]:
    """What went wrong on the line, as the house's errors. After the finish reason nothing is wrong any more."""
    provider, stall_s = endpoint.provider, endpoint.stall_timeout_s
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise ProviderUnreachable(f"{provider} cannot be reached (no connection in time)", retryable=True) from error
    except TimeoutError as error:
        if not decoder.finished:
            raise ProviderStalled(f"{provider} sent nothing for {stall_s:g} s", retryable=True) from error
    except aiohttp.ClientConnectorError as error:
        reason = error.os_error.strerror or "no route"
        raise ProviderUnreachable(f"{provider} cannot be reached ({reason})", retryable=True) from error
    except (aiohttp.ClientError, OSError) as error:
        if not decoder.finished:
            raise ProviderCut(f"{provider} broke the connection: {type(error).__name__}", retryable=True) from error


@contextmanager
def reading_chunk(provider: str) -> Iterator[None]:
    """While a vendor's class reads an object: what it cannot make sense of is the provider's fault, not the agent's."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        problem = f"{provider} sent a chunk that cannot be read ({type(error).__name__})"
        raise ProviderCut(problem, retryable=True) from error


class _StallWatch:
    """Reads a body, and gives up when no news came for too long. Comments are not news.

    One timer for the whole answer, re-armed when it fires early: a timeout a read would cost as much as the read.
    Time that the consumer takes between reads does not count: a slow client is not a stalled provider.
    """

    __slots__ = ("_content", "_deadline", "_loop", "_reading", "_timer")

    def __init__(self, content: aiohttp.StreamReader, stall_s: float) -> None:
        self._content = content
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + stall_s
        self._reading = False
        self._timer = self._loop.call_at(self._deadline, self._check)

    async def read(self) -> bytes:
        """What has come since the last read; nothing at the end of the body. Raises `TimeoutError` at the deadline."""
        self._reading = True
        received = await self._content.readany()
        self._reading = False
        return received

    def allow(self, seconds: float) -> None:
        """Wait this long for the next news, from now."""
        deadline = self._loop.time() + seconds
        if deadline < self._deadline:
            self._timer.cancel()
            self._timer = self._loop.call_at(deadline, self._check)
        self._deadline = deadline

    def stop(self) -> None:
        self._timer.cancel()

    def _check(self) -> None:
        now = self._loop.time()
        if self._reading and now >= self._deadline:
            self._content.set_exception(TimeoutError())
            return
        self._timer = self._loop.call_at(max(self._deadline, now + MIN_RECHECK_S), self._check)


def _check_is_event_stream(provider: str, response: aiohttp.ClientResponse) -> None:
    content_type = response.headers.get("Content-Type", "text/event-stream")
    if not content_type.lower().startswith("text/event-stream"):
        raise ProviderCut(f"{provider} answered {content_type[:80]!r} where an event stream was due", retryable=True)


class _Decoder:
    """Cuts bytes into events and events into deltas; remembers whether a finish reason was seen.

    `failure` is what the provider did wrong: to be raised once the deltas that came before it have been passed on.
    """

    __slots__ = ("_after", "_before", "_candidate", "_news", "_pending", "_provider", "done", "failure", "finished")

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._pending = b""
        self._news = False
        # What stands before and after the content of a plain piece; see `_learn`.
        self._before = b""
        self._after = b""
        self._candidate = (b"", b"")
        self.failure: ProviderCut | None = None
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
        except ProviderCut as failure:
            self.failure = failure
        return deltas

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
            piece = _plain_text(parsed)
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
        if trial is not None and _plain_text(trial) == TRIAL_CONTENT:
            self._before, self._after = template

    def _parse(self, event: bytes) -> dict[str, Any] | None:
        content = event[6:] if event.startswith(b"data: ") and b"\n" not in event else _data_of(event)
        if not content:
            return None
        if content == b"[DONE]":
            self.done = True
            return None
        try:
            parsed = orjson.loads(content)
        except orjson.JSONDecodeError:
            parsed = self._parse_leniently(content)
        if not isinstance(parsed, dict):
            raise ProviderCut(f"{self._provider} sent an event that is not an object", retryable=True)
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
            reason = choice.get("finish_reason")
            if reason in FINISH_REASONS_OF_FAILURE:
                raise ProviderCut(f"{self._provider} could not finish its answer", retryable=True)
            self.finished = self.finished or bool(reason)


def _data_of(event: bytes) -> bytes:
    """The data lines of an event of the general form; comments and other fields are passed over."""
    lines = (line for line in event.split(b"\n") if line.startswith(b"data:"))
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines)


def _plain_text(parsed: dict[str, Any]) -> str | None:
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
