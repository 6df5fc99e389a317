"""Answers to what a thread asks: the last one counts, each is applied once, and a failed one leaves the question."""

import asyncio
import operator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Send, interrupt
from pydantic import BaseModel

from domain.errors import AgentFailed, BadRequest, Conflict, ThreadAnswered, ThreadWaits
from domain.runs import Interruption, RunEvent
from tests.house_for_tests import House, failure_of, finish_of, text_of
from tests.postgres_for_tests import _made_cluster, database_url, postgres, tmp_path
from tests.scripted_provider import Chunk, Status, Step, finish, say
from tests.services.test_threads import count, refusal, server, state_of, turn

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.

PAID: list[Step] = [*say("Done"), *finish()]
REFUSED: list[Step] = [Status(400, '{"error": {"message": "no"}}')]
REFUSED_LATE: list[Step] = [*say("Do"), Chunk({"error": {"message": "no", "code": 400}})]


class State(TypedDict):
    messages: Annotated[list[Any], add_messages]
    done: Annotated[list[str], operator.add]


def a_graph(**nodes: Any) -> StateGraph[Any]:
    """One node after the other."""
    graph: StateGraph[Any] = StateGraph(State)
    before = START
    for name, node in nodes.items():
        graph.add_node(name, node)
        graph.add_edge(before, name)
        before = name
    graph.add_edge(before, END)
    return graph


def pays(llm: Any) -> StateGraph[Any]:
    """Asks, then needs the model, in one node."""

    async def pay(_: State) -> dict[str, Any]:
        agreed = interrupt("Pay 900 EUR?")
        await llm.with_config(tags=["nostream"]).ainvoke("Write it down.")
        return {"messages": [AIMessage(f"PAID {agreed}" if agreed else f"NOT PAID {agreed}")]}

    return a_graph(pay=pay)


def asks_then_pays(llm: Any) -> StateGraph[Any]:
    """The same in two nodes."""

    def ask(_: State) -> dict[str, Any]:
        return {"done": [str(interrupt("Pay 900 EUR?"))]}

    async def pay(state: State) -> dict[str, Any]:
        await llm.with_config(tags=["nostream"]).ainvoke("Write it down.")
        return {"messages": [AIMessage(f"PAID {state['done'][-1]}")]}

    return a_graph(ask=ask, pay=pay)


def pays_within(llm: Any) -> StateGraph[Any]:
    """The question lies in a graph in a graph."""
    return a_graph(outer=pays(llm).compile())


def asks_then_pays_within(llm: Any) -> StateGraph[Any]:
    return a_graph(outer=asks_then_pays(llm).compile())


def asks_twice(llm: Any) -> StateGraph[Any]:
    async def ask(_: State) -> dict[str, Any]:
        first = interrupt("first")
        second = interrupt("second")
        await llm.with_config(tags=["nostream"]).ainvoke("Write it down.")
        return {"messages": [AIMessage(f"{first} {second}")]}

    return a_graph(ask=ask)


def asks_at_once(llm: Any) -> StateGraph[Any]:
    """Two nodes at once; the second needs the model."""

    left_is_answered = asyncio.Event()

    async def left(_: State) -> dict[str, Any]:
        answer = interrupt("left")
        left_is_answered.set()
        return {"done": [f"left {answer}"]}

    async def right(_: State) -> dict[str, Any]:
        answer = interrupt("right")
        await left_is_answered.wait()
        await llm.with_config(tags=["nostream"]).ainvoke("Write it down.")
        return {"done": [f"right {answer}"]}

    graph: StateGraph[Any] = StateGraph(State)
    for name, node in {"left": left, "right": right}.items():
        graph.add_node(name, node)
        graph.add_edge(START, name)
        graph.add_edge(name, "sum")
    graph.add_node("sum", lambda state: {"messages": [AIMessage(", ".join(sorted(state["done"])))]})
    graph.add_edge("sum", END)
    return graph


async def answer(house: House, resume: Any, agent: str = "mine") -> list[RunEvent]:
    return await turn(house, "", agent=agent, resume=resume)


async def waiting(house: House, agent: str = "mine") -> list[Any]:
    """What the thread waits for, as everybody reads it."""
    state = await state_of(house, "t", agent)
    return [one.value for one in state.interrupts]


def ids_of(events: list[RunEvent]) -> dict[Any, str]:
    return {one.value: one.id for one in finish_of(events).interrupts}


@pytest.mark.parametrize("create", [pays, pays_within])
@pytest.mark.parametrize("failure", [REFUSED, REFUSED_LATE], ids=["refused", "refused in the middle"])
async def test_the_last_answer_counts_when_the_one_before_it_failed(
    database_url: str, tmp_path: Path, create: Any, failure: list[Step]
) -> None:
    async with server(database_url, tmp_path, failure, PAID, agents={"mine": create}) as (house, _, _):
        await turn(house, "Pay.", agent="mine")
        assert failure_of(await answer(house, True)) is not None
        assert await waiting(house) == ["Pay 900 EUR?"]
        assert "resume" in await refusal(house, ThreadWaits, "And now?", agent="mine")
        assert text_of(await answer(house, False)) == "NOT PAID False"
        assert await waiting(house) == []
        assert "answered already" in await refusal(house, ThreadAnswered, "", agent="mine", resume=True)


@pytest.mark.parametrize("create", [asks_then_pays, asks_then_pays_within])
async def test_an_answer_that_was_taken_is_not_taken_again(database_url: str, tmp_path: Path, create: Any) -> None:
    async with server(database_url, tmp_path, REFUSED, agents={"mine": create}) as (house, _, _):
        await turn(house, "Pay.", agent="mine")
        assert failure_of(await answer(house, True)) is not None
        assert await waiting(house) == []
        assert "answered already" in await refusal(house, ThreadAnswered, "", agent="mine", resume=False)
        events = await turn(house, "Again.", agent="mine")
        assert [one.value for one in finish_of(events).interrupts] == ["Pay 900 EUR?"]


async def test_a_thread_that_never_asked_is_told_apart(database_url: str, tmp_path: Path) -> None:
    async with server(database_url, tmp_path, PAID) as (house, _, _):
        await turn(house)
        assert "asked nothing" in await refusal(house, Conflict, "", resume=1)


async def test_earlier_answers_of_a_node_stay_when_a_later_one_fails(database_url: str, tmp_path: Path) -> None:
    async with server(database_url, tmp_path, REFUSED, PAID, agents={"mine": asks_twice}) as (house, _, _):
        first = ids_of(await turn(house, "Hi", agent="mine"))
        events = await answer(house, "a")
        assert [one.value for one in finish_of(events).interrupts] == ["second"]
        assert "answered already" in await refusal(
            house, ThreadAnswered, "", agent="mine", resume={first["first"]: "again"}
        )
        assert failure_of(await answer(house, "b")) is not None
        assert await waiting(house) == ["second"]
        assert text_of(await answer(house, "c")) == "a c"


def asks_twice_then_once(llm: Any) -> StateGraph[Any]:
    def ask(_: State) -> dict[str, Any]:
        return {"done": [f"{interrupt('first')} {interrupt('second')}"]}

    def say(state: State) -> dict[str, Any]:
        return {"messages": [AIMessage(f"{state['done'][-1]} {interrupt('third')}")]}

    return a_graph(ask=ask, say=say)


def asks_twice_in_a_task_then_once(llm: Any) -> StateGraph[Any]:
    graph = asks_twice_then_once(llm)
    graph.edges.remove((START, "ask"))
    graph.add_conditional_edges(START, lambda _: [Send("ask", {})], ["ask"])
    return graph


@pytest.mark.parametrize("create", [asks_twice_then_once, asks_twice_in_a_task_then_once])
async def test_an_answer_to_an_earlier_question_of_a_node_that_has_ended_is_none_to_another(
    database_url: str, tmp_path: Path, create: Any
) -> None:
    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        first = ids_of(await turn(house, "Hi", agent="mine"))
        second = ids_of(await answer(house, "a"))
        assert await waiting(house) == ["second"]
        await answer(house, "b")
        for passed in (*first.values(), *second.values()):
            assert passed in await refusal(house, ThreadAnswered, "", agent="mine", resume={passed: "again"})
        assert text_of(await answer(house, {"f" * 32: 1})) == f"a b { ({'f' * 32: 1}) }"


async def test_of_several_questions_each_keeps_its_own_answer(database_url: str, tmp_path: Path) -> None:
    async with server(database_url, tmp_path, REFUSED, PAID, agents={"mine": asks_at_once}) as (house, _, _):
        ids = ids_of(await turn(house, "Hi", agent="mine"))
        assert set(ids) == {"left", "right"}
        assert "2 answers" in await refusal(house, BadRequest, "", agent="mine", resume="both")
        assert sorted(await waiting(house)) == ["left", "right"]
        events = await answer(house, {ids["left"]: 1})
        assert ids_of(events) == {"right": ids["right"]}
        assert "answered already" in await refusal(
            house, ThreadAnswered, "", agent="mine", resume={ids["left"]: 2, ids["right"]: 2}
        )
        assert failure_of(await answer(house, {ids["right"]: 2})) is not None
        assert await waiting(house) == ["right"]
        assert text_of(await answer(house, {ids["right"]: 3})) == "left 1, right 3"


async def test_the_task_that_succeeds_beside_one_that_fails_has_taken_its_answer(
    database_url: str, tmp_path: Path
) -> None:
    async with server(database_url, tmp_path, REFUSED, PAID, agents={"mine": asks_at_once}) as (house, _, _):
        ids = ids_of(await turn(house, "Hi", agent="mine"))
        assert failure_of(await answer(house, {ids["left"]: 1, ids["right"]: 2})) is not None
        assert await waiting(house) == ["right"]
        assert text_of(await answer(house, 3)) == "left 1, right 3"


@pytest.mark.parametrize("sent", [{}, None, [], 0, "", {"a": 1}, {"0" * 32: 1}, {"id": None}, "x" * 10_000, "\x00"])
async def test_any_json_is_an_answer(database_url: str, tmp_path: Path, sent: Any) -> None:
    def ask(_: State) -> dict[str, Any]:
        return {"messages": [AIMessage(repr(interrupt("what?")))]}

    async with server(database_url, tmp_path, agents={"mine": lambda llm: a_graph(ask=ask)}) as (house, _, _):
        await turn(house, "Hi", agent="mine")
        assert text_of(await answer(house, sent)) == repr(sent)


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("sent", [deep(300), 10**400, 2**64, [float("nan")], {"a": "\ud800"}, {"\ud800": 1}])
async def test_what_cannot_be_kept_is_refused_and_the_question_stays(
    database_url: str, tmp_path: Path, sent: Any
) -> None:
    def ask(_: State) -> dict[str, Any]:
        return {"messages": [AIMessage(f"got {interrupt('what?')}")]}

    async with server(database_url, tmp_path, agents={"mine": lambda llm: a_graph(ask=ask)}) as (house, _, _):
        await turn(house, "Hi", agent="mine")
        assert "resume" in await refusal(house, BadRequest, "", agent="mine", resume=sent)
        assert await waiting(house) == ["what?"]
        assert text_of(await answer(house, deep(60))) == f"got {deep(60)}"


class Decision(BaseModel):
    agreed: bool


async def test_an_answer_of_the_wrong_shape_leaves_the_question(database_url: str, tmp_path: Path) -> None:
    def own_check(_: State) -> dict[str, Any]:
        return {"messages": [AIMessage(f"got {interrupt('what?')['agreed']}")]}

    def by_schema(_: State) -> dict[str, Any]:
        return {"messages": [AIMessage(f"got {interrupt('what?', response_schema=Decision).agreed}")]}

    agents = {"mine": lambda llm: a_graph(ask=own_check), "other": lambda llm: a_graph(ask=by_schema)}
    async with server(database_url, tmp_path, agents=agents) as (house, _, _):
        await turn(house, "Hi", agent="mine")
        assert isinstance(failure_of(await answer(house, 5)), AgentFailed)
        assert await waiting(house) == ["what?"]
        assert text_of(await answer(house, {"agreed": True})) == "got True"
        await turn(house, "Hi", thread="u", agent="other")
        error = failure_of(await turn(house, "", thread="u", agent="other", resume={"agreed": "perhaps"}))
        assert isinstance(error, BadRequest)
        assert "resume" in error.message
        assert text_of(await turn(house, "", thread="u", agent="other", resume={"agreed": True})) == "got True"


async def test_a_caller_who_leaves_while_the_answer_is_at_work_leaves_the_question(
    database_url: str, tmp_path: Path
) -> None:
    at_work = asyncio.Event()

    async def ask(_: State) -> dict[str, Any]:
        answer = interrupt("what?")
        if answer == "slow":
            at_work.set()
            await asyncio.sleep(60)
        return {"messages": [AIMessage(f"got {answer}")]}

    async with server(database_url, tmp_path, agents={"mine": lambda llm: a_graph(ask=ask)}) as (house, _, threads):
        await turn(house, "Hi", agent="mine")
        running = asyncio.create_task(answer(house, "slow"))
        await at_work.wait()
        # Nor would it be there after a kill: nothing of the answer is stored before it was taken.
        assert await count(threads, "checkpoint_writes WHERE channel = '__resume__'") == 0
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert await waiting(house) == ["what?"]
        assert text_of(await answer(house, "quick")) == "got quick"


async def test_what_a_run_says_that_it_waits_for_is_what_the_thread_waits_for(
    database_url: str, tmp_path: Path
) -> None:
    async with server(database_url, tmp_path, agents={"mine": asks_at_once}) as (house, _, _):
        said = finish_of(await turn(house, "Hi", agent="mine")).interrupts
        state = await state_of(house, "t", "mine")
        assert said == state.interrupts
        assert all(isinstance(one, Interruption) for one in said)
