"""iFlytek Spark, over its WebSocket: one connection a question, closed with the answer.

Not LangChain's ChatSparkLLM: it keeps one queue an instance, and concurrent answers carry each other's text.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from config.catalogue import ModelEntry
from domain.errors import (
    ContentFiltered,
    ModelUnavailable,
    ProviderCut,
    ProviderStalled,
    ProviderUnreachable,
)
from services.llm.providers.provider import Delta, ModelCall
from services.llm.providers.spark_answer import (
    AnswerFrame,
    finish_reason_of,
    last_chunk,
    read_frame,
    reasoning_chunk,
    refusal_at_handshake,
    refusal_in_frame,
)
from services.llm.providers.spark_auth import (
    NEEDED,
    TEXT_BASE_URL,
    VISION_BASE_URL,
    SparkCredentials,
    SparkRoute,
    http_date,
    origin_of,
    route_of,
    signed_url,
)
from services.llm.providers.spark_question import CANNOT_DO, max_tokens_of, question_frame, unsupported
from services.llm.providers.surrogates import Halves

logger = logging.getLogger("routeur.router")

CLOSE_WAIT_S = 0.1
"""How long the vendor may take to close after us: mostly it has done so already, and it says nothing any more."""

MAX_FRAME_BYTES = 1_000_000
"""A delta is a few hundred bytes; what is larger than this is not one."""


@dataclass(slots=True)
class Spark:
    """Serves the catalogue's names of Spark. `text_base_url` and `vision_base_url` are origins: scheme, host, port.

    `connect_timeout_s` is for name, TCP, TLS and handshake together; `stall_timeout_s` for the wait for each frame.
    """

    name: str = "spark"
    credentials: SparkCredentials | None = None
    text_base_url: str = TEXT_BASE_URL
    vision_base_url: str = VISION_BASE_URL
    stall_timeout_s: float = 60.0
    connect_timeout_s: float = 5.0
    now_s: Callable[[], float] = time.time
    tls: ssl.SSLContext | None = None
    _text_origin: str = field(init=False)
    _vision_origin: str = field(init=False)

    def __post_init__(self) -> None:
        self._text_origin = origin_of("SPARK_BASE_URL", self.text_base_url)
        self._vision_origin = origin_of("SPARK_VISION_BASE_URL", self.vision_base_url)

    def unavailable_reason(self, model: ModelEntry, credential: object = None) -> str | None:
        if route_of(model.name_on_wire, None) is None:
            return f"Spark's WebSocket serves no {model.name_on_wire!r}: correct the catalogue's wire_name"
        if self.credentials is None and not isinstance(credential, SparkCredentials):
            return f"{model.id!r} needs {NEEDED}"
        return None

    def unsupported_parameter(self, model: ModelEntry, parameters: Mapping[str, Any]) -> str | None:
        return unsupported(model.id, parameters, CANNOT_DO)

    def context_tokens(self, model: ModelEntry) -> int:
        return model.context.tokens

    async def stream(self, call: ModelCall) -> AsyncGenerator[Delta]:
        is_callers = isinstance(call.credential, SparkCredentials)
        credentials = call.credential if is_callers else self.credentials
        route = route_of(call.model.name_on_wire, call.parameters.get("spark_version"))
        if route is None or credentials is None:
            raise ModelUnavailable(self.unavailable_reason(call.model) or f"{call.model.id!r} cannot be served")
        max_tokens = max_tokens_of(call)
        if route.takes_image:
            # Megabytes of base64 to check: in a thread, so that no other stream waits for it.
            question = await asyncio.to_thread(question_frame, call, route, credentials.app_id)
        else:
            question = question_frame(call, route, credentials.app_id)
        has_begun = False
        text, thoughts = Halves(), Halves()
        async with self._connection(route, credentials, is_callers=is_callers) as connection:
            await self._ask(connection, question)
            while True:
                frame = await self._next_frame(connection)
                if frame.code:
                    error = refusal_in_frame(self.name, frame, call.model.id, is_callers=is_callers)
                    if not (has_begun and isinstance(error, ContentFiltered)):
                        raise error
                    # The audit stopped an answer that is already on its way: the reader is told how it ended.
                    yield last_chunk(route, frame, "content_filter")
                    return
                if reasoning := thoughts.join(frame.reasoning):
                    yield reasoning_chunk(reasoning)
                if pieces := [piece for piece in map(text.join, frame.pieces) if piece]:
                    yield pieces
                has_begun = has_begun or bool(frame.pieces or frame.reasoning)
                if frame.is_last:
                    if rest := text.rest():
                        yield [rest]
                    yield last_chunk(route, frame, finish_reason_of(frame, max_tokens))
                    return

    @asynccontextmanager
    async def _connection(
        self, route: SparkRoute, credentials: SparkCredentials, *, is_callers: bool
    ) -> AsyncIterator[ClientConnection]:
        """A connection for one question; closed, or cut where it does not close, however the answer ends."""
        try:
            connection = await self._open(route, credentials)
        except InvalidStatus as error:
            answer = error.response
            retry_after = answer.headers.get("Retry-After")
            raise refusal_at_handshake(
                self.name, answer.status_code, bytes(answer.body or b""), retry_after, is_callers=is_callers
            ) from None
        except (InvalidHandshake, EOFError) as error:
            logger.warning("handshake failed", extra={"provider": self.name, "error": type(error).__name__})
            raise ProviderUnreachable(f"{self.name} did not answer as a WebSocket", retryable=True) from None
        except TimeoutError:
            raise ProviderUnreachable(
                f"{self.name} cannot be reached (no connection in time)", retryable=True
            ) from None
        except OSError as error:
            reason = error.strerror or "no route"
            raise ProviderUnreachable(f"{self.name} cannot be reached ({reason})", retryable=True) from error
        try:
            yield connection
        finally:
            await _close(connection)

    async def _open(self, route: SparkRoute, credentials: SparkCredentials) -> ClientConnection:
        origin = self._vision_origin if route.takes_image else self._text_origin
        is_secure = origin.startswith("wss://")
        if is_secure and self.tls is None:
            # Reads the system's authorities from disk; one for all connections.
            self.tls = await asyncio.to_thread(ssl.create_default_context)
        return await _OneHandshake(
            signed_url(origin, route.path, credentials, http_date(self.now_s())),
            ssl=self.tls if is_secure else None,
            compression=None,
            ping_interval=None,
            proxy=None,
            user_agent_header=None,
            open_timeout=self.connect_timeout_s,
            close_timeout=CLOSE_WAIT_S,
            max_size=MAX_FRAME_BYTES,
            logger=_silent_logger(),
        )

    async def _ask(self, connection: ClientConnection, question: str) -> None:
        try:
            async with asyncio.timeout(self.stall_timeout_s):
                await connection.send(question)
        except TimeoutError as error:
            raise self._stalled() from error
        except ConnectionClosed:
            # A vendor that closes in the middle of the question has mostly said why: the frame is read next.
            return

    async def _next_frame(self, connection: ClientConnection) -> AnswerFrame:
        try:
            async with asyncio.timeout(self.stall_timeout_s):
                received = await connection.recv()
        except TimeoutError as error:
            raise self._stalled() from error
        except ConnectionClosed as error:
            raise ProviderCut(f"{self.name} closed the connection before its answer ended", retryable=True) from error
        return read_frame(self.name, received)

    def _stalled(self) -> ProviderStalled:
        return ProviderStalled(f"{self.name} sent nothing for {self.stall_timeout_s:g} s", retryable=True)


async def _close(connection: ClientConnection) -> None:
    """Close, or cut. The library's own limit begins after the close frame is written, and a deaf vendor stops that."""
    try:
        async with asyncio.timeout(CLOSE_WAIT_S):
            await connection.close()
    except TimeoutError:
        return
    finally:
        # Also when the closing itself is cancelled: nothing else would let go of the socket.
        connection.transport.abort()


class _OneHandshake(connect):
    """Follows no redirect: the signature in the address is for nobody else."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


def _silent_logger() -> logging.Logger:
    """A logger outside the hierarchy: at debug the library writes addresses and frames: keys and prompts."""
    logger = logging.Logger("routeur.spark.wire", level=logging.CRITICAL)
    logger.addHandler(logging.NullHandler())
    return logger
