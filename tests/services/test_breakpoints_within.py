"""Breakpoints of graphs within: each pause has an id of its own, as those of the agent's own graph have."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import interrupt

from domain.errors import ThreadAnswered, ThreadWaits
from services import threads as threads_module
from tests.house_for_tests import House, failure_of, finish_of, text_of
from tests.postgres_for_tests import _made_cluster, database_url, postgres, tmp_path
from tests.services.test_breakpoints import REFUSED
from tests.services.test_thread_answers import PAID, State, a_graph, answer
from tests.services.test_threads import refusal, server, state_of, turn

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.


def three_nodes(llm: Any = None, **options: Any) -> Any:
    async def act(_: State) -> dict[str, Any]:
        if llm is not None:
            await llm.with_config(tags=["nostream"]).ainvoke("Act.")
        return {"messages": [AIMessage("acted")]}

    def tail(_: State) -> dict[str, Any]:
        return {"messages": [AIMessage("done")]}

    return a_graph(plan=lambda _: {}, act=act, tail=tail).compile(**options)


def by_a_function(graph: Any) -> StateGraph[Any]:
    async def outer(_: State) -> dict[str, Any]:
        return {"messages": [AIMessage((await graph.ainvoke({"messages": []}))["messages"][-1].text)]}

    return a_graph(outer=outer)


def by_a_function_one_after_the_other(first: Any, second: Any) -> StateGraph[Any]:
    async def outer(_: State) -> dict[str, Any]:
        await first.ainvoke({"messages": []})
        return {"messages": [AIMessage((await second.ainvoke({"messages": []}))["messages"][-1].text)]}

    return a_graph(outer=outer)


def by_a_function_that_names_them(graph: Any) -> StateGraph[Any]:
    """Breakpoints that no compiled graph has."""

    async def outer(_: State) -> dict[str, Any]:
        found = await graph.ainvoke({"messages": []}, interrupt_before=["act"], interrupt_after=["act"])
        return {"messages": [AIMessage(found["messages"][-1].text)]}

    return a_graph(outer=outer)


def by_a_function_of_a_list(graph: Any) -> StateGraph[Any]:
    """Where LangGraph does not look for graphs."""
    graphs = [graph]

    async def outer(_: State) -> dict[str, Any]:
        return {"messages": [AIMessage((await graphs[0].ainvoke({"messages": []}))["messages"][-1].text)]}

    return a_graph(outer=outer)


def by_a_tool(graph: Any) -> StateGraph[Any]:
    @tool
    async def look_up() -> str:
        """Looks it up."""
        found: str = (await graph.ainvoke({"messages": []}))["messages"][-1].text
        return found

    def call(_: State) -> dict[str, Any]:
        return {"messages": [AIMessage("", tool_calls=[{"name": "look_up", "args": {}, "id": str(uuid4())}])]}

    def end(state: State) -> dict[str, Any]:
        return {"messages": [AIMessage(state["messages"][-1].text)]}

    return a_graph(call=call, tools=ToolNode([look_up]), end=end)


ALL = ["plan", "act", "tail"]
WAYS: dict[str, tuple[Any, list[str]]] = {
    "a node": (lambda: a_graph(outer=three_nodes(interrupt_before="*")), ALL),
    "a node that remembers, before and after": (
        lambda: a_graph(
            outer=three_nodes(interrupt_before=["act"], interrupt_after=["act"], checkpointer=True),
            end=lambda _: {"messages": [AIMessage("done")]},
        ).compile(interrupt_before=["end"]),
        ["act", "tail", "end"],
    ),
    "a function": (lambda: by_a_function(three_nodes(interrupt_before="*")), ALL),
    "a function of a list": (lambda: by_a_function_of_a_list(three_nodes(interrupt_before="*")), ALL),
    "a function that names them": (lambda: by_a_function_that_names_them(three_nodes()), ["act", "tail"]),
    "a tool": (lambda: by_a_tool(three_nodes(interrupt_before="*")), ALL),
    "a function with several": (
        lambda: by_a_function_one_after_the_other(
            three_nodes(interrupt_before="*"), three_nodes(interrupt_before=["tail"])
        ),
        [*ALL, "tail"],
    ),
    "twice within": (lambda: a_graph(outer=by_a_function(three_nodes(interrupt_before="*")).compile()), ALL),
    "after the last of a node": (lambda: a_graph(outer=three_nodes(interrupt_after="*")), ["act", "tail", "outer"]),
    "after the last of a function": (lambda: by_a_function(three_nodes(interrupt_after=["tail"])), ["outer"]),
    "after the last of several": (
        lambda: by_a_function_one_after_the_other(
            three_nodes(interrupt_after=["tail"]), three_nodes(interrupt_after="*")
        ),
        ["outer", "act", "tail", "outer"],
    ),
    "after the last, then another": (
        lambda: by_a_function_one_after_the_other(three_nodes(interrupt_after=["tail"]), three_nodes()),
        ["outer"],
    ),
    "after the last, beside one that has ended": (
        lambda: by_a_function_one_after_the_other(three_nodes(), three_nodes(interrupt_after=["tail"])),
        ["outer"],
    ),
    "after the last, twice within": (
        lambda: a_graph(middle=by_a_function(three_nodes(interrupt_after=["tail"])).compile(interrupt_after=["outer"])),
        ["outer", "middle"],
    ),
    "after the last of a tool": (lambda: by_a_tool(three_nodes(interrupt_after=["tail"])), ["tools"]),
    "also before it": (
        lambda: a_graph(outer=three_nodes(interrupt_before="*")).compile(interrupt_before=["outer"]),
        ["outer", *ALL],
    ),
}


async def pauses(house: House) -> list[tuple[str, tuple[str, ...]]]:
    return [(one.id, one.next) for one in (await state_of(house, "t", "mine")).interrupts]


@pytest.mark.parametrize("way", WAYS)
async def test_each_pause_of_a_graph_within_is_passed_by_itself(database_url: str, tmp_path: Path, way: str) -> None:
    create, nodes = WAYS[way]
    async with server(database_url, tmp_path, agents={"mine": lambda llm: create()}) as (house, _, _):
        for _ in range(2):
            events, passed = await turn(house, "Hi", agent="mine"), list[str]()
            for node in nodes:
                (pause,) = finish_of(events).interrupts
                assert (pause.next, pause.value) == ((node,), {"next": [node]})
                assert await pauses(house) == [(pause.id, (node,))]
                assert node in await refusal(house, ThreadWaits, "And?", agent="mine")
                for one in passed:
                    assert one in await refusal(house, ThreadAnswered, "", agent="mine", resume={one: True})
                passed.append(pause.id)
                events = await answer(house, {pause.id: True})
            assert (text_of(events), finish_of(events).interrupts) == ("done", ())
            assert await pauses(house) == []
            assert "answered already" in await refusal(house, ThreadAnswered, "", agent="mine", resume=None)


async def test_a_pause_within_stays_when_what_came_next_failed(database_url: str, tmp_path: Path) -> None:
    def create(llm: Any) -> StateGraph[Any]:
        return by_a_function(three_nodes(llm, interrupt_before="*"))

    async with server(database_url, tmp_path, REFUSED, PAID, agents={"mine": create}) as (house, _, _):
        await turn(house, "Hi", agent="mine")
        (pause,) = finish_of(await answer(house, None)).interrupts
        assert failure_of(await answer(house, {pause.id: True})) is not None
        assert await pauses(house) == [(pause.id, ("act",))]
        assert finish_of(await answer(house, {pause.id: True})).interrupts[0].next == ("tail",)
        assert pause.id in await refusal(house, ThreadAnswered, "", agent="mine", resume={pause.id: True})
        assert text_of(await answer(house, True)) == "done"


async def test_a_failure_past_a_pause_within_is_no_pause(database_url: str, tmp_path: Path) -> None:
    def create(llm: Any) -> StateGraph[Any]:
        return a_graph(outer=three_nodes(llm, interrupt_before=["plan"]))

    async with server(database_url, tmp_path, REFUSED, agents={"mine": create}) as (house, _, _):
        await turn(house, "Hi", agent="mine")
        assert failure_of(await answer(house, None)) is not None
        assert await pauses(house) == []
        assert "answered already" in await refusal(house, ThreadAnswered, "", agent="mine", resume=None)
        assert finish_of(await turn(house, "Hi", agent="mine")).interrupts[0].next == ("plan",)


async def test_graphs_that_pause_at_once_go_on_together(database_url: str, tmp_path: Path) -> None:
    def create(llm: Any) -> StateGraph[Any]:
        graph: StateGraph[Any] = StateGraph(State)
        graph.add_node("one", three_nodes(llm, interrupt_before=["act"]))
        graph.add_node("two", three_nodes(interrupt_before=["tail"]))
        graph.add_node("end", lambda _: {"messages": [AIMessage("both")]})
        for name in ("one", "two"):
            graph.add_edge(START, name)
        graph.add_edge(["one", "two"], "end")
        graph.add_edge("end", END)
        return graph

    async with server(database_url, tmp_path, REFUSED, PAID, agents={"mine": create}) as (house, _, _):
        (pause,) = finish_of(await turn(house, "Hi", agent="mine")).interrupts
        assert sorted(pause.next) == ["act", "tail"]
        assert failure_of(await answer(house, {pause.id: True})) is not None
        ((_, following),) = await pauses(house)
        assert "act" in following
        assert text_of(await answer(house, None)) == "both"


async def test_an_answer_to_a_passed_pause_within_is_none_to_a_later_question(
    database_url: str, tmp_path: Path
) -> None:
    def create(llm: Any) -> StateGraph[Any]:
        ask = a_graph(ask=lambda _: {"messages": [AIMessage(f"got {interrupt('what?')}")]})
        return a_graph(outer=ask.compile(interrupt_before=["ask"]))

    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        (pause,) = finish_of(await turn(house, "Hi", agent="mine")).interrupts
        (question,) = finish_of(await answer(house, {pause.id: True})).interrupts
        assert question.value == "what?"
        assert pause.id in await refusal(house, ThreadAnswered, "", agent="mine", resume={pause.id: True})
        assert text_of(await answer(house, 1)) == "got 1"


async def test_pruning_leaves_a_pause_within(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads_module, "PRUNE_EVERY", 1)
    create, nodes = WAYS["a function"]
    async with server(database_url, tmp_path, agents={"mine": lambda llm: create()}) as (house, _, threads):
        events, passed = await turn(house, "Hi", agent="mine"), list[str]()
        for node in nodes:
            while threads._background:
                await asyncio.gather(*threads._background)
            (pause,) = finish_of(events).interrupts
            assert await pauses(house) == [(pause.id, (node,))]
            for one in passed:
                assert one in await refusal(house, ThreadAnswered, "", agent="mine", resume={one: True})
            passed.append(pause.id)
            events = await answer(house, {pause.id: True})
        assert text_of(events) == "done"
