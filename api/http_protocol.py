"""How a connection is kept within bounds before it is a request: its headers, its pace, and how many there are.

uvicorn has no bound on headers and no timeout but that of idle connections. This is its protocol with both. No request
has a timer of its own: one sweep a second looks at all connections, so that a request pays about a microsecond.
"""

import asyncio
import contextlib
import logging
import os
import resource
import weakref
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from api.error_shapes import Problem, shape_of
from api.security_headers import security_headers
from config.settings import process_settings
from domain.errors import BadRequest, HeadersTooLarge, RequestTimeout, RouteurError, TooManyConnections

logger = logging.getLogger("routeur.api")

MAX_HEADER_BYTES = 65_536
MAX_HEADERS = 100
FRAMING = 8
"""How many bytes besides one of the body a chunked body may take: chunks of a single byte take five."""
MIN_BODY_BYTES_PER_S = 100
"""A body that comes slower, byte by byte, is as good as none."""
LINGER_S = 2.0
"""How long what is still sent is taken in after a refusal: closing at once would destroy the answer."""
HEALTH_PATHS = frozenset({b"/health", b"/ready"})
RESERVE = 64
"""Connections beyond the bound that are read at all, for a health check may be among them, and for how long."""
RESERVE_TIMEOUT_S = 2.0
RETRY_AFTER_S = 1
FILES_PER_CONNECTION = 2
"""Its own socket, and the one to the provider."""
OTHER_FILES = 256
PATIENCE_S = 1.0
"""When all places are taken, a connection that has not brought its headers in this time gives up its own."""


IDLE, HEAD, BODY, REFUSED = range(4)
"""Between requests or answering one; awaiting headers; awaiting a body; answered, and soon closed.

Plain numbers: to look up an enum's members takes longer than all else that is done for a request here.
"""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one connection may take, and how many one process has."""

    header_timeout_s: float
    body_idle_timeout_s: float
    max_connections: int
    send_idle_timeout_s: float = 120.0
    """How long a client may take nothing of an answer that waits for it."""
    is_development: bool = True

    @property
    def sweep_s(self) -> float:
        return min(1.0, self.header_timeout_s / 4, self.body_idle_timeout_s / 4)


@lru_cache(maxsize=1)
def process_limits() -> ConnectionLimits:
    """The limits of this process: uvicorn makes the protocol by its class, without arguments."""
    settings = process_settings()
    files = _allow_files(FILES_PER_CONNECTION * settings.max_connections + OTHER_FILES)
    return ConnectionLimits(
        header_timeout_s=settings.header_timeout_s,
        body_idle_timeout_s=settings.body_idle_timeout_s,
        max_connections=max(1, min(settings.max_connections, (files - OTHER_FILES) // FILES_PER_CONNECTION)),
        is_development=settings.is_development,
    )


def _allow_files(wanted: int) -> int:
    """Raise the number of files that this process may open, if it is lower and may be raised; what it then is."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed >= wanted or allowed == resource.RLIM_INFINITY:
        return max(allowed, wanted)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most)
        )
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's, which also refuses: headers that are too large or too slow, slow bodies, too many connections."""

    limits: ClassVar[ConnectionLimits | None] = None
    """In tests; otherwise those of the settings."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.url = b""
        self.headers = []
        self._limits = type(self).limits or process_limits()
        self._phase = HEAD
        self._since = self.loop.time()
        self._received = 0
        self._body_bytes = 0
        self._is_over_bound = False
        # Those that had not been answered when another request came behind them.
        self._earlier: deque[RequestResponseCycle] = deque()
        # What the last sweep saw.
        self._seen = 0
        self._active_at = self._since
        self._window: tuple[float, int] | None = None
        self._unsent = 0
        self._taken_at = self._since

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections and not self._make_room():
            self._is_over_bound = True
            if len(self.connections) > self._limits.max_connections + RESERVE:
                transport.abort()
                return
        _sweeper_of(self.server_state, self._limits.sweep_s).wake(self.loop)

    def connection_lost(self, exc: Exception | None) -> None:
        """uvicorn tells the last of several requests in a row that its client is gone, and goes on with the others."""
        HttpToolsProtocol.connection_lost(self, exc)
        self.pipeline.clear()
        for cycle in self._earlier:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def data_received(self, data: bytes) -> None:
        if self._phase == REFUSED:
            return
        if self._phase == IDLE:
            self._await_head()
        self._received += len(data)
        HttpToolsProtocol.data_received(self, data)
        if self._received > MAX_HEADER_BYTES:
            self._check_framing()

    def on_headers_complete(self) -> None:
        if self._phase == REFUSED:
            return
        if self._received > MAX_HEADER_BYTES or len(self.headers) > MAX_HEADERS or self._is_over_bound:
            refusal = self._refusal_of_head()
            if refusal is not None:
                self._refuse(refusal)
                return
        self._phase = BODY
        self._window = None
        before = self.cycle
        HttpToolsProtocol.on_headers_complete(self)
        if self.pipeline:
            # They are answered in their order: nothing is kept of those that have been.
            while self._earlier and self._earlier[0].response_complete:
                self._earlier.popleft()
            self._earlier.append(before)
        elif self._earlier:
            self._earlier.clear()
        if self._is_over_bound:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        if self._phase != REFUSED:
            self._body_bytes += len(body)
            HttpToolsProtocol.on_body(self, body)

    def on_message_complete(self) -> None:
        if self._phase != REFUSED:
            self._phase = IDLE
            HttpToolsProtocol.on_message_complete(self)

    def send_400_response(self, msg: str) -> None:
        self._refuse(BadRequest("the request is not valid HTTP"))

    def may_be_closed(self, now: float) -> bool:
        """Between two requests, or slow to begin one: others need its place."""
        if self._is_answering or self.transport.get_write_buffer_size():
            return False
        return self._phase == IDLE or (self._phase == HEAD and now - self._since > PATIENCE_S)

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def sweep(self, now: float) -> bool:
        """Ends what takes too long; whether it did."""
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0 or unsent != self._unsent:
            self._unsent = unsent
            self._taken_at = now
        elif now - self._taken_at > self._limits.send_idle_timeout_s:
            self.transport.abort()  # To close would wait until the rest is taken.
            return True
        if self._phase == HEAD:
            return self._sweep_head(now)
        if self._phase == BODY:
            return self._sweep_body(now)
        if self._phase == REFUSED and now - self._since > LINGER_S:
            self.transport.abort()
        return False

    def _sweep_head(self, now: float) -> bool:
        limit_s = self._limits.header_timeout_s
        if self._is_over_bound:
            limit_s = min(limit_s, RESERVE_TIMEOUT_S)
        if now - self._since <= limit_s or self._is_answering:
            return False
        if self._received == 0:
            self.transport.close()  # Opened ahead of need, as browsers do.
        else:
            self._refuse(RequestTimeout(f"the headers did not come within {limit_s:g} s (HEADER_TIMEOUT_S)"))
        return True

    def _sweep_body(self, now: float) -> bool:
        is_sending = self._received != self._seen
        is_awaited = not self.flow.read_paused and not self.cycle.waiting_for_100_continue
        if self._window is None or (not is_sending and not is_awaited):
            # It begins; or it is this server that does not read, or has not yet invited it to send.
            self._window = (now, self._received)
            self._active_at = now
        elif is_sending:
            self._active_at = now
        self._seen = self._received
        limit_s = self._limits.body_idle_timeout_s
        begun, received = self._window
        is_slow = now - begun > limit_s and self._received - received < MIN_BODY_BYTES_PER_S * (now - begun)
        is_unread = self.cycle.response_complete and now - begun > limit_s
        if is_slow or is_unread or now - self._active_at > limit_s:
            problem = (
                f"nothing for {limit_s:g} s (BODY_IDLE_TIMEOUT_S), or less than {MIN_BODY_BYTES_PER_S} bytes a second"
            )
            self._refuse(RequestTimeout(f"the body came too slowly: {problem}"))
            return True
        if now - begun > limit_s:
            self._window = (now, self._received)
        return False

    def _await_head(self) -> None:
        self._phase = HEAD
        self._since = self.loop.time()
        self._received = self._body_bytes = 0

    def _refusal_of_head(self) -> RouteurError | None:
        if len(self.headers) > MAX_HEADERS:
            return HeadersTooLarge(f"{len(self.headers)} headers; at most {MAX_HEADERS}")
        if self._received > MAX_HEADER_BYTES:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > MAX_HEADER_BYTES:
                return HeadersTooLarge(f"the address and the headers have {size} bytes; at most {MAX_HEADER_BYTES}")
        if self._is_over_bound and self.url.partition(b"?")[0] not in HEALTH_PATHS:
            most = self._limits.max_connections
            return TooManyConnections(f"{most} connections are open (MAX_CONNECTIONS): try again soon")
        return None

    def _check_framing(self) -> None:
        """Headers that do not end, and what a chunked body may hold besides itself: extensions and trailers."""
        if self._phase == HEAD:
            self._refuse(HeadersTooLarge(f"the address and the headers have more than {MAX_HEADER_BYTES} bytes"))
        elif self._phase == BODY:
            around = self._received - self._body_bytes
            if around > 2 * MAX_HEADER_BYTES + FRAMING * self._body_bytes:
                self._refuse(HeadersTooLarge("the body holds more around its chunks than in them"))

    def _make_room(self) -> bool:
        """Close a connection that serves nothing, if there is one."""
        now = self.loop.time()
        for one in self.connections:
            if isinstance(one, BoundedHttpProtocol) and one is not self and one.may_be_closed(now):
                one.transport.close()
                self.connections.discard(one)
                return True
        return False

    def _refuse(self, error: RouteurError) -> None:
        """Answer, if no answer has begun, and close once the client has had time to read it."""
        if self._phase == REFUSED:
            return
        has_answer = self._phase == BODY and self.cycle.response_started
        self._phase = REFUSED
        self._since = self.loop.time()
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        if has_answer or self.pipeline or (self._is_answering and self.cycle.response_started):
            self.transport.close()
            return
        self.transport.write(_answer(error, self.url, is_development=self._limits.is_development))
        if self._is_answering:
            # Its application learns that the client is gone, and what it answers goes nowhere.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()


def _answer(error: RouteurError, url: bytes, *, is_development: bool) -> bytes:
    """The refusal in the shape of its door, as bytes: there is no request that an application could answer."""
    request_id = os.urandom(16).hex()
    response = shape_of(url.partition(b"?")[0].decode("latin-1"))(Problem.of(error, request_id))
    headers = [
        *response.raw_headers,
        (b"x-request-id", request_id.encode()),
        *security_headers(is_development=is_development),
        (b"connection", b"close"),
    ]
    if error.status == 503:
        headers.append((b"retry-after", b"%d" % RETRY_AFTER_S))
    head = b"".join(b"%s: %s\r\n" % header for header in headers)
    return STATUS_LINE[response.status_code] + head + b"\r\n" + bytes(response.body)


class _Sweeper:
    """Looks at every connection of a process now and then, for as long as there is one."""

    def __init__(self, connections: "set[Any]", every_s: float) -> None:
        self._connections = connections
        self._every_s = every_s
        self._timer: asyncio.TimerHandle | None = None

    def wake(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is None:
            self._timer = loop.call_later(self._every_s, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._connections:
            self.wake(loop)
        now = loop.time()
        ended = sum(one.sweep(now) for one in list(self._connections) if isinstance(one, BoundedHttpProtocol))
        if ended:
            logger.info("slow connections closed", extra={"count": ended})


_sweepers: "weakref.WeakKeyDictionary[ServerState, _Sweeper]" = weakref.WeakKeyDictionary()


def _sweeper_of(state: ServerState, every_s: float) -> _Sweeper:
    sweeper = _sweepers.get(state)
    if sweeper is None:
        sweeper = _sweepers[state] = _Sweeper(state.connections, every_s)
    return sweeper
