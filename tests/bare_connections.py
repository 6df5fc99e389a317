"""A server with a protocol of the test's choice, and clients on bare connections, without manners."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any

import uvicorn

from api.http_protocol import BoundedHttpProtocol

WAIT_S = 20.0
LARGE = 20_000_000


class App:
    """Reads the body and answers with its length; `/wait` first waits until it is let go; `/deaf` reads late; `/turn`
    answers one request each time a turn is given; `/refuses` answers without reading; `/watch` when its client left.
    """

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.go = asyncio.Event()
        self.is_waiting = asyncio.Event()
        self.was_cut_off = asyncio.Event()
        self.turns = asyncio.Semaphore(0)

    async def __call__(self, scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        self.paths.append(scope["path"])
        if scope["path"] in {"/wait", "/deaf"}:
            self.is_waiting.set()
            await self.go.wait()
        if scope["path"] == "/turn":
            await self.turns.acquire()
        if scope["path"] == "/refuses":
            await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return
        if scope["path"] == "/large":
            headers = [(b"content-length", b"%d" % LARGE)]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"x" * LARGE})
            return
        length = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.was_cut_off.set()
                return
            length += len(message["body"])
            if not message["more_body"] and scope["path"] != "/watch":
                break
            self.is_waiting.set()
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(str(length)))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": str(length).encode()})


@asynccontextmanager
async def serving(protocol: type[BoundedHttpProtocol], app: App) -> AsyncIterator[int]:
    """The port of a server with this protocol on this loop."""
    config = uvicorn.Config(
        app, port=0, http=protocol, ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    server.capture_signals = nullcontext  # type: ignore[method-assign]
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - it announces it by nothing else
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        app.go.set()
        server.should_exit = True
        await task


class Connection:
    """One of a client's, without manners."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> "Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, data: bytes) -> None:
        with suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The status, the headers and the body of the next answer."""
        async with asyncio.timeout(WAIT_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await self._reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers, body

    async def rest(self) -> bytes:
        """All until the server ends the connection."""
        async with asyncio.timeout(WAIT_S):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""

    def close(self) -> None:
        self._writer.close()


async def exchange(port: int, data: bytes) -> tuple[int, dict[str, str], bytes]:
    connection = await Connection.open(port)
    try:
        await connection.send(data)
        return await connection.answer()
    finally:
        connection.close()
