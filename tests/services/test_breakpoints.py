"""Graphs that stop before or after a node (`compile(interrupt_before=...)`): it is reported, kept, and gone on with."""

from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt

from domain.errors import BadRequest, ThreadAnswered, ThreadWaits
from domain.runs import Progress
from tests.house_for_tests import House, ask, events_of, failure_of, finish_of, text_of
from tests.postgres_for_tests import _made_cluster, database_url, postgres, tmp_path
from tests.scripted_provider import Status, Step
from tests.services.test_threads import OUI, refusal, server, state_of, turn

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.

REFUSED: list[Step] = [Status(400, {"error": {"message": "no"}})]


def plans_then_acts(llm: Any) -> StateGraph[Any]:
    async def act(_: MessagesState) -> dict[str, Any]:
        return {"messages": [await llm.ainvoke("Act.")]}

    graph: StateGraph[Any] = StateGraph(MessagesState)
    graph.add_node("plan", lambda _: {"messages": [AIMessage("a plan")]})
    graph.add_node("act", act)
    graph.add_edge(START, "plan")
    graph.add_edge("plan", "act")
    graph.add_edge("act", END)
    return graph


def within(inner: Any) -> Any:
    graph: StateGraph[Any] = StateGraph(MessagesState)
    graph.add_node("outer", inner)
    graph.add_edge(START, "outer")
    graph.add_edge("outer", END)
    return graph


WAYS: dict[str, Any] = {
    "before": lambda llm: plans_then_acts(llm).compile(interrupt_before=["act"]),
    "after": lambda llm: plans_then_acts(llm).compile(interrupt_after=["plan"]),
    "own saver": lambda llm: plans_then_acts(llm).compile(InMemorySaver(), interrupt_before=["act"]),
    "within": lambda llm: within(plans_then_acts(llm).compile(interrupt_before=["act"])),
}


async def waiting(house: House) -> list[tuple[str, ...]]:
    return [one.next for one in (await state_of(house, "t", "mine")).interrupts]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("resume", [None, True, {}, "go"])
async def test_a_pause_is_said_and_any_answer_goes_on(
    database_url: str, tmp_path: Path, way: str, resume: object
) -> None:
    async with server(database_url, tmp_path, OUI, OUI, agents={"mine": WAYS[way]}) as (house, _, _):
        events = await turn(house, "Hi", agent="mine", events=True)
        (pause,) = finish_of(events).interrupts
        assert (pause.next, pause.value) == (("act",), {"next": ["act"]})
        assert house.ledger.rows[-1].status == "interrupted"
        shown = [event.content for event in events if isinstance(event, Progress) and event.kind == "interrupt"]
        assert shown == [{"id": pause.id, "value": pause.value}]
        assert await waiting(house) == [("act",)]
        assert "act" in await refusal(house, ThreadWaits, "And?", agent="mine")
        events = await turn(house, "", agent="mine", resume=resume)
        assert (text_of(events), finish_of(events).interrupts) == ("Oui", ())
        assert await waiting(house) == []
        again = await turn(house, "Hi", agent="mine")
        assert finish_of(again).interrupts[0].next == ("act",)
        assert text_of(await turn(house, "", agent="mine", resume=resume)) == "Oui"


@pytest.mark.parametrize("way", ["before", "after"])
async def test_a_pause_stays_when_what_came_next_failed(database_url: str, tmp_path: Path, way: str) -> None:
    async with server(database_url, tmp_path, REFUSED, OUI, agents={"mine": WAYS[way]}) as (house, _, _):
        await turn(house, "Hi", agent="mine")
        assert failure_of(await turn(house, "", agent="mine", resume=None)) is not None
        assert await waiting(house) == [("act",)]
        assert text_of(await turn(house, "", agent="mine", resume=None)) == "Oui"


async def test_every_node_may_be_a_breakpoint(database_url: str, tmp_path: Path) -> None:
    def create(llm: Any) -> Any:
        return plans_then_acts(llm).compile(interrupt_before="*", interrupt_after="*")

    async with server(database_url, tmp_path, OUI, agents={"mine": create}) as (house, _, _):
        events, stops = await turn(house, "Hi", agent="mine"), []
        while asked := finish_of(events).interrupts:
            stops += asked[0].next
            events = await turn(house, "", agent="mine", resume=None)
        assert stops == ["plan", "act"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_second_answer_to_a_pause_is_refused(database_url: str, tmp_path: Path, way: str) -> None:
    async with server(database_url, tmp_path, OUI, OUI, agents={"mine": WAYS[way]}) as (house, _, threads):
        first = finish_of(await turn(house, "Hi", agent="mine")).interrupts[0].id
        assert text_of(await turn(house, "", agent="mine", resume={first: True})) == "Oui"
        for again in (None, True, {first: True}):
            assert "answered already" in await refusal(house, ThreadAnswered, "", agent="mine", resume=again)
        second = finish_of(await turn(house, "Hi", agent="mine")).interrupts[0].id
        assert first != second
        assert first in await refusal(house, ThreadAnswered, "", agent="mine", resume={first: True})
        # Nor when the earlier one is not kept any more.
        await threads.saver.aprune([(await threads.get_or_raise("t", "tester")).key], strategy="keep_latest")
        assert first in await refusal(house, ThreadAnswered, "", agent="mine", resume={first: True, second: True})
        assert text_of(await turn(house, "", agent="mine", resume={second: True})) == "Oui"


async def test_an_answer_to_a_passed_pause_is_none_to_a_later_question(database_url: str, tmp_path: Path) -> None:
    def create(llm: Any) -> Any:
        graph: StateGraph[Any] = StateGraph(MessagesState)
        graph.add_node("ask", lambda _: {"messages": [AIMessage(f"got {interrupt('what?')}")]})
        graph.add_edge(START, "ask")
        return graph.compile(interrupt_before=["ask"])

    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        pause = finish_of(await turn(house, "Hi", agent="mine")).interrupts[0].id
        (question,) = finish_of(await turn(house, "", agent="mine", resume={pause: True})).interrupts
        assert question.value == "what?"
        assert pause in await refusal(house, ThreadAnswered, "", agent="mine", resume={pause: True})
        assert text_of(await turn(house, "", agent="mine", resume=1)) == "got 1"


async def test_a_failure_elsewhere_is_no_pause(database_url: str, tmp_path: Path) -> None:
    def create(llm: Any) -> Any:
        return plans_then_acts(llm).compile(interrupt_before=["plan"])

    async with server(database_url, tmp_path, REFUSED, agents={"mine": create}) as (house, _, _):
        await turn(house, "Hi", agent="mine")
        assert failure_of(await turn(house, "", agent="mine", resume=None)) is not None
        assert await waiting(house) == []
        assert finish_of(await turn(house, "Hi", agent="mine")).interrupts[0].next == ("plan",)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("events", [True, False])
async def test_without_a_thread_a_graph_that_stops_is_refused(
    database_url: str, tmp_path: Path, way: str, events: bool
) -> None:
    async with server(database_url, tmp_path, agents={"mine": WAYS[way]}) as (house, _, _):
        error = failure_of(await events_of(house, ask("mine", events=events)))
        assert isinstance(error, BadRequest)
        assert "thread_id" in error.message
