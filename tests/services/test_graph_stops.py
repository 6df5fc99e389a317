"""Graphs are noted where they stop, with the nodes that LangGraph says come next."""

import asyncio
import operator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import pytest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphRecursionError
from langgraph.func import task
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt

from domain.errors import BadRequest, Conflict, ThreadAnswered
from services.graph_stops import note_stops_of_all_graphs, watching
from tests.house_for_tests import ask, events_of, failure_of, finish_of, text_of
from tests.postgres_for_tests import _made_cluster, database_url, postgres, tmp_path
from tests.services.test_breakpoints_within import pauses, three_nodes
from tests.services.test_pauses_after_answers import asks, at_once
from tests.services.test_thread_answers import State as Answers
from tests.services.test_thread_answers import a_graph, answer
from tests.services.test_threads import refusal, server, turn

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.


class State(TypedDict):
    done: Annotated[list[str], operator.add]


async def following(graph: StateGraph[Any]) -> list[tuple[str, ...]]:
    """The nodes that come next at each stop; LangGraph says the same."""
    note_stops_of_all_graphs()
    compiled = graph.compile(InMemorySaver(), interrupt_before="*")
    config: Any = {"configurable": {"thread_id": "t"}}
    found: list[tuple[str, ...]] = []
    content: Any = {"done": []}
    while True:
        with watching(compiled) as watch:
            await compiled.ainvoke(content, config)
        state = await compiled.aget_state(config)
        if not state.next:
            assert watch.stops == []
            return found
        (stop,) = watch.stops
        assert sorted(stop.next) == sorted(set(state.next))
        assert (stop.namespace, stop.checkpoint_id) == ("", state.config["configurable"]["checkpoint_id"])
        assert (stop.is_breakpoint, stop.is_outermost) == (True, True)
        found.append(tuple(sorted(stop.next)))
        content = None


def with_nodes(*names: str) -> StateGraph[Any]:
    graph: StateGraph[Any] = StateGraph(State)
    for name in names:
        graph.add_node(name, lambda _, name=name: {"done": [name]})
    return graph


async def test_nodes_that_begin_next_are_noted() -> None:
    graph = with_nodes("plan", "left", "right", "late", "sum")
    graph.add_edge(START, "plan")
    for name in ("left", "right"):
        graph.add_edge("plan", name)
    graph.add_edge("right", "late")
    graph.add_edge(["left", "late"], "sum")
    graph.add_edge("sum", END)
    assert await following(graph) == [("plan",), ("left", "right"), ("late",), ("sum",)]


async def test_nodes_that_are_sent_work_or_gone_to_are_noted() -> None:
    graph = with_nodes("item", "sum")
    graph.add_node(
        "route", lambda state: Command(goto="item" if len(state["done"]) < 4 else END), destinations=("item",)
    )
    graph.add_conditional_edges(START, lambda _: [Send("item", {}), Send("item", {})], ["item"])
    graph.add_edge("item", "sum")
    graph.add_edge("sum", "route")
    assert await following(graph) == [("item",), ("sum",), ("route",), ("item",), ("sum",), ("route",)]


async def test_nodes_that_wait_for_all_others_are_noted() -> None:
    graph = with_nodes("one", "two", "three")
    graph.add_node("last", lambda _: {}, defer=True)
    graph.add_edge(START, "one")
    graph.add_edge(START, "two")
    graph.add_edge("two", "three")
    graph.add_edge("one", "last")
    graph.add_edge("three", "last")
    assert await following(graph) == [("one", "two"), ("three",), ("last",)]


async def sleeps(_: Any) -> dict[str, Any]:
    await asyncio.sleep(30)
    return {}


async def times_out() -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(a_graph(plan=lambda _: {}, act=sleeps).compile().ainvoke({"messages": []}), 0.1)


async def is_cancelled() -> None:
    running = asyncio.ensure_future(a_graph(plan=lambda _: {}, act=sleeps).compile().ainvoke({"messages": []}))
    await asyncio.wait({running}, timeout=0.1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def goes_too_far() -> None:
    with suppress(GraphRecursionError):
        await three_nodes().ainvoke({"messages": []}, {"recursion_limit": 2})


@pytest.mark.parametrize("leave", [times_out, is_cancelled, goes_too_far])
async def test_a_graph_that_was_left_is_no_pause(database_url: str, tmp_path: Path, leave: Any) -> None:
    async def outer(_: Answers) -> dict[str, Any]:
        await leave()
        answer = interrupt("one?")
        await three_nodes(interrupt_before=["act"]).ainvoke({"messages": []})
        return {"messages": [AIMessage(f"done with {answer}")]}

    async with server(database_url, tmp_path, agents={"mine": lambda llm: a_graph(outer=outer)}) as (house, _, _):
        (question,) = finish_of(await turn(house, "Hi", agent="mine")).interrupts
        assert (question.value, question.next) == ("one?", ())
        (pause,) = finish_of(await answer(house, 1)).interrupts
        assert pause.next == ("act",)
        assert text_of(await answer(house, None)) == "done with 1"


def calls_before_it_stops() -> StateGraph[Any]:
    """A task asks, which the node does not await before its graph stops."""

    @task
    async def ask_first() -> Any:
        return interrupt("one?")

    async def outer(_: Answers) -> dict[str, Any]:
        calling = ask_first()
        await three_nodes(interrupt_before=["act"]).ainvoke({"messages": []})
        return {"messages": [AIMessage(f"done with {await calling}")]}

    return a_graph(outer=outer)


async def test_a_stop_is_noted_though_langgraph_emits_nothing(database_url: str, tmp_path: Path) -> None:
    async with server(database_url, tmp_path, agents={"mine": lambda llm: calls_before_it_stops()}) as (house, _, _):
        (pause,) = finish_of(await turn(house, "Hi", agent="mine")).interrupts
        assert pause.next == ("act",)
        (question,) = finish_of(await answer(house, None)).interrupts
        assert question.value == "one?"
        assert text_of(await answer(house, 1)) == "done with 1"
        failure = failure_of(await events_of(house, ask("mine")))
        assert isinstance(failure, BadRequest)
        assert "send a thread_id" in failure.message


async def test_a_graph_that_stops_after_its_last_node_has_ended(database_url: str, tmp_path: Path) -> None:
    def create(llm: Any) -> Any:
        return three_nodes(interrupt_after=["tail"])

    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        assert text_of(await events_of(house, ask("mine"))) == "done"
        events = await turn(house, "Hi", agent="mine")
        assert (text_of(events), finish_of(events).interrupts) == ("done", ())
        assert text_of(await turn(house, "Hi", agent="mine")) == "done"


async def test_a_task_that_pauses_beside_one_that_asks_goes_on_from_there(database_url: str, tmp_path: Path) -> None:
    planned: list[str] = []

    def create(llm: Any) -> StateGraph[Any]:
        def plan(_: Answers) -> dict[str, Any]:
            planned.append("plan")
            return {}

        graph = a_graph(plan=plan, act=lambda _: {}).compile(interrupt_before=["act"])

        @task
        async def ask_first() -> Any:
            return interrupt("one?")

        @task
        async def run() -> str:
            # After the other has asked.
            await asyncio.sleep(0.1)
            await graph.ainvoke({"messages": []})
            return "ran"

        async def outer(_: Answers) -> dict[str, Any]:
            return {"messages": [AIMessage(str(await asyncio.gather(ask_first(), run())))]}

        return a_graph(outer=outer)

    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        question, pause = finish_of(await turn(house, "Hi", agent="mine")).interrupts
        assert (question.value, pause.next) == ("one?", ("act",))
        (still,) = finish_of(await answer(house, {pause.id: None})).interrupts
        assert still == question
        assert pause.id in await refusal(house, ThreadAnswered, "", agent="mine", resume={pause.id: 1})
        assert text_of(await answer(house, {question.id: 1})) == "[1, 'ran']"
        assert await pauses(house) == []
    assert planned == ["plan"]


async def test_a_question_of_a_task_within_is_listed_once(database_url: str, tmp_path: Path) -> None:
    ask_first = task(asks("one?"))

    async def inner(state: Answers) -> dict[str, Any]:
        found: dict[str, Any] = await ask_first(state)
        return found

    def create(llm: Any) -> StateGraph[Any]:
        return at_once(a_graph(inner=inner).compile(), lambda _: {"done": ["two"]})

    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        (question,) = finish_of(await turn(house, "Hi", agent="mine")).interrupts
        assert await pauses(house) == [(question.id, ())]
        assert text_of(await answer(house, 1)) == "one? 1 and two"


def stops_elsewhere(then: Any) -> StateGraph[Any]:
    """Its node runs a graph that keeps its state in its own place, and stops there."""
    other = three_nodes(interrupt_before=["act"], checkpointer=InMemorySaver())

    async def outer(_: Answers) -> dict[str, Any]:
        await other.ainvoke({"messages": []}, {"configurable": {"thread_id": str(uuid4())}})
        await then.ainvoke({"messages": []})
        return {"messages": [AIMessage("done")]}

    return a_graph(outer=outer)


async def test_a_graph_that_keeps_its_state_elsewhere_stops_there_alone(database_url: str, tmp_path: Path) -> None:
    agents = {
        "goes on": lambda llm: stops_elsewhere(three_nodes()),
        "stops": lambda llm: stops_elsewhere(three_nodes(interrupt_after=["tail"])),
    }
    async with server(database_url, tmp_path, agents=agents) as (house, _, _):
        assert text_of(await events_of(house, ask("goes on"))) == "done"
        events = await turn(house, "Hi", "a", agent="goes on")
        assert (text_of(events), finish_of(events).interrupts) == ("done", ())
        assert "asked nothing" in await refusal(house, Conflict, "", "a", agent="goes on", resume=1)
        (pause,) = finish_of(await turn(house, "Hi", "b", agent="stops")).interrupts
        assert pause.next == ("outer",)


async def test_what_comes_next_is_the_node_that_ran_the_graph_and_no_task_of_it(
    database_url: str, tmp_path: Path
) -> None:
    pausing = three_nodes(interrupt_after=["tail"])

    @task
    async def call() -> Any:
        return await pausing.ainvoke({"messages": []})

    async def runs_it(_: Answers) -> dict[str, Any]:
        await call()
        return {"done": ["ran"]}

    agents = {
        "alone": lambda llm: a_graph(outer=runs_it),
        "within": lambda llm: a_graph(outer=a_graph(inner=runs_it).compile()),
        "beside": lambda llm: at_once(asks("one?"), runs_it),
    }
    expected = {"alone": ("outer",), "within": ("inner",), "beside": ("two",)}
    async with server(database_url, tmp_path, agents=agents) as (house, _, _):
        for name, node in expected.items():
            interrupts = finish_of(await turn(house, "Hi", name, agent=name)).interrupts
            assert interrupts[-1].next == node


async def test_what_a_failed_run_left_behind_does_not_meet_the_next_one(database_url: str, tmp_path: Path) -> None:
    """What fails beside a graph does not end it: it goes on by itself."""
    slowly, failed = asyncio.Event(), False

    async def take(state: Answers) -> dict[str, Any]:
        order = state["done"][0]
        if order == "1":
            await slowly.wait()
        return {"done": [f"took {order}"]}

    ordering = a_graph(take=take, confirm=lambda _: {"done": ["confirmed"]}).compile()
    another = a_graph(ask=lambda _: {"done": [str(interrupt("two?"))]}).compile()

    async def fails_once() -> None:
        nonlocal failed
        await asyncio.sleep(0.05)
        if not failed:
            failed = True
            raise ValueError("no")

    async def outer(_: Answers) -> dict[str, Any]:
        order = str(interrupt("one?"))
        ordered, _ = await asyncio.gather(ordering.ainvoke({"messages": [], "done": [order]}), fails_once())
        more = await another.ainvoke({"messages": []})
        return {"messages": [AIMessage(" ".join([*ordered["done"], *more["done"]]))]}

    async with server(database_url, tmp_path, agents={"mine": lambda llm: a_graph(outer=outer)}) as (house, _, _):
        await turn(house, "Hi", agent="mine")
        assert failure_of(await answer(house, 1)) is not None
        (question,) = finish_of(await answer(house, 2)).interrupts
        assert question.value == "two?"
        slowly.set()
        await asyncio.sleep(0.2)
        assert text_of(await answer(house, 3)) == "2 took 2 confirmed 3"
