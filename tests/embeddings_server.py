"""A strict OpenAI-compatible embeddings server under real HTTP: each request plays the next answer.

What a request got wrong is kept, and leaving the block fails when there is one, or when an answer was not asked for.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.scripted_provider import API_KEY

TAKEN = frozenset({"model", "input", "dimensions"})
DIMENSIONS = 1536


@dataclass(frozen=True, slots=True)
class Said:
    """Answer with this status, body and headers."""

    body: Any
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Silence:
    """Say nothing until the client goes."""


@dataclass(frozen=True, slots=True)
class HalfAnAnswer:
    """Break the connection in the middle of the body."""


Answer = Said | Silence | HalfAnAnswer | Callable[[dict[str, Any]], Said]


@dataclass(slots=True)
class EmbeddingsServer:
    """What was asked, what was wrong with it, and whether a client left before its answer."""

    base_url: str
    answers: list[Answer]
    requests: list[dict[str, Any]] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    left_early: asyncio.Event = field(default_factory=asyncio.Event)


def vector_of(text: str, dimensions: int) -> list[float]:
    """Different texts, different vectors; exact in 32 bits."""
    return [len(text) / 8, *([0.5] * (dimensions - 1))]


def vectors(body: dict[str, Any]) -> Said:
    """What OpenAI answers."""
    dimensions = body.get("dimensions", DIMENSIONS)
    data = [
        {"object": "embedding", "index": place, "embedding": vector_of(text, dimensions)}
        for place, text in enumerate(body["input"])
    ]
    tokens = sum(len(text.split()) for text in body["input"])
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Said({"object": "list", "data": data, "model": body["model"], "usage": usage})


@asynccontextmanager
async def embeddings_server(*answers: Answer, key: str | None = API_KEY) -> AsyncIterator[EmbeddingsServer]:
    """Serve the answers in order, one a request."""
    server = EmbeddingsServer("", list(answers))

    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        server.requests.append(body)
        if wrong := _complaints(request, body, key):
            server.complaints += wrong
            return web.json_response({"error": {"message": "; ".join(wrong)}}, status=400)
        if not server.answers:
            server.complaints.append("a request that no answer was written for")
            return web.json_response({"error": {"message": "no answer"}}, status=500)
        try:
            return await _play(request, body, server.answers.pop(0))
        except asyncio.CancelledError:
            server.left_early.set()
            raise

    app = web.Application(client_max_size=10_000_000)
    app.router.add_post("/v1/embeddings", answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()
    assert not server.complaints, server.complaints
    assert not server.answers, f"{len(server.answers)} answers were never asked for"


async def _play(request: web.Request, body: dict[str, Any], answer: Answer) -> web.StreamResponse:
    match answer:
        case Silence():
            await asyncio.sleep(3600)
            raise AssertionError("nobody left")
        case HalfAnAnswer():
            response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000"})
            await response.prepare(request)
            await response.write(b'{"object": "list", "data": [')
            assert request.transport is not None
            request.transport.abort()
            return response
        case Said() as said:
            pass
        case compose:
            said = compose(body)
    if isinstance(said.body, bytes):
        return web.Response(body=said.body, status=said.status, headers=dict(said.headers))
    return web.json_response(said.body, status=said.status, headers=dict(said.headers))


def _complaints(request: web.Request, body: dict[str, Any], key: str | None) -> list[str]:
    wrong = [f"unknown parameter {name!r}" for name in body if name not in TAKEN]
    if request.headers.get("Authorization") != (None if key is None else f"Bearer {key}"):
        wrong.append("the key is missing or wrong, or was not asked for")
    if request.content_type != "application/json":
        wrong.append(f"content type {request.content_type!r}")
    texts = body.get("input")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        wrong.append("input must be texts, none of them empty")
    if not isinstance(body.get("model"), str):
        wrong.append("model is required")
    if "dimensions" in body and not isinstance(body["dimensions"], int):
        wrong.append("dimensions must be a number")
    return wrong
