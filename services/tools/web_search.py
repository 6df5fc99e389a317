"""The tool `web_search`: what the web says, by a SearXNG server of yours or by Tavily."""

from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import aiohttp
import orjson
from langchain_core.tools import BaseTool, StructuredTool, ToolException
from pydantic import SecretStr

from core.http_client import HttpClient

MAX_RESULTS = 5
MAX_QUERY_CHARS = 400
MAX_TITLE_CHARS = 200
MAX_URL_CHARS = 500
MAX_SNIPPET_CHARS = 500
MAX_ANSWER_BYTES = 2_000_000
TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class WebResult:
    """One page that was found."""

    title: str
    url: str
    snippet: str


class SearchEngine(Protocol):
    """Finds pages. Raises `ToolException` in words for the model, without the engine's own text."""

    async def search(self, query: str) -> list[WebResult]: ...


@dataclass(frozen=True, slots=True)
class SearxngEngine:
    """A SearXNG server whose settings allow the format `json`."""

    http: HttpClient
    base_url: str

    async def search(self, query: str) -> list[WebResult]:
        answer = await _asked(
            self.http, "GET", f"{self.base_url.rstrip('/')}/search", params={"q": query, "format": "json"}
        )
        return _results(answer)


@dataclass(frozen=True, slots=True)
class TavilyEngine:
    """https://docs.tavily.com: one POST, a bearer key."""

    http: HttpClient
    base_url: str
    api_key: SecretStr

    async def search(self, query: str) -> list[WebResult]:
        answer = await _asked(
            self.http,
            "POST",
            f"{self.base_url.rstrip('/')}/search",
            json={"query": query, "max_results": MAX_RESULTS},
            headers={"Authorization": f"Bearer {self.api_key.get_secret_value()}"},
        )
        return _results(answer)


def create_web_search(engine: SearchEngine) -> BaseTool:
    """The tool as models are shown it."""

    async def search(query: Annotated[str, "What to look for, in a few words."]) -> str:
        """Searches the web for recent or public facts. Gives titles, addresses and excerpts."""
        if not query.strip():
            raise ToolException("the query is empty")
        results = await engine.search(query[:MAX_QUERY_CHARS])
        if not results:
            return "Nothing was found."
        return "\n\n".join(f"{result.title}\n{result.url}\n{result.snippet}" for result in results)

    return StructuredTool.from_function(coroutine=search, name="web_search", handle_tool_error=True)


async def _asked(http: HttpClient, method: str, url: str, **options: Any) -> Any:
    """The engine's JSON. What went wrong is told without its words: they may quote the key."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with http.session.request(
            method, url, timeout=timeout, allow_redirects=False, proxy=http.proxy_for(url), **options
        ) as response:
            if response.status != 200:
                raise ToolException(f"the web search failed: its engine answered {response.status}")
            return _parsed(await _bounded(response))
    except TimeoutError:
        raise ToolException(f"the web search took longer than {TIMEOUT_S:g} s") from None
    except aiohttp.ClientError:
        raise ToolException("the web search failed: its engine cannot be reached") from None


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    while part := await response.content.readany():
        body += part
        if len(body) > MAX_ANSWER_BYTES:
            raise ToolException(f"the web search failed: its engine answered more than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ToolException("the web search failed: its engine did not answer in JSON") from None


def _results(answer: Any) -> list[WebResult]:
    found = answer.get("results") if isinstance(answer, dict) else None
    if not isinstance(found, list):
        raise ToolException("the web search failed: its engine's answer has no results")
    return [
        WebResult(
            _line(one.get("title"), MAX_TITLE_CHARS),
            _line(one["url"], MAX_URL_CHARS),
            _line(one.get("content"), MAX_SNIPPET_CHARS),
        )
        for one in found
        if isinstance(one, dict) and one.get("url")
    ][:MAX_RESULTS]


def _line(value: object, max_chars: int) -> str:
    """Each part of a result on a line of its own: a stranger's title must not pass for another result."""
    return " ".join(str(value or "").split())[:max_chars]
