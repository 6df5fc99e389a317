"""Questions of graphs that one node runs, one after the other or at once: each is kept and answered as its own."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.graph import MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Send, interrupt
from pydantic import BaseModel

from domain.errors import ThreadAnswered, ThreadWaits
from services import threads as threads_module
from tests.house_for_tests import failure_of, finish_of, text_of
from tests.postgres_for_tests import _made_cluster, database_url, postgres, tmp_path
from tests.scripted_provider import Step, call_tool, finish
from tests.services.test_thread_answers import PAID, REFUSED, State, a_graph, answer, ids_of, waiting
from tests.services.test_threads import OUI, refusal, server, turn

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.

NOTHING: dict[str, Any] = {"messages": []}


def asking(*questions: str, **options: Any) -> Any:
    """A graph of one node that asks one question after the other."""

    def ask(_: State) -> dict[str, Any]:
        return {"messages": [AIMessage(" ".join(f"{one}={interrupt(one)}" for one in questions))]}

    return a_graph(ask=ask).compile(**options)


def calm() -> Any:
    return a_graph(calm=lambda _: {"messages": [AIMessage("calm")]}).compile()


async def run_of(graph: Any) -> str:
    text: str = (await graph.ainvoke(NOTHING))["messages"][-1].text
    return text


# The graphs are names of the functions that run them: this is how LangGraph finds those of a node.


def one_after_the_other(first: Any, second: Any) -> StateGraph[Any]:
    async def outer(_: State) -> dict[str, Any]:
        return {"messages": [AIMessage(f"{await run_of(first)} {await run_of(second)}")]}

    return a_graph(outer=outer)


def at_once(first: Any, second: Any) -> StateGraph[Any]:
    async def outer(_: State) -> dict[str, Any]:
        return {"messages": [AIMessage(" ".join(await asyncio.gather(run_of(first), run_of(second))))]}

    return a_graph(outer=outer)


def again(graph: Any) -> StateGraph[Any]:
    async def outer(_: State) -> dict[str, Any]:
        return {"messages": [AIMessage(" ".join([await run_of(graph) for _ in range(3)]))]}

    return a_graph(outer=outer)


def in_a_graph_within(first: Any, second: Any) -> StateGraph[Any]:
    return a_graph(around=one_after_the_other(first, second).compile())


WAYS: dict[str, tuple[Any, list[str], str]] = {
    "two that ask": (lambda: one_after_the_other(asking("a"), asking("b")), ["a", "b"], "a=1 b=2"),
    "one that asks nothing first": (lambda: one_after_the_other(calm(), asking("a")), ["a"], "calm a=1"),
    "in a loop": (lambda: again(asking("a")), ["a", "a", "a"], "a=1 a=2 a=3"),
    "with memories": (
        lambda: one_after_the_other(asking("a", checkpointer=True), asking("b", checkpointer=True)),
        ["a", "b"],
        "a=1 b=2",
    ),
    "each twice": (
        lambda: one_after_the_other(asking("a", "b"), asking("c", "d")),
        ["a", "b", "c", "d"],
        "a=1 b=2 c=3 d=4",
    ),
    "in a graph within": (lambda: in_a_graph_within(asking("a"), asking("b", "c")), ["a", "b", "c"], "a=1 b=2 c=3"),
}


@pytest.mark.parametrize("way", WAYS)
async def test_each_question_of_a_node_that_runs_several_graphs_is_answered(
    database_url: str, tmp_path: Path, way: str
) -> None:
    create, questions, text = WAYS[way]
    async with server(database_url, tmp_path, agents={"mine": lambda llm: create()}) as (house, _, _):
        events, passed = await turn(house, "Hi", agent="mine"), list[str]()
        for number, question in enumerate(questions, start=1):
            (pending,) = finish_of(events).interrupts
            assert (pending.value, await waiting(house)) == (question, [question])
            assert house.ledger.rows[-1].status == "interrupted"
            assert "resume" in await refusal(house, ThreadWaits, "And?", agent="mine")
            for one in passed:
                assert one in await refusal(house, ThreadAnswered, "", agent="mine", resume={one: "again"})
            events = await answer(house, {pending.id: number})
            passed.append(pending.id)
        assert (text_of(events), finish_of(events).interrupts) == (text, ())
        assert await waiting(house) == []
        assert "answered already" in await refusal(house, ThreadAnswered, "", agent="mine", resume=1)
        assert list(ids_of(await turn(house, "Again.", agent="mine"))) == questions[:1]


async def test_graphs_that_a_node_runs_at_once_are_each_answered(database_url: str, tmp_path: Path) -> None:
    agents = {"mine": lambda llm: at_once(asking("a"), asking("b"))}
    async with server(database_url, tmp_path, agents=agents) as (house, _, _):
        first = ids_of(await turn(house, "Hi", agent="mine"))
        (question,) = first
        assert await waiting(house) == [question]
        second = ids_of(await answer(house, f"{question}!"))
        assert set(first) | set(second) == {"a", "b"}
        again = {first[question]: "again"}
        assert first[question] in await refusal(house, ThreadAnswered, "", agent="mine", resume=again)
        (other,) = await waiting(house)
        assert text_of(await answer(house, f"{other}!")) == "a=a! b=b!"


def a_second_that_pays(llm: Any) -> StateGraph[Any]:
    """The answer's node needs the model."""

    async def pay(_: State) -> dict[str, Any]:
        agreed = interrupt("Pay?")
        await llm.with_config(tags=["nostream"]).ainvoke("Write it down.")
        return {"messages": [AIMessage(f"PAID {agreed}")]}

    return one_after_the_other(asking("one"), a_graph(pay=pay).compile())


def a_second_that_asks_then_pays(llm: Any) -> StateGraph[Any]:
    """The node after the answer's needs the model."""

    async def pay(_: State) -> dict[str, Any]:
        await llm.with_config(tags=["nostream"]).ainvoke("Write it down.")
        return {}

    ask = a_graph(ask=lambda _: {"messages": [AIMessage(f"PAID {interrupt('Pay?')}")]}, pay=pay)
    return one_after_the_other(asking("one"), ask.compile())


async def test_a_second_graphs_question_stays_when_its_answer_failed(database_url: str, tmp_path: Path) -> None:
    agents = {"mine": a_second_that_pays}
    async with server(database_url, tmp_path, REFUSED, PAID, agents=agents) as (house, _, _):
        await turn(house, "Hi", agent="mine")
        ids = ids_of(await answer(house, 1))
        assert failure_of(await answer(house, True)) is not None
        assert await waiting(house) == ["Pay?"]
        assert text_of(await answer(house, {ids["Pay?"]: False})) == "one=1 PAID False"


async def test_a_second_graphs_question_is_over_when_the_graph_has_gone_past_it(
    database_url: str, tmp_path: Path
) -> None:
    async with server(database_url, tmp_path, REFUSED, agents={"mine": a_second_that_asks_then_pays}) as (house, _, _):
        await turn(house, "Hi", agent="mine")
        await answer(house, 1)
        assert failure_of(await answer(house, True)) is not None
        assert await waiting(house) == []
        assert "answered already" in await refusal(house, ThreadAnswered, "", agent="mine", resume=False)
        assert list(ids_of(await turn(house, "Again.", agent="mine"))) == ["one"]


async def test_an_answer_to_a_nodes_own_question_is_none_to_that_of_a_graph_it_runs(
    database_url: str, tmp_path: Path
) -> None:
    within = asking("inner?")

    async def outer(_: State) -> dict[str, Any]:
        first, second = interrupt("outer?"), await run_of(within)
        return {"messages": [AIMessage(f"{first} {second} {interrupt('again?')}")]}

    async with server(database_url, tmp_path, agents={"mine": lambda llm: a_graph(outer=outer)}) as (house, _, _):
        passed = ids_of(await turn(house, "Hi", agent="mine"))
        for sent, question in ((1, "inner?"), (2, "again?")):
            found = ids_of(await answer(house, sent))
            assert list(found) == [question]
            for one in passed.values():
                assert one in await refusal(house, ThreadAnswered, "", agent="mine", resume={one: "again"})
            passed |= found
        assert text_of(await answer(house, 3)) == "1 inner?=2 3"


async def test_pruning_leaves_what_a_second_graphs_question_needs(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads_module, "PRUNE_EVERY", 1)
    agents = {"mine": a_second_that_asks_then_pays}
    async with server(database_url, tmp_path, REFUSED, agents=agents) as (house, _, threads):
        await turn(house, "Hi", agent="mine")
        await answer(house, 1)
        while threads._background:
            await asyncio.gather(*threads._background)
        assert await waiting(house) == ["Pay?"]
        assert failure_of(await answer(house, True)) is not None
        assert await waiting(house) == []


async def test_tasks_of_a_second_graph_each_keep_their_questions(database_url: str, tmp_path: Path) -> None:
    def asks(state: dict[str, Any]) -> dict[str, Any]:
        name = state["name"]
        return {"done": [f"{name} {interrupt(f'{name} 1')} {interrupt(f'{name} 2')}"]}

    def create(llm: Any) -> StateGraph[Any]:
        graph: StateGraph[Any] = StateGraph(State)
        graph.add_node("ask", asks)
        graph.add_node("sum", lambda state: {"messages": [AIMessage(", ".join(sorted(state["done"])))]})
        graph.set_conditional_entry_point(lambda _: [Send("ask", {"name": name}) for name in "ab"], ["ask"])
        graph.add_edge("ask", "sum")
        return one_after_the_other(calm(), graph.compile())

    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        first = ids_of(await turn(house, "Hi", agent="mine"))
        assert sorted(first) == ["a 1", "b 1"]
        second = ids_of(await answer(house, {first["a 1"]: "w"}))
        assert sorted(second) == ["a 2", "b 1"]
        both = {first["a 1"]: "again", second["b 1"]: "x"}
        assert first["a 1"] in await refusal(house, ThreadAnswered, "", agent="mine", resume=both)
        third = ids_of(await answer(house, {second["a 2"]: "y", second["b 1"]: "x"}))
        assert text_of(await answer(house, {third["b 2"]: "z"})) == "calm a w y, b x z"


def with_a_tool(llm: Any, first: Any, second: Any) -> StateGraph[Any]:
    @tool
    async def buy() -> str:
        """Buys."""
        return f"{await run_of(first)} {await run_of(second)}"

    model = llm.bind_tools([buy])

    async def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph: StateGraph[Any] = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_node("tools", ToolNode([buy]))
    graph.set_entry_point("think")
    graph.add_conditional_edges("think", tools_condition)
    graph.add_edge("tools", "think")
    return graph


CALL: list[Step] = [*call_tool("buy", "{}"), *finish(reason="tool_calls")]


async def test_a_tool_may_run_several_graphs_that_ask(database_url: str, tmp_path: Path) -> None:
    agents = {"mine": lambda llm: with_a_tool(llm, asking("buy?"), asking("ship?"))}
    async with server(database_url, tmp_path, CALL, OUI, agents=agents) as (house, provider, _):
        await turn(house, "Hi", agent="mine")
        assert await waiting(house) == ["buy?"]
        await answer(house, 1)
        assert await waiting(house) == ["ship?"]
        assert text_of(await answer(house, 2)) == "Oui"
    assert provider.requests[1]["messages"][-1]["content"] == "buy?=1 ship?=2"


async def test_a_question_that_a_tools_graph_has_gone_past_is_over(database_url: str, tmp_path: Path) -> None:
    async def pay(_: State) -> dict[str, Any]:
        raise RuntimeError("no money")

    def create(llm: Any) -> StateGraph[Any]:
        ask = a_graph(ask=lambda _: {"done": [str(interrupt("buy?"))]}, pay=pay)
        return with_a_tool(llm, ask.compile(), calm())

    async with server(database_url, tmp_path, CALL, agents={"mine": create}) as (house, _, _):
        await turn(house, "Hi", agent="mine")
        assert failure_of(await answer(house, 1)) is not None
        assert await waiting(house) == []
        assert "answered already" in await refusal(house, ThreadAnswered, "", agent="mine", resume=2)


class Order(BaseModel):
    messages: list[Any]
    amount: int = 900


class Parcel(BaseModel):
    messages: list[Any]
    address: str


async def test_a_graph_that_langgraph_takes_for_another_of_its_node_is_read_all_the_same(
    database_url: str, tmp_path: Path
) -> None:
    def of(schema: type[BaseModel], question: str) -> Any:
        graph: StateGraph[Any] = StateGraph(schema)
        graph.add_node("ask", lambda _: {"messages": [AIMessage(f"{question}={interrupt(question)}")]})
        graph.set_entry_point("ask")
        return graph.compile()

    def create(llm: Any) -> StateGraph[Any]:
        purchase, delivery = of(Order, "order?"), of(Parcel, "where to?")

        async def outer(_: State) -> dict[str, Any]:
            bought = (await purchase.ainvoke({"messages": []}))["messages"][-1].text
            shipped = (await delivery.ainvoke({"messages": [], "address": "here"}))["messages"][-1].text
            return {"messages": [AIMessage(f"{bought} {shipped}")]}

        return a_graph(outer=outer)

    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        await turn(house, "Hi", agent="mine")
        assert await waiting(house) == ["order?"]
        assert list(ids_of(await answer(house, 1))) == ["where to?"]
        assert text_of(await answer(house, 2)) == "order?=1 where to?=2"
