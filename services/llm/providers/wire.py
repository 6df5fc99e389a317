"""OpenAI's wire: a request sent, its answer read as it comes or whole, and what may go wrong on the line."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from core.http_client import HttpClient
from domain.errors import ProviderCut, ProviderStalled, ProviderUnreachable
from services.llm.providers.quirks import AS_OPENAI, Quirks
from services.llm.providers.refusals import refusal, refusal_told
from services.llm.providers.sse_decoder import MAX_EVENT_BYTES, Decoder

MIN_RECHECK_S = 0.1
"""How soon a stalled read is looked at again when the deadline passed while the consumer was busy."""

AFTER_FINISH_S = 2.0
"""How long usage and the end may come after the finish reason; then the answer stands, its usage estimated."""

END_OF_BODY_S = 0.25
"""How long the end of the body may come after `[DONE]` before the connection is given up instead of reused."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a call goes. Times in seconds; `stall_timeout_s` bounds the wait for each piece of news."""

    provider: str
    url: str
    headers: Mapping[str, str]
    stall_timeout_s: float
    quirks: Quirks = AS_OPENAI


async def stream_events(
    http: HttpClient, endpoint: Endpoint, payload: Mapping[str, Any]
) -> AsyncGenerator[list[str] | dict[str, Any]]:
    """Send the payload and yield what comes: batches of text pieces, and every object that holds more.

    Raises `ProviderError` unless the stream said why it finished: a cut answer is not an answer.
    """
    decoder = Decoder(endpoint.provider, endpoint.quirks)
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


async def ask_whole(http: HttpClient, endpoint: Endpoint, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Send the payload and return the answer as the one chunk that says it all.

    The provider says nothing until it has finished, and so only the run's own limit bounds the wait for the first
    byte. Raises `ProviderError` for an answer without a finish reason, as for a stream.
    """
    decoder = Decoder(endpoint.provider, endpoint.quirks)
    headers = {**endpoint.headers, "Accept": "application/json"}
    with _as_provider_errors(endpoint, decoder):
        async with http.session.post(
            endpoint.url, data=orjson.dumps(payload), headers=headers, proxy=http.proxy_for(endpoint.url)
        ) as response:
            if response.status != 200:
                async with asyncio.timeout(endpoint.stall_timeout_s):
                    raise await refusal(endpoint.provider, response, endpoint.quirks.refusal_in)
            body = await _whole_body(response.content, endpoint.stall_timeout_s)
        return decoder.whole(body)


async def _whole_body(content: aiohttp.StreamReader, stall_s: float) -> bytes:
    """The body, or a little more of it than an answer may have. Once it has begun, it may not stop for too long."""
    body = await content.readany()
    while not content.at_eof() and len(body) <= MAX_EVENT_BYTES:
        async with asyncio.timeout(stall_s):
            body += await content.readany()
    return body


async def _ask(http: HttpClient, endpoint: Endpoint, payload: Mapping[str, Any]) -> aiohttp.ClientResponse:
    """The response, its headers read: an event stream. Raises what the provider's refusal means."""
    async with asyncio.timeout(endpoint.stall_timeout_s):
        response = await http.session.post(
            endpoint.url, data=orjson.dumps(payload), headers=endpoint.headers, proxy=http.proxy_for(endpoint.url)
        )
        try:
            if response.status != 200:
                raise await refusal(endpoint.provider, response, endpoint.quirks.refusal_in)
            await _check_is_event_stream(endpoint, response)
        except BaseException:
            response.close()
            raise
    return response


@contextmanager
def _as_provider_errors(endpoint: Endpoint, decoder: Decoder) -> Iterator[None]:
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


async def _check_is_event_stream(endpoint: Endpoint, response: aiohttp.ClientResponse) -> None:
    content_type = response.headers.get("Content-Type", "text/event-stream")
    if content_type.lower().startswith("text/event-stream"):
        return
    refusal_in = endpoint.quirks.refusal_in
    if refusal_in is not None and (told := await refusal_told(response, refusal_in)) is not None:
        raise told
    problem = f"{endpoint.provider} answered {content_type[:80]!r} where an event stream was due"
    raise ProviderCut(problem, retryable=True)
