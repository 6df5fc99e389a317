"""A strict web search engine under real HTTP, SearXNG or Tavily: what a request gets wrong is kept.

Leaving the block fails when there is a complaint.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

KEY = "tvly-scripted-0123456789"


@dataclass(frozen=True, slots=True)
class EngineAnswer:
    """Answer with this; bytes as they are, the rest as JSON."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    is_late: bool = False


@dataclass(slots=True)
class SearchEngineServer:
    """What was asked for, and what was wrong with it."""

    base_url: str
    queries: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@asynccontextmanager
async def search_engine(kind: Literal["searxng", "tavily"], answer: EngineAnswer) -> AsyncIterator[SearchEngineServer]:
    """Every request gets the same answer. A redirect leads to a place where nobody must come."""
    server = SearchEngineServer("")

    async def serve(request: web.Request) -> web.StreamResponse:
        complaints, query = await (_searxng if kind == "searxng" else _tavily)(request)
        server.complaints += complaints
        server.queries.append(query)
        if answer.is_late:
            await asyncio.sleep(60)
        if isinstance(answer.body, bytes):
            return web.Response(body=answer.body, status=answer.status, headers=answer.headers)
        return web.json_response(answer.body, status=answer.status, headers=answer.headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", serve)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()
    assert not server.complaints, server.complaints


async def _searxng(request: web.Request) -> tuple[list[str], str]:
    """https://docs.searxng.org/dev/search_api.html"""
    wrong = _unlike(request, "GET")
    if set(request.query) != {"q", "format"} or request.query.get("format") != "json":
        wrong.append(f"parameters {dict(request.query)}")
    if await request.read() or "Authorization" in request.headers:
        wrong.append("a body, or a key that was not asked for")
    return wrong, request.query.get("q", "")


async def _tavily(request: web.Request) -> tuple[list[str], str]:
    """https://docs.tavily.com/documentation/api-reference/endpoint/search"""
    wrong = _unlike(request, "POST")
    if request.headers.get("Authorization") != f"Bearer {KEY}":
        wrong.append("the key is missing or wrong")
    if request.query_string or request.content_type != "application/json":
        wrong.append(f"query {request.query_string!r}, content type {request.content_type!r}")
    body = await request.json()
    if set(body) - {"query", "max_results"} or not 1 <= body.get("max_results", 5) <= 20 or not body.get("query"):
        wrong.append(f"body {body}")
    return wrong, str(body.get("query"))


def _unlike(request: web.Request, method: str) -> list[str]:
    is_right = (request.method, request.path) == (method, "/search")
    return [] if is_right else [f"{request.method} {request.path}"]
