"""What happens to every request before its door: an id, and a bound on its body. Pure ASGI."""

import asyncio
import os
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.error_shapes import Problem, shape_of
from domain.errors import PayloadTooLarge

REQUEST_ID_HEADER = b"x-request-id"
CLOSE = (b"connection", b"close")
MAX_REQUEST_ID = 128
LINGER_S = 2.0
"""How long the rest of a refused body is still taken in."""


class RequestBounds:
    """Accepts or makes the request's id, returns it on every answer, and refuses bodies over the limit."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = _accepted(headers.get(REQUEST_ID_HEADER)) or os.urandom(16).hex()
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        id_header = (REQUEST_ID_HEADER, request_id.encode())
        body = _Counted(receive, self._max_body_bytes)

        async def send_bounded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], id_header, *([CLOSE] if body.is_too_large else [])]
            elif body.is_too_large and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await body.drain()
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        app = self._app
        if _declared_length(headers.get(b"content-length")) > self._max_body_bytes:
            body.is_too_large = True
            problem = Problem.of(PayloadTooLarge(_too_large(self._max_body_bytes)), request_id)
            app = shape_of(scope["path"])(problem)
        await app(scope, body, send_bounded)


class _Counted:
    """Receives a body, which may have declared no length, and stops at the limit."""

    __slots__ = ("_left", "_limit", "_receive", "is_too_large")

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._left = limit
        self.is_too_large = False

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                self.is_too_large = True
                raise PayloadTooLarge(_too_large(self._limit))
        return message

    async def drain(self) -> None:
        """Take in the rest of a refused body: closing on a client that still sends would destroy the answer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while (await self._receive()).get("more_body", False):
                    pass


def _too_large(limit: int) -> str:
    return f"the body is larger than {limit} bytes (MAX_BODY_BYTES)"


def _accepted(value: bytes | None) -> str | None:
    """The caller's id when it is 1 to 128 printable ASCII characters."""
    if value is None or not 0 < len(value) <= MAX_REQUEST_ID or not all(32 < byte < 127 for byte in value):
        return None
    return value.decode("ascii")


def _declared_length(value: bytes | None) -> int:
    return int(value) if value is not None and value.isdigit() else 0
