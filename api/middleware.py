"""What happens to every request before its door: an id, a bound on its body, headers for its answer. Pure ASGI."""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, ExceptionHandler, Message, Receive, Scope, Send

from api.error_shapes import Problem, shape_of
from api.security_headers import PAGES, POLICY, SECURITY_HEADERS, Header, PagePolicy
from domain.errors import BadRequest, PayloadTooLarge, RouteurError, UnsupportedMedia

REQUEST_ID_HEADER = b"x-request-id"
CLOSE = (b"connection", b"close")
MAX_REQUEST_ID = 128
LINGER_S = 2.0
"""How long the rest of a refused body is still taken in."""


@dataclass(frozen=True, slots=True)
class BodyLimit:
    """How many bytes a body may have, the setting that says so or `None`, and the paths that it is for; `None`: all."""

    max_bytes: int
    setting: str | None
    paths: re.Pattern[str] | None = None

    def refusal(self) -> PayloadTooLarge:
        setting = "" if self.setting is None else f" ({self.setting})"
        return PayloadTooLarge(f"the body is larger than {self.max_bytes} bytes{setting}")


class RequestBounds:
    """Accepts or makes the request's id, returns it on every answer with `headers`, and refuses what cannot be read."""

    def __init__(
        self,
        app: ASGIApp,
        limit: BodyLimit,
        upload_limits: Sequence[BodyLimit],
        headers: tuple[Header, ...] = SECURITY_HEADERS,
    ) -> None:
        self._app = app
        self._limit = limit
        self._upload_limits = tuple(upload_limits)
        self._headers = headers
        self._headers_of_pages = tuple(header for header in headers if header[0] != POLICY)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = _accepted(headers.get(REQUEST_ID_HEADER)) or os.urandom(16).hex()
        path = scope["path"]
        is_page = path in PAGES
        added = [(REQUEST_ID_HEADER, request_id.encode()), *(self._headers_of_pages if is_page else self._headers)]
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["answer_headers"] = added
        limit = self._limit_of(path)
        body = _Counted(receive, limit, is_upload=limit is not self._limit and scope["method"] == "POST")

        async def send_bounded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *added, *([CLOSE] if body.is_too_large else [])]
            elif (body.is_too_large or body.is_refused_upload) and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await body.drain()
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        app: ASGIApp = PagePolicy(self._app) if is_page else self._app
        refusal = _refusal(scope, headers)
        if _declared_length(headers.get(b"content-length")) > limit.max_bytes:
            body.is_too_large = True
            refusal = limit.refusal()
        if refusal is not None:
            app = shape_of(path)(Problem.of(refusal, request_id))
        if scope["method"] == "HEAD":
            await _answer_head(app, scope, body, send_bounded)
        else:
            await app(scope, body, send_bounded)

    def _limit_of(self, path: str) -> BodyLimit:
        for limit in self._upload_limits:
            if limit.paths is not None and limit.paths.fullmatch(path):
                return limit
        return self._limit


Endpoint = Callable[[Request], Awaitable[Response]]


class BusyRoutes:
    """Answers POST on the paths that carry the load; everything else goes on to the framework.

    Its routing, its exit stack for dependencies and its second layer of error handling take some 35 calls a request.
    The same paths are routes of the framework, too, for the documentation and for the other methods.
    """

    def __init__(
        self, app: ASGIApp, endpoints: Mapping[str, Endpoint], error_handlers: Mapping[Any, ExceptionHandler]
    ) -> None:
        """`error_handlers`: an application's. What is unexpected is for the server's error layer, outside of this."""
        handlers = {kind: handler for kind, handler in error_handlers.items() if kind not in (500, Exception)}
        self._app = app
        self._routes = {path: ExceptionMiddleware(_as_app(each), handlers) for path, each in endpoints.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope["path"]) if scope.get("method") == "POST" else None
        await (self._app if route is None else route)(scope, receive, send)


def _as_app(endpoint: Endpoint) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        response = await endpoint(Request(scope, receive, send))
        await response(scope, receive, send)

    return answer


class _Counted:
    """Receives a body, which may have declared no length, and stops at the limit.

    `is_refused_upload` is a large body that nobody has read to its end.
    """

    __slots__ = ("_left", "_limit", "_receive", "is_refused_upload", "is_too_large")

    def __init__(self, receive: Receive, limit: BodyLimit, *, is_upload: bool) -> None:
        self._receive = receive
        self._limit = limit
        self._left = limit.max_bytes
        self.is_too_large = False
        self.is_refused_upload = is_upload

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.is_refused_upload &= bool(message.get("more_body", False))
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                self.is_too_large = True
                raise self._limit.refusal()
        return message

    async def drain(self) -> None:
        """Take in the rest of a refused body: closing on a client that still sends would destroy the answer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while (await self._receive()).get("more_body", False):
                    pass


def _accepted(value: bytes | None) -> str | None:
    """The caller's id when it is 1 to 128 printable ASCII characters."""
    if value is None or not 0 < len(value) <= MAX_REQUEST_ID or not all(32 < byte < 127 for byte in value):
        return None
    return value.decode("ascii")


def _refusal(scope: Scope, headers: Mapping[bytes, bytes]) -> RouteurError | None:
    """Why a request is refused whatever its door."""
    if b"host" not in headers:
        # HTTP/1.0, which health checks still speak, does not know it.
        if scope.get("http_version") != "1.0":
            return BadRequest("Host: it is missing; HTTP/1.1 needs it")
    elif len(headers) < len(scope["headers"]) and sum(name == b"host" for name, _ in scope["headers"]) > 1:
        return BadRequest("Host: it is sent more than once")
    encoding = headers.get(b"content-encoding")
    if encoding is not None and encoding.lower() != b"identity":
        name = encoding[:80].decode("latin-1")
        return UnsupportedMedia(f"Content-Encoding: {name!r}; send the body as it is, without an encoding")
    return None


async def _answer_head(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """As GET, without the body: it ends once its headers are sent, so that a stream is not made for no reader."""
    is_over = False

    async def send_start(message: Message) -> None:
        nonlocal is_over
        if not is_over:
            is_over = message["type"] == "http.response.start"
            await send(message)
            if is_over:
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    await app({**scope, "method": "GET"}, receive, send_start)


def _declared_length(value: bytes | None) -> int:
    return int(value) if value is not None and value.isdigit() else 0
