"""Graphs that a node's function runs with an answer: their states do not outlive the answer when the node fails."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.func import task
from langgraph.graph import START, StateGraph
from langgraph.types import Send, interrupt

from services.thread_saver import ThreadSaver
from tests.house_for_tests import failure_of, text_of
from tests.postgres_for_tests import WAIT_S, _made_cluster, database_url, postgres, tmp_path
from tests.services.test_thread_answers import PAID, REFUSED, State, a_graph, answer, ids_of, waiting
from tests.services.test_threads import count, server, turn

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.


def carried_out(llm: Any, done: list[str]) -> Any:
    """A graph that takes an order in its first node, and needs the model in its second."""

    def take(state: State) -> dict[str, Any]:
        done.append(state["messages"][-1].text)
        return {"messages": [AIMessage(f"took {state['messages'][-1].text}")]}

    async def confirm(_: State) -> dict[str, Any]:
        await llm.with_config(tags=["nostream"]).ainvoke("Write it down.")
        return {}

    return a_graph(take=take, confirm=confirm).compile()


def by_a_function(llm: Any, done: list[str]) -> StateGraph[Any]:
    graph = carried_out(llm, done)

    async def outer(_: State) -> dict[str, Any]:
        order = HumanMessage(str(interrupt("Order?")))
        return {"messages": [(await graph.ainvoke({"messages": [order]}))["messages"][-1]]}

    return a_graph(outer=outer)


def by_a_plain_function(llm: Any, done: list[str]) -> StateGraph[Any]:
    graph = carried_out(llm, done)

    def outer(_: State) -> dict[str, Any]:
        order = HumanMessage(str(interrupt("Order?")))
        return {"messages": [asyncio.run(graph.ainvoke({"messages": [order]}))["messages"][-1]]}

    return a_graph(outer=outer)


def by_a_graph_of_a_function(llm: Any, done: list[str]) -> StateGraph[Any]:
    graph = carried_out(llm, done)

    async def inner(state: State) -> dict[str, Any]:
        return {"messages": [(await graph.ainvoke(state))["messages"][-1]]}

    between = a_graph(inner=inner).compile()

    async def outer(_: State) -> dict[str, Any]:
        order = HumanMessage(str(interrupt("Order?")))
        return {"messages": [(await between.ainvoke({"messages": [order]}))["messages"][-1]]}

    return a_graph(outer=outer)


def within_a_graph(llm: Any, done: list[str]) -> StateGraph[Any]:
    return a_graph(around=by_a_function(llm, done).compile())


def sent_out(llm: Any, done: list[str]) -> StateGraph[Any]:
    graph: StateGraph[Any] = StateGraph(State)
    graph.add_node("outer", by_a_function(llm, done).nodes["outer"].runnable)
    graph.add_conditional_edges(START, lambda _: [Send("outer", {"messages": []})], ["outer"])
    return graph


def in_a_loop(llm: Any, done: list[str]) -> StateGraph[Any]:
    graph = carried_out(llm, done)

    async def outer(_: State) -> dict[str, Any]:
        order = HumanMessage(str(interrupt("Order?")))
        first = await a_graph(calm=lambda _: {"messages": [AIMessage("calm")]}).compile().ainvoke({"messages": []})
        second = await graph.ainvoke({"messages": [*first["messages"], order]})
        return {"messages": [second["messages"][-1]]}

    return a_graph(outer=outer)


def by_a_task(llm: Any, done: list[str]) -> StateGraph[Any]:
    """Whose question it is, too."""
    graph = carried_out(llm, done)

    @task
    async def work() -> Any:
        order = HumanMessage(str(interrupt("Order?")))
        return (await graph.ainvoke({"messages": [order]}))["messages"][-1]

    async def outer(_: State) -> dict[str, Any]:
        return {"messages": [await work()]}

    return a_graph(outer=outer)


def after_the_question_of_a_task(llm: Any, done: list[str]) -> StateGraph[Any]:
    graph = carried_out(llm, done)

    @task
    async def ask() -> Any:
        return interrupt("Order?")

    async def outer(_: State) -> dict[str, Any]:
        order = HumanMessage(str(await ask()))
        return {"messages": [(await graph.ainvoke({"messages": [order]}))["messages"][-1]]}

    return a_graph(outer=outer)


WAYS = [
    by_a_function,
    by_a_plain_function,
    by_a_graph_of_a_function,
    within_a_graph,
    sent_out,
    in_a_loop,
    by_a_task,
    after_the_question_of_a_task,
]


@pytest.mark.parametrize("way", WAYS)
async def test_a_graph_begins_anew_with_the_answer_that_follows_a_failed_run(
    database_url: str, tmp_path: Path, way: Callable[[Any, list[str]], StateGraph[Any]]
) -> None:
    done: list[str] = []
    agents = {"mine": lambda llm: way(llm, done)}
    async with server(database_url, tmp_path, REFUSED, REFUSED, PAID, agents=agents) as (house, _, _):
        await turn(house, "Order.", agent="mine")
        for order in ("a", "b"):
            assert failure_of(await answer(house, order)) is not None
            assert await waiting(house) == ["Order?"]
        assert text_of(await answer(house, "c")) == "took c"
        assert await waiting(house) == []
    assert done == ["a", "b", "c"]


async def test_a_graph_begins_anew_after_the_process_was_killed(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = asyncio.Event()

    class Waits:
        def with_config(self, **_: Any) -> Any:
            return self

        async def ainvoke(self, _: str) -> None:
            if not reached.is_set():
                reached.set()
                await asyncio.Event().wait()

    async def nothing(*_: Any, **__: Any) -> None:
        """What a process that is killed still stores."""

    done: list[str] = []
    agents = {"mine": lambda llm: by_a_function(Waits(), done)}
    async with server(database_url, tmp_path, agents=agents) as (house, _, threads):
        await turn(house, "Order.", agent="mine")
        running = asyncio.create_task(answer(house, "a"))
        await reached.wait()
        async with asyncio.timeout(WAIT_S):
            while not await count(threads, "checkpoints WHERE checkpoint_ns <> ''"):  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(0.005)
        with monkeypatch.context() as patch:
            patch.setattr(ThreadSaver, "aput_writes", nothing)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert await waiting(house) == ["Order?"]
        assert text_of(await answer(house, "b")) == "took b"
    assert done == ["a", "b"]


async def test_a_graph_that_ran_before_the_question_is_not_run_again(database_url: str, tmp_path: Path) -> None:
    """Nor one that ran with an earlier answer, which the node's next question has settled."""
    steps: list[str] = []

    def noting(name: str) -> Any:
        def note(_: State) -> dict[str, Any]:
            steps.append(name)
            return {"messages": [AIMessage(name)]}

        return a_graph(note=note).compile()

    def create(llm: Any) -> StateGraph[Any]:
        before, between = noting("before"), noting("between")
        after = carried_out(llm, steps)

        async def outer(_: State) -> dict[str, Any]:
            await before.ainvoke({"messages": []})
            first = interrupt("first?")
            await between.ainvoke({"messages": []})
            order = HumanMessage(f"{first} {interrupt('second?')}")
            return {"messages": [(await after.ainvoke({"messages": [order]}))["messages"][-1]]}

        return a_graph(outer=outer)

    async with server(database_url, tmp_path, REFUSED, PAID, agents={"mine": create}) as (house, _, _):
        await turn(house, "Go.", agent="mine")
        assert list(ids_of(await answer(house, "a"))) == ["second?"]
        assert failure_of(await answer(house, "b")) is not None
        assert await waiting(house) == ["second?"]
        assert text_of(await answer(house, "c")) == "took a c"
    assert steps == ["before", "between", "a b", "a c"]


async def test_a_question_within_keeps_the_state_that_its_answer_goes_to(database_url: str, tmp_path: Path) -> None:
    steps: list[str] = []

    def create(llm: Any) -> StateGraph[Any]:
        def plan(_: State) -> dict[str, Any]:
            steps.append("plan")
            return {}

        async def act(_: State) -> dict[str, Any]:
            agreed = interrupt("Act?")
            await llm.with_config(tags=["nostream"]).ainvoke("Write it down.")
            return {"messages": [AIMessage(f"acted {agreed}")]}

        within = a_graph(plan=plan, act=act).compile()

        async def outer(_: State) -> dict[str, Any]:
            first = interrupt("Begin?")
            found = (await within.ainvoke({"messages": []}))["messages"][-1].text
            return {"messages": [AIMessage(f"{first} {found}")]}

        return a_graph(outer=outer)

    async with server(database_url, tmp_path, REFUSED, PAID, agents={"mine": create}) as (house, _, _):
        await turn(house, "Go.", agent="mine")
        assert list(ids_of(await answer(house, "a"))) == ["Act?"]
        assert failure_of(await answer(house, "b")) is not None
        assert await waiting(house) == ["Act?"]
        assert text_of(await answer(house, "c")) == "a acted c"
    assert steps == ["plan"]


async def test_what_a_graph_within_did_past_its_question_is_kept_while_another_node_asks(
    database_url: str, tmp_path: Path
) -> None:
    done: list[str] = []

    def create(llm: Any) -> StateGraph[Any]:
        def order(_: State) -> dict[str, Any]:
            done.append("order")
            return {}

        async def confirm(_: State) -> dict[str, Any]:
            await llm.with_config(tags=["nostream"]).ainvoke("Write it down.")
            return {}

        ordering = a_graph(ask=lambda _: {"done": [str(interrupt("Order?"))]}, order=order, confirm=confirm).compile()

        async def outer(_: State) -> dict[str, Any]:
            return {"done": (await ordering.ainvoke({"messages": []}))["done"]}

        def other(_: State) -> dict[str, Any]:
            return {"done": [str(interrupt("And?"))]}

        graph: StateGraph[Any] = StateGraph(State)
        for name, node in (("outer", outer), ("other", other)):
            graph.add_node(name, node)
            graph.add_edge(START, name)
        graph.add_node("end", lambda state: {"messages": [AIMessage(" ".join(sorted(state["done"])))]})
        graph.add_edge(["outer", "other"], "end")
        return graph

    async with server(database_url, tmp_path, REFUSED, PAID, agents={"mine": create}) as (house, _, _):
        events = await turn(house, "Order.", agent="mine")
        ids = ids_of(events)
        assert failure_of(await answer(house, {ids["Order?"]: "a"})) is not None
        assert await waiting(house) == ["And?"]
        assert text_of(await answer(house, {ids["And?"]: "b"})) == "a b"
    assert done == ["order"]
