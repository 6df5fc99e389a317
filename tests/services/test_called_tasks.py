"""Results of the tasks that a node calls (`@task`): none outlives the answer that it was made from."""

import asyncio
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage
from langgraph.func import task
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.pregel._algo import task_path_str
from langgraph.types import Send, interrupt

from domain.errors import ThreadAnswered
from services.called_tasks import node_of_call
from services.taken_answers import INTERRUPT
from services.thread_saver import ThreadSaver
from tests.house_for_tests import failure_of, finish_of, text_of
from tests.postgres_for_tests import WAIT_S, _made_cluster, database_url, postgres, tmp_path
from tests.services.test_thread_answers import PAID, REFUSED, a_graph, answer, waiting
from tests.services.test_threads import count, refusal, server, turn

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.

RESULTS = "checkpoint_writes WHERE channel = '__return__'"


class Agent:
    """Asks before it pays by a task, then needs the model. `paid` is what its tasks did."""

    def __init__(self) -> None:
        self.paid: list[Any] = []

        @task
        async def pay(agreed: Any) -> str:
            self.paid.append(agreed)
            return "PAID" if agreed else "NOT PAID"

        self.pay = pay

    def create(self, llm: Any) -> StateGraph[Any]:
        async def outer(_: Any) -> dict[str, Any]:
            result = await self.act()
            await llm.with_config(tags=["nostream"]).ainvoke("Write it down.")
            return {"messages": [AIMessage(result)]}

        return a_graph(outer=outer)

    async def act(self) -> str:
        agreed = interrupt("Pay?")
        return await self.pay(agreed)


class TwoAtOnce(Agent):
    async def act(self) -> str:
        agreed = interrupt("Pay?")
        return " and ".join(await asyncio.gather(self.pay(agreed), self.pay(agreed)))


class ByATaskOfATask(Agent):
    async def act(self) -> str:
        @task
        async def order(agreed: Any) -> str:
            return await self.pay(agreed)

        return await order(interrupt("Pay?"))


class WithinAGraph(Agent):
    def create(self, llm: Any) -> StateGraph[Any]:
        return a_graph(outer=super().create(llm).compile())


class SentOut(Agent):
    def create(self, llm: Any) -> StateGraph[Any]:
        graph: StateGraph[Any] = StateGraph(State)
        within = super().create(llm).nodes["outer"].runnable
        graph.add_node("outer", within)
        graph.add_conditional_edges(START, lambda _: [Send("outer", {"messages": []})], ["outer"])
        return graph


class AsksInATask(Agent):
    async def act(self) -> str:
        @task
        async def ask() -> str:
            agreed = interrupt("Pay?")
            self.paid.append(agreed)
            return "PAID" if agreed else "NOT PAID"

        return await ask()


class PlainFunctions(Agent):
    def create(self, llm: Any) -> StateGraph[Any]:
        @task
        def pay(agreed: Any) -> str:
            self.paid.append(agreed)
            return "PAID" if agreed else "NOT PAID"

        def outer(_: Any) -> dict[str, Any]:
            result = pay(interrupt("Pay?")).result()
            llm.with_config(tags=["nostream"]).invoke("Write it down.")
            return {"messages": [AIMessage(result)]}

        return a_graph(outer=outer)


class State(TypedDict):
    messages: Annotated[list[Any], add_messages]
    done: Annotated[list[str], operator.add]


ALL = [Agent, TwoAtOnce, ByATaskOfATask, WithinAGraph, SentOut, AsksInATask]


@pytest.mark.parametrize("kind", [*ALL, PlainFunctions])
async def test_a_task_is_done_again_with_the_answer_that_follows_a_failed_run(
    database_url: str, tmp_path: Path, kind: type[Agent]
) -> None:
    agent = kind()
    script = [REFUSED, REFUSED, PAID]
    async with server(database_url, tmp_path, *script, agents={"mine": agent.create}) as (house, _, _):
        await turn(house, "Pay.", agent="mine")
        assert failure_of(await answer(house, True)) is not None
        assert await waiting(house) == ["Pay?"]
        assert failure_of(await answer(house, 1)) is not None
        text = text_of(await answer(house, False))
        assert set(text.split(" and ")) == {"NOT PAID"}
        assert await waiting(house) == []
        assert "answered already" in await refusal(house, ThreadAnswered, "", agent="mine", resume=True)
    assert agent.paid == [one for one in (True, 1, False) for _ in text.split(" and ")]


@pytest.mark.parametrize("kind", ALL)
async def test_a_task_is_done_again_after_the_process_was_killed(
    database_url: str, tmp_path: Path, kind: type[Agent], monkeypatch: pytest.MonkeyPatch
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

    agent = kind()
    agents = {"mine": lambda llm: agent.create(Waits())}
    async with server(database_url, tmp_path, agents=agents) as (house, _, threads):
        await turn(house, "Pay.", agent="mine")
        running = asyncio.create_task(answer(house, True))
        await reached.wait()
        async with asyncio.timeout(WAIT_S):
            while await count(threads, RESULTS) < len(agent.paid):  # noqa: ASYNC110 - the database has no event for it
                await asyncio.sleep(0.005)
        with monkeypatch.context() as patch:
            patch.setattr(ThreadSaver, "aput_writes", nothing)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert await waiting(house) == ["Pay?"]
        assert set(text_of(await answer(house, False)).split(" and ")) == {"NOT PAID"}
    assert set(agent.paid[len(agent.paid) // 2 :]) == {False}


def logging_task(log: list[str]) -> Any:
    @task
    async def note(text: str) -> str:
        log.append(text)
        return text

    return note


async def test_a_task_that_ended_before_the_question_is_done_once(database_url: str, tmp_path: Path) -> None:
    log: list[str] = []
    note = logging_task(log)

    def create(llm: Any) -> StateGraph[Any]:
        async def outer(_: Any) -> dict[str, Any]:
            await note("before")
            result = await note(f"after {interrupt('Pay?')}")
            await llm.with_config(tags=["nostream"]).ainvoke("Write it down.")
            return {"messages": [AIMessage(result)]}

        return a_graph(outer=outer)

    async with server(database_url, tmp_path, REFUSED, REFUSED, PAID, agents={"mine": create}) as (house, _, _):
        await turn(house, "Pay.", agent="mine")
        assert failure_of(await answer(house, 1)) is not None
        assert failure_of(await answer(house, 2)) is not None
        assert text_of(await answer(house, 3)) == "after 3"
    assert log == ["before", "after 1", "after 2", "after 3"]


async def test_a_task_that_ends_after_its_node_has_asked_is_done_once(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    has_asked = asyncio.Event()
    store = ThreadSaver.aput_writes

    # LangGraph gives the path to what takes one of this name.
    async def watched(self: ThreadSaver, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        await store(self, config, writes, task_id, task_path)
        if INTERRUPT in {channel for channel, _ in writes}:
            has_asked.set()

    @task
    async def slow() -> str:
        await has_asked.wait()
        log.append("slow")
        return "slow"

    def create(llm: Any) -> StateGraph[Any]:
        async def outer(_: Any) -> dict[str, Any]:
            running = slow()
            agreed = interrupt("Pay?")
            await llm.with_config(tags=["nostream"]).ainvoke("Write it down.")
            return {"messages": [AIMessage(f"{await running} {agreed}")]}

        return a_graph(outer=outer)

    monkeypatch.setattr(ThreadSaver, "aput_writes", watched)
    async with server(database_url, tmp_path, REFUSED, PAID, agents={"mine": create}) as (house, _, _):
        await turn(house, "Pay.", agent="mine")
        assert failure_of(await answer(house, True)) is not None
        assert text_of(await answer(house, False)) == "slow False"
    assert log == ["slow"]


@pytest.mark.parametrize("in_a_task", [False, True], ids=["asked by the node", "asked by a task"])
async def test_the_next_question_keeps_what_was_done_for_the_one_before(
    database_url: str, tmp_path: Path, in_a_task: bool
) -> None:
    log: list[str] = []
    note = logging_task(log)

    @task
    async def ask_in_a_task(question: str) -> Any:
        return interrupt(question)

    async def ask_here(question: str) -> Any:
        return interrupt(question)

    ask = ask_in_a_task if in_a_task else ask_here

    def create(llm: Any) -> StateGraph[Any]:
        async def outer(_: Any) -> dict[str, Any]:
            first = await note(f"first {await ask('first?')}")
            second = await note(f"second {await ask('second?')}")
            await llm.with_config(tags=["nostream"]).ainvoke("Write it down.")
            return {"messages": [AIMessage(f"{first}, {second}")]}

        return a_graph(outer=outer)

    async with server(database_url, tmp_path, REFUSED, REFUSED, PAID, agents={"mine": create}) as (house, _, _):
        await turn(house, "Pay.", agent="mine")
        await answer(house, "a")
        assert failure_of(await answer(house, "b")) is not None
        assert await waiting(house) == ["second?"]
        assert failure_of(await answer(house, "c")) is not None
        assert text_of(await answer(house, "d")) == "first a, second d"
    assert log == ["first a", "second b", "second c", "second d"]


async def test_a_task_that_asks_twice_keeps_its_first_answer(database_url: str, tmp_path: Path) -> None:
    @task
    async def ask() -> str:
        first = interrupt("first?")
        return f"{first} {interrupt('second?')}"

    def create(llm: Any) -> StateGraph[Any]:
        async def outer(_: Any) -> dict[str, Any]:
            result = await ask()
            await llm.with_config(tags=["nostream"]).ainvoke("Write it down.")
            return {"messages": [AIMessage(result)]}

        return a_graph(outer=outer)

    async with server(database_url, tmp_path, REFUSED, PAID, agents={"mine": create}) as (house, _, _):
        (first,) = finish_of(await turn(house, "Pay.", agent="mine")).interrupts
        await answer(house, "a")
        assert first.id in await refusal(house, ThreadAnswered, "", agent="mine", resume={first.id: "b"})
        assert failure_of(await answer(house, "b")) is not None
        assert await waiting(house) == ["second?"]
        assert text_of(await answer(house, "c")) == "a c"


async def test_a_node_that_fails_before_it_asks_keeps_what_its_tasks_did(database_url: str, tmp_path: Path) -> None:
    """Beside a node that asks: no answer has led to what they gave."""
    log: list[str] = []
    note = logging_task(log)

    def create(llm: Any) -> StateGraph[Any]:
        def left(_: Any) -> dict[str, Any]:
            return {"done": [f"left {interrupt('left?')}"]}

        async def right(_: Any) -> dict[str, Any]:
            await note("right")
            await llm.with_config(tags=["nostream"]).ainvoke("Write it down.")
            return {"done": [f"right {interrupt('right?')}"]}

        graph: StateGraph[Any] = StateGraph(State)
        for name, node in {"left": left, "right": right}.items():
            graph.add_node(name, node)
            graph.add_edge(START, name)
            graph.add_edge(name, "sum")
        graph.add_node("sum", lambda state: {"messages": [AIMessage(", ".join(sorted(state["done"])))]})
        return graph

    async with server(database_url, tmp_path, REFUSED, PAID, PAID, agents={"mine": create}) as (house, _, _):
        assert failure_of(await turn(house, "Hi", agent="mine")) is not None
        assert await waiting(house) == ["left?"]
        await answer(house, 1)
        assert await waiting(house) == ["right?"]
        assert text_of(await answer(house, 2)) == "left 1, right 2"
    assert log == ["right"]


PULLED, SENT = ("__pregel_pull", "a, b"), ("__pregel_push", 3, False)


@pytest.mark.parametrize(
    ("path", "node"),
    [
        (PULLED, None),
        (SENT, None),
        ((*PULLED, "node_error_handler", False), None),
        (("__pregel_push", PULLED, 0, True), PULLED),
        (("__pregel_push", SENT, 1, True), SENT),
        (("__pregel_push", ("__pregel_push", PULLED, 0, True), 2, True), PULLED),
    ],
)
def test_the_node_is_read_from_the_path_of_a_called_task(path: Sequence[Any], node: Sequence[Any] | None) -> None:
    assert node_of_call(task_path_str(tuple(path))) == (task_path_str(tuple(node)) if node else None)
