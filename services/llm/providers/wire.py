"""OpenAI's wire: a request sent, its answer read as it comes or whole, and what may go wrong on the line."""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from core.http_client import HttpClient
from domain.errors import ProviderCut, ProviderError, ProviderStalled, ProviderUnreachable
from services.llm.providers.quirks import AS_OPENAI, Quirks
from services.llm.providers.refusals import NAMES_STREAM_OPTIONS, StreamOptionsRefused, refusal, retry_after_of
from services.llm.providers.sse_decoder import Decoder
from services.llm.providers.surrogates import json_of

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
    http: HttpClient, endpoint: Endpoint, payload: Mapping[str, Any]
) -> AsyncGenerator[list[str] | dict[str, Any]]:
    """Send the payload and yield what comes: batches of text pieces, and every object that holds more.

    Raises `ProviderError` unless the stream gave a finish reason: a cut answer is not an answer.
    """
    if not endpoint.memory.takes_stream_options:
        payload = _without_stream_options(payload)
    answer = await _answer_to(http, endpoint, payload, whole=False)
    try:
        while not answer.has_ended:
            for delta in await answer.read():
                yield delta
        if not answer.is_refusal_of_stream_options:
            answer.raise_failure()
            return
    finally:
        answer.close()
    if "stream_options" not in payload:
        answer.raise_failure()
    async with aclosing(stream_events(http, endpoint, _without_stream_options(payload))) as deltas:
        async for delta in deltas:
            yield delta
    _note_refusal_of_stream_options(endpoint, "in the body")


async def ask_whole(
    http: HttpClient, endpoint: Endpoint, payload: Mapping[str, Any]
) -> list[list[str] | dict[str, Any]]:
    """Send the payload and return the whole answer's deltas, or raise: nothing is given of an answer that breaks.

    What bounds the wait for its first byte is the run's own limit.
    """
    answer = await _answer_to(http, endpoint, payload, whole=True)
    deltas: list[list[str] | dict[str, Any]] = []
    try:
        while not answer.has_ended:
            deltas += await answer.read()
        answer.raise_failure()
    finally:
        answer.close()
    return deltas


def _tools_in(payload: Mapping[str, Any]) -> frozenset[str]:
    """The names of the functions that the request offers."""
    tools = payload.get("tools")
    if not tools:
        return frozenset()
    functions = [tool.get("function") for tool in tools if isinstance(tool, dict)]
    names = [function.get("name") for function in functions if isinstance(function, dict)]
    return frozenset(name for name in names if isinstance(name, str))


def _patience_s(endpoint: Endpoint, decoder: Decoder) -> float:
    """After the finish reason only usage may follow: the caller, who has the text, is not kept waiting."""
    if not decoder.finished:
        return endpoint.stall_timeout_s
    if decoder.is_settled and not decoder.normaliser.ended_with_text:
        return AFTER_FINISH_S
    return min(endpoint.stall_timeout_s, AFTER_DOUBTFUL_FINISH_S)


async def _answer_to(http: HttpClient, endpoint: Endpoint, payload: Mapping[str, Any], *, whole: bool) -> "_Answer":
    decoder = Decoder(endpoint.provider, endpoint.quirks, tools=_tools_in(payload))
    try:
        response = await _ask(http, endpoint, payload, whole=whole)
    except (aiohttp.ClientError, OSError) as error:
        raise _failure_of_line(endpoint, decoder, error) from error
    return _Answer(endpoint, response, decoder, None if whole else endpoint.stall_timeout_s)


async def _ask(
    http: HttpClient, endpoint: Endpoint, payload: Mapping[str, Any], *, whole: bool
) -> aiohttp.ClientResponse:
    """The response, its headers read. An endpoint that refuses `stream_options` is called once more, without it."""
    try:
        return await _post(http, endpoint, payload, whole=whole)
    except StreamOptionsRefused as refused:
        if "stream_options" not in payload:
            raise refused.otherwise from None
        response = await _ask(http, endpoint, _without_stream_options(payload), whole=whole)
        _note_refusal_of_stream_options(endpoint, refused.message)
        return response


def _note_refusal_of_stream_options(endpoint: Endpoint, reason: str) -> None:
    """Once a call without them was answered: only then is it known that they were the matter."""
    endpoint.memory.takes_stream_options = False
    logger.info("stream options refused", extra={"provider": endpoint.provider, "reason": reason})


def _without_stream_options(payload: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in payload.items() if key != "stream_options"}


async def _post(
    http: HttpClient, endpoint: Endpoint, payload: Mapping[str, Any], *, whole: bool
) -> aiohttp.ClientResponse:
    """Raises what the provider's refusal means."""
    request = http.session.post(
        endpoint.url,
        data=json_of(payload),
        headers={**endpoint.headers, "Accept": "application/json"} if whole else endpoint.headers,
        proxy=http.proxy_for(endpoint.url),
        # A POST would become a GET without its body, and the key goes to the address it was given for alone.
        allow_redirects=False,
    )
    if whole:
        response = await request
    else:
        async with asyncio.timeout(endpoint.stall_timeout_s):
            response = await request
    try:
        if response.status != 200:
            async with asyncio.timeout(endpoint.stall_timeout_s):
                raise await refusal(endpoint.provider, response, endpoint.quirks.refusal_in)
    except BaseException:
        response.close()
        raise
    return response


def _failure_of_line(endpoint: Endpoint, decoder: Decoder, error: aiohttp.ClientError | OSError) -> ProviderError:
    """What went wrong on the line, as the house's error."""
    provider = endpoint.provider
    match error:
        case aiohttp.ConnectionTimeoutError():
            return ProviderUnreachable(f"{provider} cannot be reached (no connection in time)", retryable=True)
        case aiohttp.ClientConnectorError():
            reason = error.os_error.strerror or "no route"
            return ProviderUnreachable(f"{provider} cannot be reached ({reason})", retryable=True)
        case TimeoutError():
            return ProviderStalled(f"{provider} sent nothing for {_patience_s(endpoint, decoder):g} s", retryable=True)
        case _:
            return broken_connection(provider, error)


def broken_connection(provider: str, error: aiohttp.ClientError | OSError) -> ProviderCut:
    """The failure of a connection that was open; the log has the library's name for it."""
    logger.warning("connection broken", extra={"provider": provider, "error": type(error).__name__})
    how = "before the answer" if isinstance(error, aiohttp.ServerDisconnectedError) else "in the middle of the answer"
    return ProviderCut(f"{provider} broke the connection {how}", retryable=True)


def _closed(response: aiohttp.ClientResponse) -> asyncio.Future[None] | None:
    """Done when the connection is closed; `None` when the body has come whole, or it is closed already."""
    protocol = response.connection.protocol if response.connection is not None else None
    return protocol.closed if protocol is not None else None


class _Answer:
    """Reads an answer, and gives up when no news came for too long. Comments are not news.

    One timer for the whole answer, re-armed when it fires early: a timeout a read would cost as much as the read.
    Time that the consumer takes between reads does not count: a slow client is not a stalled provider.
    """

    __slots__ = (
        "_closed",
        "_content",
        "_deadline",
        "_decoder",
        "_endpoint",
        "_is_over",
        "_loop",
        "_reading",
        "_response",
        "_timer",
        "has_ended",
    )

    def __init__(
        self, endpoint: Endpoint, response: aiohttp.ClientResponse, decoder: Decoder, stall_s: float | None
    ) -> None:
        """`stall_s` is for the first news; `None`: any time."""
        decoder.content_type = response.headers.get("Content-Type", "nothing named")
        self.has_ended = False
        self._is_over = False
        self._endpoint = endpoint
        self._response = response
        self._content = response.content
        self._decoder = decoder
        self._loop = asyncio.get_running_loop()
        self._deadline = math.inf
        self._reading = False
        self._timer: asyncio.TimerHandle | None = None
        self._closed = _closed(response)
        if self._closed is not None:
            self._closed.add_done_callback(self._note_closed)
        if stall_s is not None:
            self._allow(stall_s)

    async def read(self) -> list[list[str] | dict[str, Any]]:
        """The deltas that have come since the last read, perhaps none; `has_ended` says whether they are the last.

        Raises `ProviderError` for what goes wrong on the line. Once the answer is settled nothing is wrong any more,
        and after `[DONE]` it is the decoder that knows what is missing.
        """
        decoder = self._decoder
        try:
            self._reading = True
            received = await self._content.readany()
            self._reading = False
        except (aiohttp.ClientError, OSError) as error:
            if not decoder.is_settled and not decoder.done:
                failure = _failure_of_line(self._endpoint, decoder, error)
                # The last event may have come whole, but for the blank line behind it: the answer's end, or an error.
                deltas = decoder.end()
                if decoder.is_cut and (decoder.failure is not None or not decoder.is_settled):
                    raise failure from error
                self.has_ended = True
                self.close()
                return deltas
            received = b""
        deltas = decoder.feed(received) if received else []
        if decoder.failure is not None:
            self.has_ended = True
        elif not received or (decoder.done and self._content.at_eof()):
            self.has_ended = True
            self.close()
            deltas += decoder.end()
        elif decoder.done:
            if not self._is_over:
                self._is_over = True
                # Reading the end of the body gives the connection back to the pool.
                self._allow(END_OF_BODY_S)
        elif decoder.take_news():
            self._allow(_patience_s(self._endpoint, decoder))
        return deltas

    @property
    def is_refusal_of_stream_options(self) -> bool:
        """Whether the body is nothing but that: an error, or a page or a line of text in the place of an answer."""
        failure = self._decoder.failure
        if failure is None or self._decoder.normaliser.has_begun:
            return False
        return isinstance(failure, StreamOptionsRefused) or bool(NAMES_STREAM_OPTIONS.search(failure.message))

    def raise_failure(self) -> None:
        """Raise what the body reported, if it is a failure, with the wait that the headers ask for."""
        failure = self._decoder.failure
        if isinstance(failure, StreamOptionsRefused):
            failure = failure.otherwise
        if failure is None:
            return
        if isinstance(failure, ProviderError) and failure.retry_after_s is None:
            failure.retry_after_s = retry_after_of(self._response)
        raise failure

    def close(self) -> None:
        """Returns a connection whose body was read to its end, and closes one that is still talking."""
        if self._timer is not None:
            self._timer.cancel()
        if self._closed is not None:
            self._closed.remove_done_callback(self._note_closed)
        self._response.close()

    def _note_closed(self, _: asyncio.Future[None]) -> None:
        """aiohttp closes a connection whose bytes it cannot read, and does not say so to those who wait for them."""
        if not self._content.is_eof() and self._content.exception() is None:
            self._content.set_exception(aiohttp.ClientPayloadError("the body is no sequence of chunks"))

    def _allow(self, seconds: float) -> None:
        """Wait this long for the next news, from now."""
        deadline = self._loop.time() + seconds
        if deadline < self._deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(deadline, self._check)
        self._deadline = deadline

    def _check(self) -> None:
        now = self._loop.time()
        if self._reading and now >= self._deadline:
            self._content.set_exception(TimeoutError())
            return
        self._timer = self._loop.call_at(max(self._deadline, now + MIN_RECHECK_S), self._check)
