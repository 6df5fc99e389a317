"""A web server of raw bytes under TLS, for what no web framework would send.

async with tls_server(answer_with(200, PNG, "image/png")) as server:
    await fetch_public(f"https://pictures.test:{server.port}/cat.png", ..., network=server.network())
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

from core.safe_fetch import Network
from tests.throwaway_tls import throwaway_tls

HERE = "127.0.0.1"
Play = Callable[[asyncio.StreamWriter], Awaitable[None]]


def is_here(address: IPv4Address | IPv6Address) -> bool:
    """What counts as public in these tests: this one address."""
    return address == ip_address(HERE)


@dataclass(slots=True)
class TlsServer:
    """What was asked, and which names were looked up on the way here."""

    port: int
    requests: list[bytes] = field(default_factory=list)
    looked_up: list[str] = field(default_factory=list)
    connections: int = 0

    def network(self, *answers: Sequence[str], client: ssl.SSLContext | None = None) -> Network:
        """A world where names resolve to these answers in turn, the last one for ever; by default to this server."""
        waiting = [list(answer) for answer in answers or ((HERE,),)]

        async def resolve(host: str, port: int) -> Sequence[str]:
            self.looked_up.append(host)
            return waiting.pop(0) if len(waiting) > 1 else waiting[0]

        tls = client or throwaway_tls().client
        return Network(resolve=resolve, may_connect=is_here, ports=frozenset({self.port}), tls=tls)


@asynccontextmanager
async def tls_server(play: Play, *, host: str = HERE, port: int = 0) -> AsyncIterator[TlsServer]:
    """Plays the same answer for each request; whoever is still talking at the end is cut off."""
    running = TlsServer(0)
    writers: set[asyncio.StreamWriter] = set()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.connections += 1
        writers.add(writer)
        if task := asyncio.current_task():
            tasks.add(task)
        try:
            running.requests.append(await reader.readuntil(b"\r\n\r\n"))
            await play(writer)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            writers.discard(writer)
            writer.transport.abort()

    server = await asyncio.start_server(serve, host, port, ssl=throwaway_tls().server)
    running.port = server.sockets[0].getsockname()[1]
    try:
        yield running
    finally:
        server.close()
        for writer in list(writers):
            writer.transport.abort()
        await asyncio.gather(*tasks)
        await server.wait_closed()


def answer_with(status: int, body: bytes, content_type: str | None = None, **headers: str) -> Play:
    """An ordinary answer; a header of `None`'s place is left out, and underscores are hyphens."""
    fields = {"Content-Length": str(len(body)), "Connection": "close"}
    fields |= {"Content-Type": content_type} if content_type else {}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return send(f"HTTP/1.1 {status} Whatever\r\n{head}\r\n".encode() + body)


def send(*parts: bytes, pause_s: float = 0.0, times: int = 1) -> Play:
    """These bytes, the last part as often as told, with a pause before each repetition."""

    async def play(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
        for _ in range(times - 1):
            await asyncio.sleep(pause_s)
            writer.write(parts[-1])
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    return play
