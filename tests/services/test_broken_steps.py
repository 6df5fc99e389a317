"""A step that fails after its nodes have succeeded leaves a thread that is read and goes on."""

from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, RemoveMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt

from domain.errors import AgentFailed
from tests.house_for_tests import failure_of, finish_of, text_of
from tests.postgres_for_tests import _made_cluster, database_url, postgres, tmp_path
from tests.services.test_thread_answers import answer, ids_of, waiting
from tests.services.test_threads import server, state_of, turn

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.


def raising(_: list[Any], new: list[Any]) -> list[Any]:
    if new == ["bad"]:
        raise ValueError("a reducer of its own")
    return new


class State(TypedDict):
    messages: Annotated[list[Any], add_messages]
    one: Any
    log: Annotated[list[Any], raising]


def both(**of: Any) -> StateGraph[Any]:
    """Two nodes at once, then one."""
    graph: StateGraph[Any] = StateGraph(State)
    for name, node in of.items():
        graph.add_node(name, node)
        graph.add_edge(START, name)
    graph.add_node("say", lambda state: {"messages": [AIMessage(f"fine {state.get('one')}")]})
    graph.add_edge(list(of), "say")
    graph.add_edge("say", END)
    return graph


WRITES: dict[str, tuple[Any, Any]] = {
    "one value twice": ({"one": 1}, {"one": 2}),
    "a reducer that raises": ({"log": ["bad"]}, {"one": 2}),
    "no message to remove": ({"messages": [RemoveMessage("unknown")]}, {}),
    "no messages": ({"messages": 5}, {}),
}


def fails_to_end(name: str) -> Any:
    left, right = WRITES[name]

    def create(llm: Any) -> StateGraph[Any]:
        def writes(what: Any) -> Any:
            return lambda state: what if state["messages"][-1].text == "break" else {}

        return both(left=writes(left), right=writes(right))

    return create


def within(name: str, *, remembers: bool) -> Any:
    def create(llm: Any) -> StateGraph[Any]:
        graph: StateGraph[Any] = StateGraph(State)
        graph.add_node("outer", fails_to_end(name)(llm).compile(checkpointer=True if remembers else None))
        graph.add_edge(START, "outer")
        graph.add_edge("outer", END)
        return graph

    return create


async def goes_on(database_url: str, tmp_path: Path, create: Any) -> None:
    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        assert text_of(await turn(house, "go", agent="mine")) == "fine None"
        for _ in range(2):
            assert isinstance(failure_of(await turn(house, "break", agent="mine")), AgentFailed)
            state = await state_of(house, "t", "mine")
            assert (state.messages[-1].text, state.interrupts) == ("break", ())
        assert text_of(await turn(house, "go", agent="mine")) == "fine None"
        texts = [one.text for one in (await state_of(house, "t", "mine")).messages]
        assert texts == ["go", "fine None", "break", "break", "go", "fine None"]


@pytest.mark.parametrize("name", WRITES)
async def test_what_cannot_be_applied_is_dropped(database_url: str, tmp_path: Path, name: str) -> None:
    await goes_on(database_url, tmp_path, fails_to_end(name))


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("remembers", [True, False])
async def test_what_cannot_be_applied_is_dropped_in_a_graph_within(
    database_url: str, tmp_path: Path, name: str, remembers: bool
) -> None:
    await goes_on(database_url, tmp_path, within(name, remembers=remembers))


async def test_the_step_after_an_answer_may_fail(database_url: str, tmp_path: Path) -> None:
    def create(llm: Any) -> StateGraph[Any]:
        graph: StateGraph[Any] = StateGraph(State)
        graph.add_node("ask", lambda _: {"log": [interrupt("what?")]})
        graph.add_edge(START, "ask")
        for name in ("left", "right"):
            graph.add_node(name, lambda _, name=name: {"one": name})
            graph.add_edge("ask", name)
        return graph

    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        await turn(house, "Hi", agent="mine")
        assert failure_of(await answer(house, "x")) is not None
        assert await waiting(house) == []
        assert [one.value for one in finish_of(await turn(house, "Hi", agent="mine")).interrupts] == ["what?"]


async def test_answers_of_a_step_that_fails_are_dropped_with_it(database_url: str, tmp_path: Path) -> None:
    def create(llm: Any) -> StateGraph[Any]:
        def asks(name: str) -> Any:
            def ask(_: State) -> dict[str, Any]:
                first, second = interrupt(f"{name} 1"), interrupt(f"{name} 2")
                return {"one": f"{first} {second}"} if second != "skip" else {}

            return ask

        return both(left=asks("left"), right=asks("right"))

    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        ids = ids_of(await turn(house, "Hi", agent="mine"))
        ids = ids_of(await answer(house, dict.fromkeys(ids.values(), "a")))
        assert sorted(ids) == ["left 2", "right 2"]
        assert failure_of(await answer(house, dict.fromkeys(ids.values(), "b"))) is not None
        assert sorted(await waiting(house)) == ["left 2", "right 2"]
        events = await answer(house, {ids["left 2"]: "c", ids["right 2"]: "skip"})
        assert text_of(events) == "fine a c"
