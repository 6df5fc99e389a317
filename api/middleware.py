"""What happens to every request before its door: an id, and a bound on its body. Pure ASGI."""

import os
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import error_answer
from domain.errors import PayloadTooLarge

REQUEST_ID_HEADER = b"x-request-id"
MAX_REQUEST_ID = 128


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

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], id_header]
            await send(message)

        if _declared_length(headers.get(b"content-length")) > self._max_body_bytes:
            await self._refusal(request_id)(scope, receive, send_with_id)
            return
        await self._app(scope, _Counted(receive, self._max_body_bytes), send_with_id)

    def _refusal(self, request_id: str) -> ASGIApp:
        answer = error_answer(413, PayloadTooLarge.code, _too_large(self._max_body_bytes), request_id)
        # The rest of the body is not read: the connection cannot be used again.
        answer.headers["Connection"] = "close"
        return answer


class _Counted:
    """Receives a body that declared no length, and stops at the limit."""

    __slots__ = ("_left", "_limit", "_receive")

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._left = limit

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                raise PayloadTooLarge(_too_large(self._limit))
        return message


def _too_large(limit: int) -> str:
    return f"the body is larger than {limit} bytes (MAX_BODY_BYTES)"


def _accepted(value: bytes | None) -> str | None:
    """The caller's id when it is 1 to 128 printable ASCII characters."""
    if value is None or not 0 < len(value) <= MAX_REQUEST_ID or not all(32 < byte < 127 for byte in value):
        return None
    return value.decode("ascii")


def _declared_length(value: bytes | None) -> int:
    return int(value) if value is not None and value.isdigit() else 0
