"""The tools that this server offers: those whose settings are there. Each use is shown to a caller who wants events."""

import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from langchain_core.tools import BaseTool, StructuredTool, ToolException

from config.settings import Settings
from core.http_client import HttpClient
from domain.errors import ConfigurationError
from services.run_context import current_run, on_the_loop_of_the_run
from services.tools.calculator import create_calculator
from services.tools.clock import create_clock
from services.tools.web_page import create_fetch_page
from services.tools.web_search import SearchEngine, SearxngEngine, TavilyEngine, create_web_search

SHOWN_CHARS = 500


def create_tools(settings: Settings, http: HttpClient) -> list[BaseTool]:
    """The calculator, the clock and the page reader; the web search where it has an engine."""
    tools = [create_calculator(), create_clock(settings.clock_timezone), create_fetch_page()]
    if (engine := _engine(settings, http)) is not None:
        tools.append(create_web_search(engine))
    return [announced(tool) for tool in tools]


def tools_of_agents(choices: Sequence[str], tools: Sequence[BaseTool]) -> dict[str, tuple[str, ...]]:
    """AGENT_TOOLS as tools by agent (`V2:calculator+clock`). Raises `ConfigurationError` for a tool it lacks."""
    known = [tool.name for tool in tools]
    chosen: dict[str, tuple[str, ...]] = {}
    for choice in choices:
        agent, colon, names = choice.rpartition(":")
        wanted = tuple(name for name in names.split("+") if name)
        if not colon or not agent:
            raise ConfigurationError(f"AGENT_TOOLS: {choice!r} is not of the form agent:tool+tool")
        if missing := [name for name in wanted if name not in known]:
            raise ConfigurationError(
                f"AGENT_TOOLS: there is no tool {missing[0]!r} for agent {agent!r}; there are {', '.join(known)} "
                f"(web_search needs SEARXNG_URL or TAVILY_API_KEY)"
            )
        chosen[agent] = wanted
    return chosen


def announced(tool: BaseTool) -> BaseTool:
    """The same tool, telling of each use: `event: tool`."""
    if not isinstance(tool, StructuredTool) or tool.coroutine is None:
        return tool
    return tool.model_copy(update={"coroutine": _telling(tool.name, tool.coroutine)})


def _telling(name: str, work: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def work_here(*args: Any, **inputs: Any) -> Any:
        return await work(*args, **inputs)

    @functools.wraps(work)
    async def told(*args: Any, **inputs: Any) -> Any:
        _show(name, "started", input={key: str(value)[:SHOWN_CHARS] for key, value in inputs.items()})
        try:
            # A node may have a loop of its own; connections belong to the server's.
            output = await on_the_loop_of_the_run(lambda: work_here(*args, **inputs))
        except Exception as error:
            # Only a tool's own words are meant to be read by callers.
            told_why = str(error) if isinstance(error, ToolException) else "the tool failed"
            _show(name, "failed", error=told_why[:SHOWN_CHARS])
            raise
        _show(name, "finished", output=str(output)[:SHOWN_CHARS])
        return output

    return told


def _show(name: str, status: str, **more: object) -> None:
    if (run := current_run.get()) is not None:
        run.show("tool", {"tool": name, "status": status, **more})


def _engine(settings: Settings, http: HttpClient) -> SearchEngine | None:
    """Your own engine first: it costs nothing and tells nobody."""
    if settings.searxng_url is not None:
        return SearxngEngine(http, settings.searxng_url)
    if settings.tavily_api_key is not None:
        return TavilyEngine(http, settings.tavily_base_url, settings.tavily_api_key)
    return None
