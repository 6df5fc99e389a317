"""The web search: asks its engine as the engine wants to be asked, and tells the model what came of it."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import orjson
import pytest
from langchain_core.tools import BaseTool
from pydantic import SecretStr

from config.settings import Settings
from core.http_client import HttpClient
from services.tools import web_search
from services.tools.offered import create_tools
from services.tools.web_search import SearchEngine, SearxngEngine, TavilyEngine, create_web_search
from tests.search_engine_server import KEY, EngineAnswer, SearchEngineServer, search_engine

Kind = Literal["searxng", "tavily"]
KINDS: list[Kind] = ["searxng", "tavily"]
FOUND = {
    "query": "q",
    "results": [
        {"title": "Un", "url": "https://un.test/", "content": "Le  premier\nextrait", "score": 0.9},
        {"title": None, "url": "https://deux.test/", "content": None},
        {"title": "Sans adresse", "content": "oublié"},
        "pas un objet",
    ],
}


@asynccontextmanager
async def http_client() -> AsyncIterator[HttpClient]:
    http = HttpClient(2.0)
    await http.open()
    try:
        yield http
    finally:
        await http.close()


@asynccontextmanager
async def tool_of(kind: Kind, answer: EngineAnswer) -> AsyncIterator[tuple[BaseTool, SearchEngineServer]]:
    async with search_engine(kind, answer) as server, http_client() as http:
        yield create_web_search(_engine(kind, http, server.base_url)), server


def _engine(kind: Kind, http: HttpClient, base_url: str) -> SearchEngine:
    return SearxngEngine(http, base_url) if kind == "searxng" else TavilyEngine(http, base_url, SecretStr(KEY))


async def said_of(kind: Kind, answer: EngineAnswer, query: str = "météo à Brest") -> str:
    """What the model reads; the key is never in it."""
    async with tool_of(kind, answer) as (tool, server):
        said = str(await tool.ainvoke({"query": query}))
        assert len(server.queries) == 1
    assert KEY not in said
    return said


@pytest.mark.parametrize("kind", KINDS)
async def test_what_was_found_is_told_with_titles_addresses_and_excerpts(kind):
    async with tool_of(kind, EngineAnswer(FOUND)) as (tool, server):
        said = await tool.ainvoke({"query": "météo à Brest & co"})
    assert server.queries == ["météo à Brest & co"]
    assert said == "Un\nhttps://un.test/\nLe premier extrait\n\n\nhttps://deux.test/\n"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_base_address_may_end_in_a_slash(kind):
    async with search_engine(kind, EngineAnswer(FOUND)) as server, http_client() as http:
        await create_web_search(_engine(kind, http, f"{server.base_url}/")).ainvoke({"query": "q"})


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_found_is_said_so(kind):
    assert await said_of(kind, EngineAnswer({"results": []})) == "Nothing was found."


@pytest.mark.parametrize("kind", KINDS)
async def test_results_are_bounded_in_number_and_length_and_cannot_pass_for_one_another(kind):
    long = {"title": "T\nitre" * 1000, "url": "https://a.test/\nb" + "x" * 5000, "content": "mot " * 5000}
    said = await said_of(kind, EngineAnswer({"results": [long] * 50}))
    results = said.split("\n\n")
    assert [len(result.split("\n")) for result in results] == [3] * 5
    assert len(said) < 5 * 1300


@pytest.mark.parametrize("kind", KINDS)
async def test_a_long_query_is_cut_and_an_empty_one_is_not_asked(kind):
    async with tool_of(kind, EngineAnswer(FOUND)) as (tool, server):
        await tool.ainvoke({"query": "é" * 10_000})
        assert [len(query) for query in server.queries] == [400]
        assert await tool.ainvoke({"query": " \n"}) == "the query is empty"
        assert len(server.queries) == 1


# When the engine fails, the model is told; its words, which may quote the key, are not


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [400, 401, 403, 429, 500, 503, 204])
async def test_a_refusal_is_told_by_its_status_alone(kind, status):
    said = await said_of(kind, EngineAnswer({"detail": f"bad key {KEY}"}, status))
    assert said == f"the web search failed: its engine answered {status}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(kind, status):
    said = await said_of(kind, EngineAnswer({}, status, {"Location": f"/elsewhere?key={KEY}"}))
    assert said == f"the web search failed: its engine answered {status}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", [b"<html>Captcha", b"", b"{", b"\xff\xfe", KEY.encode()])
async def test_an_answer_that_is_not_json_is_told(kind, body):
    said = await said_of(kind, EngineAnswer(body))
    assert said == "the web search failed: its engine did not answer in JSON"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "body", [{}, [], None, 3, "results", {"results": None}, {"results": {"0": {}}}, {"detail": KEY}]
)
async def test_an_answer_without_results_is_told(kind, body):
    said = await said_of(kind, EngineAnswer(body))
    assert said == "the web search failed: its engine's answer has no results"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_huge_answer_is_not_read_to_its_end(kind, monkeypatch):
    monkeypatch.setattr(web_search, "MAX_ANSWER_BYTES", 10_000)
    body: Any = orjson.dumps({"results": [], "more": "x" * 5_000_000})
    assert await said_of(kind, EngineAnswer(body)) == "the web search failed: its engine answered more than 10000 bytes"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_slow_engine_is_given_up(kind, monkeypatch):
    monkeypatch.setattr(web_search, "TIMEOUT_S", 0.1)
    assert await said_of(kind, EngineAnswer(FOUND, is_late=True)) == "the web search took longer than 0.1 s"


@pytest.mark.parametrize("kind", KINDS)
async def test_an_engine_that_is_down_is_told(kind):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Nobody listens on it.
        async with http_client() as http:
            tool = create_web_search(_engine(kind, http, f"http://127.0.0.1:{taken.getsockname()[1]}"))
            assert await tool.ainvoke({"query": "q"}) == "the web search failed: its engine cannot be reached"


# Which engine there is


def settings(**fields: Any) -> Settings:
    return Settings(_env_file=None, **fields)


def names_of(**fields: Any) -> list[str]:
    return [tool.name for tool in create_tools(settings(**fields), HttpClient(2.0))]


def test_without_an_engine_the_tool_is_not_offered():
    assert names_of() == ["calculator", "clock", "fetch_page"]
    assert names_of(searxng_url="http://127.0.0.1:8080")[3:] == ["web_search"]
    assert names_of(tavily_api_key=KEY)[3:] == ["web_search"]


async def test_your_own_engine_goes_before_the_one_that_costs():
    async with search_engine("searxng", EngineAnswer(FOUND)) as own, http_client() as http:
        both = settings(searxng_url=own.base_url, tavily_api_key=KEY, tavily_base_url="http://127.0.0.1:9")
        tool = create_tools(both, http)[-1]
        assert "https://un.test/" in await tool.ainvoke({"query": "q"})
    assert own.queries == ["q"]


def test_a_key_is_not_shown_with_its_engine():
    assert KEY not in repr(TavilyEngine(HttpClient(2.0), "https://api.tavily.com", SecretStr(KEY)))
