"""OpenAI's wire: a request sent, its answer read as it comes or whole, and what may go wrong on the line."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from core.http_client import HttpClient
from domain.errors import ProviderCut, ProviderError, ProviderStalled, ProviderUnreachable, RouteurError
from services.llm.providers.quirks import AS_OPENAI, Quirks
from services.llm.providers.refusals import StreamOptionsRefused, refusal, retry_after_of
from services.llm.providers.sse_decoder import Decoder

logger = logging.getLogger("routeur.router")

MIN_RECHECK_S = 0.1
"""How soon a stalled read is looked at again when the deadline passed while the consumer was busy."""

AFTER_FINISH_S = 2.0
"""How long usage and the end may come after the finish reason; then the answer stands, its usage estimated."""

AFTER_DOUBTFUL_FINISH_S = 10.0
"""How long more may come where a finish reason may not mean the end, since text came with it or after it. An answer
that began with finish reasons, or went on after one, is cut then; another one stands."""

END_OF_BODY_S = 0.25
"""How long the end of the body may come after `[DONE]` before the connection is given up instead of reused."""

NO_LIMIT_S = 86_400.0
"""An answer in one piece is waited for as long as the run may take: the run's own limit ends it."""


@dataclass(slots=True)
class EndpointMemory:
    """What was learnt of an endpoint, for as long as the process lives."""

    takes_stream_options: bool = True


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a call goes. Times in seconds; `stall_timeout_s` bounds the wait for each piece of news."""

    provider: str
    url: str
    headers: Mapping[str, str]
    stall_timeout_s: float
    quirks: Quirks = AS_OPENAI
    memory: EndpointMemory = field(default_factory=EndpointMemory)


async def stream_events(
    http: HttpClient, endpoint: Endpoint, payload: Mapping[str, Any], *, whole: bool = False
) -> AsyncGenerator[list[str] | dict[str, Any]]:
    """Send the payload and yield what comes: batches of text pieces, and every object that holds more.

    Raises `ProviderError` unless the stream gave a finish reason: a cut answer is not an answer. `whole`: it was
    requested in one piece, and nothing bounds the wait for its first byte.
    """
    decoder = Decoder(endpoint.provider, endpoint.quirks, tools=_tools_in(payload))
    with _as_provider_errors(endpoint, decoder):
        response = await _ask(http, endpoint, payload, whole=whole)
        decoder.content_type = response.headers.get("Content-Type", "nothing named")
        watch = _StallWatch(response.content, NO_LIMIT_S if whole else endpoint.stall_timeout_s)
        try:
            while received := await watch.read():
                for delta in decoder.feed(received):
                    yield delta
                if decoder.failure is not None:
                    raise _waiting(decoder.failure, response)
                if decoder.done:
                    # Only the end of the body is left: reading it gives the connection back to the pool.
                    watch.allow(END_OF_BODY_S)
                elif decoder.take_news():
                    watch.allow(_patience_s(endpoint, decoder))
        finally:
            watch.stop()
            # Returns a connection whose body was read to its end, and closes one that is still talking.
            response.close()
    for delta in decoder.end():
        yield delta
    if decoder.failure is not None:
        raise _waiting(decoder.failure, response)


async def ask_whole(
    http: HttpClient, endpoint: Endpoint, payload: Mapping[str, Any]
) -> list[list[str] | dict[str, Any]]:
    """Send the payload and return the whole answer's deltas, or raise: nothing is given of an answer that breaks."""
    async with aclosing(stream_events(http, endpoint, payload, whole=True)) as deltas:
        return [delta async for delta in deltas]


def _tools_in(payload: Mapping[str, Any]) -> frozenset[str]:
    """The names of the functions that the request offers."""
    functions = [tool.get("function") for tool in payload.get("tools") or () if isinstance(tool, dict)]
    names = [function.get("name") for function in functions if isinstance(function, dict)]
    return frozenset(name for name in names if isinstance(name, str))


def _patience_s(endpoint: Endpoint, decoder: Decoder) -> float:
    """After the finish reason only usage may follow: the caller, who has the text, is not kept waiting."""
    if not decoder.finished:
        return endpoint.stall_timeout_s
    if decoder.is_settled and not decoder.normaliser.ended_with_text:
        return AFTER_FINISH_S
    return min(endpoint.stall_timeout_s, AFTER_DOUBTFUL_FINISH_S)


def _waiting(failure: RouteurError, response: aiohttp.ClientResponse) -> RouteurError:
    """The failure that the body reported, with the wait that the headers ask for."""
    if isinstance(failure, ProviderError) and failure.retry_after_s is None:
        failure.retry_after_s = retry_after_of(response)
    return failure


async def _ask(
    http: HttpClient, endpoint: Endpoint, payload: Mapping[str, Any], *, whole: bool
) -> aiohttp.ClientResponse:
    """The response, its headers read. An endpoint that refuses `stream_options` is called once more, without it."""
    if not endpoint.memory.takes_stream_options:
        payload = _without_stream_options(payload)
    try:
        return await _post(http, endpoint, payload, whole=whole)
    except StreamOptionsRefused as refused:
        if "stream_options" not in payload:
            raise
        response = await _post(http, endpoint, _without_stream_options(payload), whole=whole)
        # Only now is it known that this was the matter.
        endpoint.memory.takes_stream_options = False
        logger.info("stream options refused", extra={"provider": endpoint.provider, "reason": refused.message})
        return response


def _without_stream_options(payload: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in payload.items() if key != "stream_options"}


async def _post(
    http: HttpClient, endpoint: Endpoint, payload: Mapping[str, Any], *, whole: bool
) -> aiohttp.ClientResponse:
    """Raises what the provider's refusal means."""
    async with asyncio.timeout(None if whole else endpoint.stall_timeout_s):
        response = await http.session.post(
            endpoint.url,
            data=orjson.dumps(payload),
            headers={**endpoint.headers, "Accept": "application/json"} if whole else endpoint.headers,
            proxy=http.proxy_for(endpoint.url),
            # A POST would become a GET without its body, and the key goes to the address it was given for alone.
            allow_redirects=False,
        )
    try:
        if response.status != 200:
            async with asyncio.timeout(endpoint.stall_timeout_s):
                raise await refusal(endpoint.provider, response, endpoint.quirks.refusal_in)
    except BaseException:
        response.close()
        raise
    return response


@contextmanager
def _as_provider_errors(endpoint: Endpoint, decoder: Decoder) -> Iterator[None]:
    """What went wrong on the line, as the house's errors. Once the answer is settled nothing is wrong any more."""
    provider = endpoint.provider
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise ProviderUnreachable(f"{provider} cannot be reached (no connection in time)", retryable=True) from error
    except TimeoutError as error:
        if not decoder.is_settled:
            raise ProviderStalled(
                f"{provider} sent nothing for {_patience_s(endpoint, decoder):g} s", retryable=True
            ) from error
    except aiohttp.ClientConnectorError as error:
        reason = error.os_error.strerror or "no route"
        raise ProviderUnreachable(f"{provider} cannot be reached ({reason})", retryable=True) from error
    except (aiohttp.ClientError, OSError) as error:
        if not decoder.is_settled:
            raise broken_connection(provider, error) from error


@contextmanager
def reading_chunk(provider: str) -> Iterator[None]:
    """While a vendor's class reads an object: what it cannot make sense of is the provider's fault, not the agent's."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        logger.warning("chunk not readable", extra={"provider": provider, "error": type(error).__name__})
        raise ProviderCut(f"{provider} sent a chunk that cannot be read", retryable=True) from error


def broken_connection(provider: str, error: aiohttp.ClientError | OSError) -> ProviderCut:
    """The failure of a connection that was open; the log has the library's name for it."""
    logger.warning("connection broken", extra={"provider": provider, "error": type(error).__name__})
    how = "before the answer" if isinstance(error, aiohttp.ServerDisconnectedError) else "in the middle of the answer"
    return ProviderCut(f"{provider} broke the connection {how}", retryable=True)


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
