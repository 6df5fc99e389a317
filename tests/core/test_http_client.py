"""The client that providers are called with: its time to connect includes the look-up of the provider's name."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from core.http_client import HttpClient


async def test_a_name_that_is_never_resolved_fails_when_the_time_to_connect_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(*_: Any, **__: Any) -> list[Any]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", never)
    http = HttpClient(connect_timeout_s=0.2)
    await http.open()
    try:
        async with asyncio.timeout(20):
            with pytest.raises(aiohttp.ConnectionTimeoutError):
                await http.session.post("http://provider.example.org/v1", data=b"{}")
    finally:
        await http.close()


@asynccontextmanager
async def answer_of(write: Callable[[web.StreamResponse], Awaitable[None]], compress: bool) -> AsyncIterator[Any]:
    """What the client gets of a body that is written in many pieces."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if compress:
            response.enable_compression(web.ContentCoding.gzip)
        await response.prepare(request)
        await write(response)
        return response

    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    http = HttpClient(connect_timeout_s=10)
    await http.open()
    try:
        async with asyncio.timeout(60):
            yield await http.session.post(f"http://127.0.0.1:{runner.addresses[0][1]}/")
    finally:
        await http.close()
        await runner.cleanup()


PIECE = b"a piece of an answer"


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
async def test_a_body_of_many_pieces_comes_whole_to_a_slow_reader(compress: bool) -> None:
    """Some megabytes: reading is paused in between, and resumed."""
    pieces = [os.urandom(20_000) for _ in range(150)]

    async def write(response: web.StreamResponse) -> None:
        for piece in pieces:
            await response.write(piece)

    async with answer_of(write, compress) as response:
        come = []
        while piece := await response.content.readany():
            come.append(piece)
            await asyncio.sleep(0.005)
        assert b"".join(come) == b"".join(pieces)


async def test_a_small_gzip_that_becomes_large_comes_whole() -> None:
    async def write(response: web.StreamResponse) -> None:
        await response.write(bytes(5_000_000))

    async with answer_of(write, compress=True) as response:
        size = 0
        while piece := await response.content.readany():
            size += len(piece)
        assert size == 5_000_000


async def test_a_connection_that_is_not_paused_is_not_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    resumed: list[Any] = []

    def note(connection: Any) -> None:
        resumed.append(connection)

    monkeypatch.setattr("aiohttp.base_protocol.BaseProtocol._resume_transport_reading", note)

    async def write(response: web.StreamResponse) -> None:
        for _ in range(100):
            await response.write(PIECE)

    async with answer_of(write, compress=False) as response:
        assert await response.read() == 100 * PIECE
    assert not [one for one in resumed if type(one).__module__ == "core.http_client"]
