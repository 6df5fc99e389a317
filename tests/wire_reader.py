"""Reads an answer off the wire, over real HTTP: what came, and the error that ended it."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

from core.http_client import HttpClient
from domain.errors import (
    RouteurError,
)
from services.llm.providers.wire import Endpoint, stream_events
from tests.scripted_provider import (
    API_KEY,
    Step,
    scripted_provider,
)

PAYLOAD = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
Item = str | dict[str, Any]
LATER_S = 0.02


def flat(deltas: Sequence[list[str] | dict[str, Any]]) -> list[Item]:
    return [item for delta in deltas for item in (delta if isinstance(delta, list) else [delta])]


def pieces_of(deltas: Sequence[list[str] | dict[str, Any]]) -> list[str]:
    return [item for item in flat(deltas) if isinstance(item, str)]


@asynccontextmanager
async def http_client(connect_timeout_s: float = 10.0) -> AsyncIterator[HttpClient]:
    http = HttpClient(connect_timeout_s)
    await http.open()
    try:
        yield http
    finally:
        await http.close()


def endpoint(base_url: str, stall_s: float = 20.0) -> Endpoint:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {API_KEY}"}
    return Endpoint("fake", f"{base_url}/chat/completions", headers, stall_s)


class Answer:
    """What came before the end, and the error that ended it."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.error: RouteurError | None = None

    @property
    def text(self) -> str:
        return "".join(item for item in self.items if isinstance(item, str))


async def read(
    http: HttpClient,
    base_url: str,
    *,
    stall_s: float = 20.0,
    pause_s: float = 0.0,
    where: Endpoint | None = None,
    payload: Mapping[str, Any] = PAYLOAD,
) -> Answer:
    answer = Answer()
    try:
        async with aclosing(stream_events(http, where or endpoint(base_url, stall_s), payload)) as deltas:
            async for delta in deltas:
                answer.items += flat([delta])
                await asyncio.sleep(pause_s)
    except RouteurError as error:
        answer.error = error
    return answer


async def answer_to(*script: Step, **options: Any) -> Answer:
    async with scripted_provider(script) as provider, http_client() as http:
        return await read(http, provider.base_url, **options)


@asynccontextmanager
async def raw_server(said: bytes, *later: bytes) -> AsyncIterator[str]:
    """Says these bytes to each request, the later ones after a moment each, and hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(said)
        await writer.drain()
        for more in later:
            await asyncio.sleep(LATER_S)
            writer.write(more)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


@asynccontextmanager
async def silent_server() -> AsyncIterator[str]:
    """Accepts connections and never says a word."""

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(65_536):
                pass
        finally:
            writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
