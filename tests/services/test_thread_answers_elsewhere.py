"""Questions that are asked from tools, fanned-out tasks and graphs of other kinds: answered as those of plain nodes."""

import asyncio
import operator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, Send, interrupt

from domain.errors import ThreadAnswered
from services import threads as threads_module
from tests.house_for_tests import failure_of, finish_of, text_of
from tests.postgres_for_tests import _made_cluster, database_url, postgres, tmp_path
from tests.scripted_provider import Status, Step, call_tool, finish
from tests.services.test_thread_answers import a_graph, answer, ids_of, pays, waiting
from tests.services.test_threads import OUI, refusal, server, turn

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.

REFUSED: list[Step] = [Status(400, {"error": {"message": "no"}})]


class State(TypedDict):
    messages: Annotated[list[Any], add_messages]
    done: Annotated[list[str], operator.add]


def one_a_task(llm: Any) -> StateGraph[Any]:
    """The same node three times at once, by `Send`."""

    async def ask(state: dict[str, Any]) -> dict[str, Any]:
        name = state["name"]
        given = interrupt(name)
        if given == "fail":
            await llm.with_config(tags=["nostream"]).ainvoke("x")
        return {"done": [f"{name} {given}"]}

    graph: StateGraph[Any] = StateGraph(State)
    graph.add_node("ask", ask)
    graph.add_node("sum", lambda state: {"messages": [AIMessage(", ".join(sorted(state["done"])))]})
    graph.add_conditional_edges(START, lambda _: [Send("ask", {"name": name}) for name in "abc"], ["ask"])
    graph.add_edge("ask", "sum")
    graph.add_edge("sum", END)
    return graph


async def test_tasks_that_were_sent_out_each_take_their_answer(database_url: str, tmp_path: Path) -> None:
    async with server(database_url, tmp_path, REFUSED, agents={"mine": one_a_task}) as (house, _, _):
        ids = ids_of(await turn(house, "Hi", agent="mine"))
        assert sorted(ids) == ["a", "b", "c"]
        await answer(house, {ids["a"]: 1})
        assert failure_of(await answer(house, {ids["b"]: "fail"})) is not None
        assert sorted(await waiting(house)) == ["b", "c"]
        assert text_of(await answer(house, {ids["b"]: 2, ids["c"]: 3})) == "a 1, b 2, c 3"


async def test_a_tool_may_ask(database_url: str, tmp_path: Path) -> None:
    @tool
    def pay(amount: int) -> str:
        """Pays."""
        return "paid" if interrupt(f"Pay {amount}?") else "not paid"

    def create(llm: Any) -> StateGraph[Any]:
        model = llm.bind_tools([pay])

        async def think(state: MessagesState) -> dict[str, Any]:
            return {"messages": [await model.ainvoke(state["messages"])]}

        graph: StateGraph[Any] = StateGraph(MessagesState)
        graph.add_node("think", think)
        graph.add_node("tools", ToolNode([pay]))
        graph.add_edge(START, "think")
        graph.add_conditional_edges("think", tools_condition)
        graph.add_edge("tools", "think")
        return graph

    call: list[Step] = [*call_tool("pay", '{"amount": 9}'), *finish(reason="tool_calls")]
    async with server(database_url, tmp_path, call, OUI, agents={"mine": create}) as (house, provider, _):
        await turn(house, "Pay.", agent="mine")
        assert await waiting(house) == ["Pay 9?"]
        assert text_of(await answer(house, False)) == "Oui"
        assert "answered already" in await refusal(house, ThreadAnswered, "", agent="mine", resume=True)
    assert provider.requests[1]["messages"][-1]["content"] == "not paid"


def within_a_function(llm: Any) -> StateGraph[Any]:
    inner = pays(llm).compile()

    async def outer(state: State) -> dict[str, Any]:
        return {"messages": (await inner.ainvoke(state))["messages"][-1:]}

    return a_graph(outer=outer)


def with_a_memory_of_its_own(llm: Any) -> StateGraph[Any]:
    return a_graph(outer=pays(llm).compile(checkpointer=True))


def twice_within(llm: Any) -> StateGraph[Any]:
    return a_graph(outer=a_graph(middle=pays(llm).compile()).compile())


@pytest.mark.parametrize("create", [within_a_function, with_a_memory_of_its_own, twice_within])
async def test_a_graph_within_may_ask(database_url: str, tmp_path: Path, create: Any) -> None:
    async with server(database_url, tmp_path, REFUSED, OUI, OUI, agents={"mine": create}) as (house, _, _):
        await turn(house, "Pay.", agent="mine")
        assert failure_of(await answer(house, True)) is not None
        assert await waiting(house) == ["Pay 900 EUR?"]
        assert text_of(await answer(house, False)) == "NOT PAID False"
        assert "answered already" in await refusal(house, ThreadAnswered, "", agent="mine", resume=True)
        assert finish_of(await turn(house, "Again.", agent="mine")).interrupts[0].value == "Pay 900 EUR?"
        assert text_of(await answer(house, True)) == "PAID True"


async def test_a_node_may_ask_and_then_go_elsewhere(database_url: str, tmp_path: Path) -> None:
    def route(_: State) -> Command[Any]:
        return Command(goto="yes" if interrupt("which way?") else "no")

    def create(llm: Any) -> StateGraph[Any]:
        graph: StateGraph[Any] = StateGraph(State)
        graph.add_node("route", route, destinations=("yes", "no"))
        for name in ("yes", "no"):
            graph.add_node(name, lambda _, name=name: {"messages": [AIMessage(name)]})
        graph.add_edge(START, "route")
        return graph

    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        for resume, way in ((True, "yes"), (None, "no")):
            await turn(house, "Go.", agent="mine")
            assert text_of(await answer(house, resume)) == way


@pytest.mark.parametrize("create", [with_a_memory_of_its_own, twice_within])
async def test_pruning_leaves_what_a_question_needs(
    database_url: str, tmp_path: Path, create: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads_module, "PRUNE_EVERY", 1)
    async with server(database_url, tmp_path, OUI, agents={"mine": create}) as (house, _, threads):
        await turn(house, "Pay.", agent="mine")
        while threads._background:
            await asyncio.gather(*threads._background)
        assert await waiting(house) == ["Pay 900 EUR?"]
        assert text_of(await answer(house, True)) == "PAID True"
