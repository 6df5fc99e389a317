"""Graphs on event loops of their nodes' own: their states are read and written on the server's, and harm no other."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from domain.runs import Started
from services.saver_loop import LoopBoundSaver
from tests.house_for_tests import ask, events_of, failure_of, finish_of, text_of, until
from tests.postgres_for_tests import WAIT_S, _made_cluster, database_url, postgres, tmp_path
from tests.scripted_provider import finish, say, scripted_provider
from tests.services.test_threads import count, keeping, open_house, server, state_of, turn

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.

AT_ONCE = 16
PLACE: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}

Node = Callable[[MessagesState], Any]


def graph_of(node: Any, **options: Any) -> Any:
    graph: StateGraph[Any] = StateGraph(MessagesState)
    graph.add_node("answer", node)
    graph.add_edge(START, "answer")
    return graph.compile(**options)


def by_run(graph: Any, state: Any) -> Any:
    return asyncio.run(graph.ainvoke(state))


def by_new_loop(graph: Any, state: Any) -> Any:
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(graph.ainvoke(state))
    finally:
        loop.close()


def by_tool(graph: Any, state: Any) -> Any:
    @tool
    def subagent(text: str) -> str:
        """Runs the graph."""
        return str(by_run(graph, {"messages": [HumanMessage(text)]})["messages"][-1].text)

    return {"messages": [AIMessage(subagent.invoke({"text": state["messages"][-1].text}))]}


def by_blocking_call(graph: Any, state: Any) -> Any:
    return graph.invoke(state)


def by_blocking_call_on_a_loop(graph: Any, state: Any) -> Any:
    async def invoke() -> Any:
        return graph.invoke(state)

    return asyncio.run(invoke())


WAYS = [by_run, by_new_loop, by_tool, by_blocking_call, by_blocking_call_on_a_loop]


def running(inner: Any, way: Any = by_run) -> Callable[[Any], Any]:
    """The factory of an agent whose plain function runs the graph."""
    return lambda llm: graph_of(lambda state: {"messages": way(inner, state)["messages"][-1:]})


def one_that_counts() -> Any:
    """Remembers by itself what it was sent."""
    return graph_of(lambda state: {"messages": [AIMessage(f"{len(state['messages'])} so far")]}, checkpointer=True)


def one_that_asks() -> Any:
    return graph_of(lambda _: {"messages": [AIMessage(f"so {interrupt('Go on?')}")]})


@contextmanager
def threads_for_nodes(number: int) -> Iterator[None]:
    """The loop's pool, where plain functions run, has so many threads."""
    pool = ThreadPoolExecutor(number)
    asyncio.get_running_loop().set_default_executor(pool)
    try:
        yield
    finally:
        pool.shutdown(wait=False)


@pytest.mark.parametrize("way", WAYS)
async def test_a_graph_runs_on_any_loop_and_remembers(database_url: str, tmp_path: Path, way: Any) -> None:
    agents = {"mine": running(one_that_counts(), way)}
    # One thread: the one that waits for the graph.
    with threads_for_nodes(1):
        async with server(database_url, tmp_path, agents=agents) as (house, _, _):
            answers = [text_of(await turn(house, text, agent="mine")) for text in ("un", "deux")]
    assert answers == ["1 so far", "3 so far"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_graph_runs_on_any_loop_without_a_thread(database_url: str, tmp_path: Path, way: Any) -> None:
    inner = graph_of(lambda state: {"messages": [AIMessage(f"{len(state['messages'])} so far")]})
    with threads_for_nodes(1):
        async with server(database_url, tmp_path, agents={"mine": running(inner, way)}) as (house, _, threads):
            assert text_of(await events_of(house, ask("mine", "un"))) == "1 so far"
            assert await count(threads, "checkpoints") == 0


@pytest.mark.parametrize("way", WAYS)
async def test_a_graph_on_any_loop_asks_and_is_answered(database_url: str, tmp_path: Path, way: Any) -> None:
    agents = {"mine": running(one_that_asks(), way)}
    with threads_for_nodes(1):
        async with server(database_url, tmp_path, agents=agents) as (house, _, _):
            asked = finish_of(await turn(house, "un", agent="mine"))
            assert [one.value for one in asked.interrupts] == ["Go on?"]
            answered = await turn(house, "", agent="mine", resume="yes")
    assert (failure_of(answered), text_of(answered)) == (None, "so yes")


async def test_many_graphs_on_loops_of_their_own_harm_no_thread(database_url: str, tmp_path: Path) -> None:
    together = threading.Barrier(AT_ONCE)

    def create(llm: Any) -> Any:
        async def answer(state: MessagesState) -> dict[str, Any]:
            return {"messages": [await llm.ainvoke(state["messages"][-1:])]}

        inner = graph_of(answer)

        def outer(state: MessagesState) -> dict[str, Any]:
            together.wait(WAIT_S)
            return {"messages": by_run(inner, state)["messages"][-1:]}

        return graph_of(outer)

    with threads_for_nodes(AT_ONCE):
        async with (
            scripted_provider(compose=lambda body: [*say(body["messages"][-1]["content"]), *finish()]) as provider,
            keeping(database_url, tmp_path) as threads,
            open_house(provider, threads=threads, agents={"mine": create}) as house,
        ):
            for _ in range(2):
                texts = [f"n{number}" for number in range(AT_ONCE)]
                answers = await asyncio.gather(*(turn(house, text, text, agent="mine") for text in texts))
                assert [(failure_of(events), text_of(events)) for events in answers] == [(None, text) for text in texts]
            states = await asyncio.gather(*(state_of(house, text, "mine") for text in texts))
    assert [[message.text for message in state.messages] for state in states] == [[text] * 4 for text in texts]


async def test_a_read_from_another_loop_waits_for_its_turn(database_url: str, tmp_path: Path) -> None:
    async with keeping(database_url, tmp_path) as threads:
        saver = threads.saver
        permits = saver.lock._value  # type: ignore[attr-defined]  # It is a semaphore.
        for _ in range(permits):
            await saver.lock.acquire()
        here = asyncio.create_task(saver.aget_tuple(PLACE))
        elsewhere = asyncio.create_task(asyncio.to_thread(asyncio.run, saver.aget_tuple(PLACE)))
        await until(lambda: len(saver.lock._waiters or ()) == 2)  # type: ignore[attr-defined]
        for _ in range(permits):
            saver.lock.release()
        async with asyncio.timeout(WAIT_S):
            assert await asyncio.gather(here, elsewhere) == [None, None]
        assert saver.lock._value == permits  # type: ignore[attr-defined]


async def test_what_another_loop_cancels_is_cancelled_here(database_url: str, tmp_path: Path) -> None:
    async with keeping(database_url, tmp_path) as threads:
        saver = threads.saver
        permits = saver.lock._value  # type: ignore[attr-defined]
        for _ in range(permits):
            await saver.lock.acquire()

        async def give_up() -> None:
            async with asyncio.timeout(0.01):
                await saver.aget_tuple(PLACE)

        with pytest.raises(TimeoutError):
            await asyncio.to_thread(asyncio.run, give_up())
        await until(lambda: not any(not one.done() for one in saver.lock._waiters or ()))  # type: ignore[attr-defined]
        for _ in range(permits):
            saver.lock.release()
        assert saver.lock._value == permits  # type: ignore[attr-defined]


@pytest.mark.parametrize("way", [by_run, by_blocking_call])
async def test_a_graph_whose_caller_has_left_writes_no_more(database_url: str, tmp_path: Path, way: Any) -> None:
    is_in, may_go_on, is_over = threading.Event(), threading.Event(), threading.Event()
    outcome: list[BaseException | None] = []

    def slow(_: MessagesState) -> dict[str, Any]:
        is_in.set()
        may_go_on.wait(WAIT_S)
        return {"messages": [AIMessage("late")]}

    def create(llm: Any) -> Any:
        inner = graph_of(slow, checkpointer=True)

        def outer(state: MessagesState) -> dict[str, Any]:
            if state["messages"][-1].text == "deux":
                return {"messages": [AIMessage("at once")]}
            try:
                return {"messages": way(inner, state)["messages"][-1:]}
            except BaseException as error:
                outcome.append(error)
                raise
            finally:
                is_over.set()

        return graph_of(outer)

    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, threads):
        going = house.service.stream(ask("mine", "un", thread_id="t"))
        assert isinstance(await anext(going), Started)
        left = asyncio.create_task(anext(going))
        await until(is_in.is_set)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        await going.aclose()
        before = await count(threads, "checkpoint_writes"), await count(threads, "checkpoints")
        may_go_on.set()
        await until(is_over.is_set)
        assert (await count(threads, "checkpoint_writes"), await count(threads, "checkpoints")) == before
        assert text_of(await turn(house, "deux", agent="mine")) == "at once"


def test_all_that_the_stock_saver_does_with_connections_is_bound_to_its_loop() -> None:
    """When LangGraph's saver gets another method that uses connections, it must be bound, too."""
    stock = {name for name in vars(AsyncPostgresSaver) if name[0] == "a" and not name.startswith("__")}
    assert stock == {
        "adelete_thread",
        "aget_delta_channel_history",
        "aget_tuple",
        "alist",
        "aprune",
        "aput",
        "aput_writes",
    }
    assert stock <= set(vars(LoopBoundSaver))
