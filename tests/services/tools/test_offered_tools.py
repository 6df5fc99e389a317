"""The tools as the server offers them: each use is told to a caller who wants to know, within bounds."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import BaseTool, StructuredTool, ToolException, tool

from app import create_app
from config.settings import Settings
from core.http_client import HttpClient
from domain.errors import ConfigurationError
from domain.runs import Progress
from services.agent_registry import AgentRegistry
from services.run_context import RunContext
from services.tools.offered import SHOWN_CHARS, announced, create_tools, tools_of_agents
from tests.house_for_tests import a_run, one_node, writes


def events_of(run: RunContext) -> list[dict[str, Any]]:
    told = [item for item in run.queue._items if isinstance(item, Progress)]
    assert all(item.kind == "tool" for item in told)
    return [dict(item.content) for item in told]


def tool_of(work: Callable[[], str], **options: Any) -> BaseTool:
    async def use(text: str = "", number: int = 0) -> str:
        """Does something."""
        return work()

    return announced(StructuredTool.from_function(coroutine=use, name="mine", **options))


def raises(error: BaseException) -> Callable[[], str]:
    def work() -> str:
        raise error

    return work


async def test_each_use_is_told_with_what_went_in_and_what_came_out():
    async with a_run(shows_progress=True) as run:
        assert await tool_of(lambda: "fait").ainvoke({"text": "à faire", "number": 3}) == "fait"
    assert events_of(run) == [
        {"tool": "mine", "status": "started", "input": {"text": "à faire", "number": "3"}},
        {"tool": "mine", "status": "finished", "output": "fait"},
    ]


async def test_nothing_is_told_to_a_run_that_does_not_ask_nor_outside_of_one():
    async with a_run() as run:
        assert await tool_of(lambda: "fait").ainvoke({}) == "fait"
    assert events_of(run) == []
    assert await tool_of(lambda: "fait").ainvoke({}) == "fait"


async def test_what_is_told_is_bounded():
    async with a_run(shows_progress=True) as run:
        assert len(await tool_of(lambda: "x" * 100_000).ainvoke({"text": "y" * 100_000})) == 100_000
    started, finished = events_of(run)
    assert started["input"]["text"] == "y" * SHOWN_CHARS
    assert finished["output"] == "x" * SHOWN_CHARS


async def test_a_failure_is_told_in_the_tools_own_words():
    async with a_run(shows_progress=True) as run:
        assert await tool_of(raises(ToolException("non " * 1000)), handle_tool_error=True).ainvoke({}) == "non " * 1000
    assert events_of(run)[1:] == [{"tool": "mine", "status": "failed", "error": ("non " * 1000)[:SHOWN_CHARS]}]


async def test_the_words_of_an_unexpected_failure_stay_with_the_server():
    async with a_run(shows_progress=True) as run:
        with pytest.raises(OSError, match="/srv/secret"):
            await tool_of(raises(OSError("/srv/secret"))).ainvoke({})
    assert events_of(run)[1:] == [{"tool": "mine", "status": "failed", "error": "the tool failed"}]


async def test_a_tool_that_a_node_uses_on_a_loop_of_its_own_runs_on_the_loop_of_the_run():
    loops: list[asyncio.AbstractEventLoop] = []

    def work() -> str:
        loops.append(asyncio.get_running_loop())
        return "fait"

    async with a_run(shows_progress=True) as run:
        used = await asyncio.to_thread(lambda: asyncio.run(tool_of(work).ainvoke({})))
        assert (used, loops) == ("fait", [run.loop])
        assert [event["status"] for event in events_of(run)] == ["started", "finished"]


async def test_an_abandoned_use_stays_abandoned():
    async with a_run(shows_progress=True):
        with pytest.raises(asyncio.CancelledError):
            await tool_of(raises(asyncio.CancelledError())).ainvoke({})


async def test_arguments_that_do_not_fit_are_no_use_of_the_tool():
    async with a_run(shows_progress=True) as run:
        with pytest.raises(ValueError, match="number"):
            await tool_of(lambda: "fait").ainvoke({"number": "beaucoup"})
    assert events_of(run) == []


async def test_the_model_is_shown_the_same_tool():
    @tool
    async def mine(text: str) -> str:
        """Does something."""
        return text

    shown = announced(mine)
    assert (shown.name, shown.description, shown.args) == (mine.name, mine.description, mine.args)
    assert shown is not mine


async def test_a_tool_of_another_kind_is_left_alone():
    @tool
    def mine(text: str) -> str:
        """Does something."""
        return text

    assert announced(mine) is mine


async def test_every_tool_that_is_offered_tells_of_its_uses():
    tools = create_tools(Settings(_env_file=None, clock_timezone="Asia/Tokyo"), HttpClient(2.0))
    inputs = {"calculator": {"expression": "1+1"}, "clock": {}, "fetch_page": {"url": "http://no"}}
    assert [one.name for one in tools] == list(inputs)
    async with a_run(shows_progress=True) as run:
        for one in tools:
            await one.ainvoke(inputs[one.name])
    told = [(event["tool"], event["status"]) for event in events_of(run)]
    assert told == [
        ("calculator", "started"),
        ("calculator", "finished"),
        ("clock", "started"),
        ("clock", "finished"),
        ("fetch_page", "started"),
        ("fetch_page", "failed"),
    ]
    assert "Asia/Tokyo" in events_of(run)[3]["output"]


# AGENT_TOOLS

KNOWN = create_tools(Settings(_env_file=None), HttpClient(2.0))


def test_agents_are_allowed_tools_by_name():
    chosen = tools_of_agents(["V2:calculator+clock", "mine:fetch_page", "none:"], KNOWN)
    assert chosen == {"V2": ("calculator", "clock"), "mine": ("fetch_page",), "none": ()}
    assert tools_of_agents([], KNOWN) == {}


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ("V2", "'V2' is not of the form agent:tool+tool"),
        (":clock", "':clock' is not of the form agent:tool+tool"),
        ("V2:clock+oven", "there is no tool 'oven' for agent 'V2'; there are calculator, clock, fetch_page"),
        ("V2:web_search", "web_search needs SEARXNG_URL or TAVILY_API_KEY"),
    ],
)
def test_a_choice_of_tools_that_cannot_be_read_is_refused(choice, words):
    with pytest.raises(ConfigurationError, match="AGENT_TOOLS: ") as refused:
        tools_of_agents([choice], KNOWN)
    assert words in str(refused.value)


def test_the_server_gives_an_agent_the_tools_that_are_chosen_for_it(tmp_path: Path):
    given: list[str] = []

    def create_graph(llm: Any, tools: list[BaseTool]) -> Any:
        given.extend(tool.name for tool in tools)
        return one_node(writes("x"))(llm)

    registry = AgentRegistry()
    registry.register_agent("mine", create_graph, "d")
    create_app(Settings(_env_file=None, data_dir=tmp_path, local_model="none", agent_tools=["mine:clock"]), registry)
    assert given == ["clock"]
