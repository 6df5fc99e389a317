"""Pauses that follow an answer in the same node: the answer stays taken, whatever comes after the pause."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.func import task
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send, interrupt

from domain.errors import BadRequest, ThreadAnswered, ThreadWaits
from domain.runs import Progress
from tests.house_for_tests import failure_of, finish_of, text_of
from tests.postgres_for_tests import _made_cluster, database_url, postgres, tmp_path
from tests.services.test_breakpoints import REFUSED
from tests.services.test_breakpoints_within import by_a_function, pauses, three_nodes
from tests.services.test_thread_answers import PAID, State, a_graph, answer
from tests.services.test_threads import refusal, server, turn

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.


def asks_then(pausing: Any, *, twice: bool = False) -> Any:
    """A node that asks, then runs a graph that stops."""

    async def outer(_: State) -> dict[str, Any]:
        answers = [interrupt("one?")]
        await pausing.ainvoke({"messages": []})
        if twice:
            answers.append(interrupt("two?"))
            await pausing.ainvoke({"messages": []})
        return {"messages": [AIMessage(f"done with {answers}")]}

    return outer


def by_a_task(pausing: Any, *, twice: bool = False) -> Any:
    """The question is a task's, the graph its node's, and so is the next question."""

    @task
    async def ask() -> Any:
        return interrupt("one?")

    async def outer(_: State) -> dict[str, Any]:
        answers = [await ask()]
        await pausing.ainvoke({"messages": []})
        if twice:
            answers.append(interrupt("two?"))
            await pausing.ainvoke({"messages": []})
        return {"messages": [AIMessage(f"done with {answers}")]}

    return outer


def within_a_task(pausing: Any) -> Any:
    work = task(asks_then(pausing))

    async def outer(state: State) -> dict[str, Any]:
        found: dict[str, Any] = await work(state)
        return found

    return outer


def sent_out(node: Any) -> StateGraph[Any]:
    graph: StateGraph[Any] = StateGraph(State)
    graph.add_node("outer", node)
    graph.add_conditional_edges(START, lambda _: [Send("outer", {})], ["outer"])
    graph.add_edge("outer", END)
    return graph


def after_a_failure(handler: Any, *, asks_first: bool = False) -> StateGraph[Any]:
    """Its node fails, and an error handler goes on."""

    async def fail(_: State) -> dict[str, Any]:
        raise ValueError(interrupt("one?") if asks_first else "no")

    graph = StateGraph(State)
    graph.add_node("outer", fail, error_handler=handler)
    graph.add_edge(START, "outer")
    graph.add_edge("outer", END)
    return graph


def before_act() -> Any:
    return three_nodes(interrupt_before=["act"])


WAYS: dict[str, Any] = {
    "a node": lambda: a_graph(outer=asks_then(before_act())),
    "a graph of a graph": lambda: a_graph(outer=asks_then(by_a_function(before_act()).compile())),
    "a node of a function's graph": lambda: by_a_function(a_graph(inner=asks_then(before_act())).compile()),
    "a node within": lambda: a_graph(outer=a_graph(inner=asks_then(before_act())).compile()),
    "a node within that remembers": lambda: a_graph(
        outer=a_graph(inner=asks_then(before_act())).compile(checkpointer=True)
    ),
    "a task's question": lambda: a_graph(outer=by_a_task(before_act())),
    "a task": lambda: a_graph(outer=within_a_task(before_act())),
    "sent out": lambda: sent_out(asks_then(before_act())),
    "an error handler": lambda: after_a_failure(asks_then(before_act())),
}


@pytest.mark.parametrize("way", WAYS)
async def test_an_answer_stays_taken_at_a_pause(database_url: str, tmp_path: Path, way: str) -> None:
    async with server(database_url, tmp_path, agents={"mine": lambda llm: WAYS[way]()}) as (house, _, _):
        (question,) = finish_of(await turn(house, "Hi", agent="mine")).interrupts
        assert question.value == "one?"
        (pause,) = finish_of(await answer(house, 1)).interrupts
        assert pause.next == ("act",)
        assert await pauses(house) == [(pause.id, ("act",))]
        assert "act" in await refusal(house, ThreadWaits, "And?", agent="mine")
        assert question.id in await refusal(house, ThreadAnswered, "", agent="mine", resume={question.id: 2})
        assert text_of(await answer(house, {pause.id: 3})) == "done with [1]"
        assert await pauses(house) == []
        await refusal(house, ThreadAnswered, "", agent="mine", resume={pause.id: 4})


@pytest.mark.parametrize("way", [asks_then, by_a_task])
async def test_each_answer_and_pause_of_a_node_comes_once(database_url: str, tmp_path: Path, way: Any) -> None:
    def create(llm: Any) -> StateGraph[Any]:
        return a_graph(outer=way(three_nodes(interrupt_before="*"), twice=True))

    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        for _ in range(2):
            events, seen = await turn(house, "Hi", agent="mine"), []
            while stops := finish_of(events).interrupts:
                (stop,) = stops
                seen.append(stop.next[0] if stop.next else stop.value)
                events = await answer(house, {stop.id: len(seen)})
            assert seen == ["one?", "plan", "act", "tail", "two?", "plan", "act", "tail"]
            assert text_of(events) == "done with [1, 5]"


async def test_the_last_answer_counts_when_the_run_before_the_pause_failed(database_url: str, tmp_path: Path) -> None:
    def create(llm: Any) -> StateGraph[Any]:
        async def outer(_: State) -> dict[str, Any]:
            agreed = interrupt("one?")
            await llm.with_config(tags=["nostream"]).ainvoke("Write it down.")
            await before_act().ainvoke({"messages": []})
            return {"messages": [AIMessage(f"done with {agreed}")]}

        return a_graph(outer=outer)

    async with server(database_url, tmp_path, REFUSED, PAID, PAID, agents={"mine": create}) as (house, _, _):
        await turn(house, "Hi", agent="mine")
        assert failure_of(await answer(house, 1)) is not None
        (pause,) = finish_of(await answer(house, 2)).interrupts
        assert pause.next == ("act",)
        assert text_of(await answer(house, None)) == "done with 2"


def needs_the_model_after(pausing: Any, llm: Any, ran: list[str], *, question: str = "") -> Any:
    async def outer(_: State) -> dict[str, Any]:
        answers = [interrupt("one?")]
        ran.append(str(answers[0]))
        await pausing.ainvoke({"messages": []})
        if question:
            answers.append(interrupt(question))
        await llm.with_config(tags=["nostream"]).ainvoke("Write it down.")
        return {"messages": [AIMessage(f"done with {answers}")]}

    return outer


async def test_a_run_that_fails_past_a_pause_does_not_bring_the_question_back(
    database_url: str, tmp_path: Path
) -> None:
    ran: list[str] = []

    def create(llm: Any) -> StateGraph[Any]:
        return a_graph(outer=needs_the_model_after(before_act(), llm, ran))

    async with server(database_url, tmp_path, REFUSED, agents={"mine": create}) as (house, _, _):
        (question,) = finish_of(await turn(house, "Hi", agent="mine")).interrupts
        await answer(house, 1)
        assert failure_of(await answer(house, None)) is not None
        assert await pauses(house) == []
        assert "answered already" in await refusal(house, ThreadAnswered, "", agent="mine", resume=2)
        (again,) = finish_of(await turn(house, "Hi", agent="mine")).interrupts
        assert again.value == "one?"
        assert again.id != question.id
    assert ran == ["1", "1"]


async def test_the_next_question_after_a_pause_takes_the_last_answer(database_url: str, tmp_path: Path) -> None:
    ran: list[str] = []
    plans: list[str] = []

    def create(llm: Any) -> StateGraph[Any]:
        def plan(_: State) -> dict[str, Any]:
            plans.append("plan")
            return {}

        graph = a_graph(plan=plan, act=lambda _: {}).compile(interrupt_before=["act"])
        return a_graph(outer=needs_the_model_after(graph, llm, ran, question="two?"))

    async with server(database_url, tmp_path, REFUSED, PAID, agents={"mine": create}) as (house, _, _):
        await turn(house, "Hi", agent="mine")
        await answer(house, 1)
        (second,) = finish_of(await answer(house, None)).interrupts
        assert failure_of(await answer(house, {second.id: 2})) is not None
        assert await pauses(house) == [(second.id, ())]
        assert text_of(await answer(house, {second.id: 3})) == "done with [1, 3]"
    assert (plans, set(ran)) == (["plan"], {"1"})


@pytest.mark.parametrize("also", [False, True], ids=["the node asks", "both ask"])
async def test_the_answer_of_a_node_stays_taken_when_its_error_handler_pauses(
    database_url: str, tmp_path: Path, also: bool
) -> None:
    async def calm(_: State) -> dict[str, Any]:
        answers = [interrupt("two?")] if also else []
        await before_act().ainvoke({"messages": []})
        return {"messages": [AIMessage(f"calm {answers}")]}

    def create(llm: Any) -> StateGraph[Any]:
        return after_a_failure(calm, asks_first=True)

    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        events, passed = await turn(house, "Hi", agent="mine"), list[str]()
        for number, expected in enumerate(["one?", "two?", ("act",)] if also else ["one?", ("act",)]):
            (stop,) = finish_of(events).interrupts
            assert (stop.next or stop.value) == expected
            for one in passed:
                assert one in await refusal(house, ThreadAnswered, "", agent="mine", resume={one: True})
            passed.append(stop.id)
            events = await answer(house, {stop.id: number})
        assert text_of(events) == ("calm [1]" if also else "calm []")
        assert await pauses(house) == []


def at_once(one: Any, two: Any) -> StateGraph[Any]:
    graph: StateGraph[Any] = StateGraph(State)
    graph.add_node("one", one)
    graph.add_node("two", two)
    graph.add_node("end", lambda state: {"messages": [AIMessage(" and ".join(sorted(state["done"])))]})
    for name in ("one", "two"):
        graph.add_edge(START, name)
    graph.add_edge(["one", "two"], "end")
    graph.add_edge("end", END)
    return graph


def asks(question: str) -> Any:
    async def node(_: State) -> dict[str, Any]:
        return {"done": [f"{question} {interrupt(question)}"]}

    return node


def runs(pausing: Any, *, after: str = "") -> Any:
    async def node(_: State) -> dict[str, Any]:
        answers = [interrupt(after)] if after else []
        await pausing.ainvoke({"messages": []})
        return {"done": [f"ran {answers}"]}

    return node


async def test_a_question_and_a_pause_of_nodes_at_once_are_both_reported(database_url: str, tmp_path: Path) -> None:
    def create(llm: Any) -> StateGraph[Any]:
        return at_once(asks("one?"), runs(before_act()))

    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        events = await turn(house, "Hi", agent="mine", events=True)
        question, pause = finish_of(events).interrupts
        assert (question.value, pause.next) == ("one?", ("act",))
        shown = [event.content for event in events if isinstance(event, Progress) and event.kind == "interrupt"]
        assert shown == [{"id": one.id, "value": one.value} for one in (question, pause)]
        waits = await refusal(house, ThreadWaits, "And?", agent="mine")
        assert "is paused before act" in waits
        assert "waits for the answer" in waits
        refused = await refusal(house, BadRequest, "", agent="mine", resume={question.id: 1})
        assert pause.id in refused
        assert "act" in refused
        assert pause.id in await refusal(house, BadRequest, "", agent="mine", resume=1)
        (still,) = finish_of(await answer(house, {pause.id: None})).interrupts
        assert (still.id, still.value) == (question.id, "one?")
        assert pause.id in await refusal(house, ThreadAnswered, "", agent="mine", resume={pause.id: 1})
        assert text_of(await answer(house, {question.id: 2})) == "one? 2 and ran []"


async def test_a_question_and_a_pause_of_nodes_at_once_are_answered_together(database_url: str, tmp_path: Path) -> None:
    def create(llm: Any) -> StateGraph[Any]:
        return at_once(asks("one?"), runs(before_act()))

    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        question, pause = finish_of(await turn(house, "Hi", agent="mine")).interrupts
        assert text_of(await answer(house, {question.id: 2, pause.id: None})) == "one? 2 and ran []"
        assert await pauses(house) == []


async def test_an_answer_taken_before_a_pause_stays_while_another_node_asks(database_url: str, tmp_path: Path) -> None:
    def create(llm: Any) -> StateGraph[Any]:
        return at_once(asks("one?"), runs(before_act(), after="two?"))

    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        ids = {one.value: one.id for one in finish_of(await turn(house, "Hi", agent="mine")).interrupts}
        question, pause = finish_of(await answer(house, {ids["two?"]: 2})).interrupts
        assert (question.id, question.value, pause.next) == (ids["one?"], "one?", ("act",))
        assert ids["two?"] in await refusal(house, ThreadAnswered, "", agent="mine", resume={ids["two?"]: 3})
        assert text_of(await answer(house, {question.id: 1, pause.id: None})) == "one? 1 and ran [2]"


@pytest.mark.parametrize("way", ["failed", "ended", "remembers", "a task's"])
async def test_a_graph_that_failed_or_ended_is_no_pause_beside_a_question(
    database_url: str, tmp_path: Path, way: str
) -> None:
    async def act(_: State) -> dict[str, Any]:
        if way == "failed":
            raise ValueError("no")
        return {}

    graph = a_graph(plan=lambda _: {}, act=act).compile(checkpointer=way == "remembers" or None)

    async def tries(_: State) -> dict[str, Any]:
        with suppress(ValueError):
            await graph.ainvoke({"messages": []})
        return {"done": [f"tried {interrupt('two?')}"]}

    work = task(tries)

    async def calls(state: State) -> dict[str, Any]:
        found: dict[str, Any] = await work(state)
        return found

    def create(llm: Any) -> StateGraph[Any]:
        return at_once(asks("one?"), calls if way == "a task's" else tries)

    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        found = finish_of(await turn(house, "Hi", agent="mine")).interrupts
        assert [(one.value, one.next) for one in found] == [("one?", ()), ("two?", ())]
        assert text_of(await answer(house, {one.id: 1 for one in found})) == "one? 1 and tried 1"


async def test_a_pause_that_was_passed_at_the_end_of_a_graph_is_over_when_another_node_failed(
    database_url: str, tmp_path: Path
) -> None:
    """Its graph has nothing more to store, which would show that it went on."""

    def create(llm: Any) -> StateGraph[Any]:
        async def pay(_: State) -> dict[str, Any]:
            agreed = interrupt("one?")
            # After the other has ended.
            await ended.wait()
            await llm.with_config(tags=["nostream"]).ainvoke("Write it down.")
            return {"done": [f"one? {agreed}"]}

        async def run(_: State) -> dict[str, Any]:
            await three_nodes(interrupt_after=["tail"]).ainvoke({"messages": []})
            ended.set()
            return {"done": ["ran"]}

        return at_once(pay, run)

    ended = asyncio.Event()
    async with server(database_url, tmp_path, REFUSED, PAID, agents={"mine": create}) as (house, _, _):
        question, pause = finish_of(await turn(house, "Hi", agent="mine")).interrupts
        assert pause.next == ("two",)
        assert failure_of(await answer(house, {question.id: 1, pause.id: None})) is not None
        assert await pauses(house) == [(question.id, ())]
        assert text_of(await answer(house, 2)) == "one? 2 and ran"
