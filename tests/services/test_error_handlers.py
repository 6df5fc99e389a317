"""Error handlers of nodes (`add_node(error_handler=…)`) on threads: what they ask is asked, and answered once."""

from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.func import task
from langgraph.graph import START, StateGraph
from langgraph.types import Send, interrupt

from domain.errors import ThreadAnswered, ThreadWaits
from tests.house_for_tests import failure_of, text_of
from tests.postgres_for_tests import _made_cluster, database_url, postgres, tmp_path
from tests.services.test_thread_answers import PAID, REFUSED, State, a_graph, answer, ids_of, pays, waiting
from tests.services.test_threads import refusal, server, turn

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.


async def asks(_: Any) -> dict[str, Any]:
    return {"messages": [AIMessage(f"handled {interrupt('What now?')}")]}


def handled(llm: Any, on_error: Any = asks) -> StateGraph[Any]:
    """A node that asks and then needs the model."""
    graph: StateGraph[Any] = StateGraph(State)
    graph.add_node("pay", pays(llm).nodes["pay"].runnable, error_handler=on_error)
    graph.add_edge(START, "pay")
    return graph


def handled_within(llm: Any) -> StateGraph[Any]:
    return a_graph(outer=handled(llm).compile())


def handled_around(llm: Any) -> StateGraph[Any]:
    """The node that fails is a graph."""
    graph: StateGraph[Any] = StateGraph(State)
    graph.add_node("pay", pays(llm).compile(), error_handler=asks)
    graph.add_edge(START, "pay")
    return graph


def handled_within_a_function(llm: Any) -> StateGraph[Any]:
    inner = handled(llm).compile()

    async def outer(state: State) -> dict[str, Any]:
        return {"messages": (await inner.ainvoke(state))["messages"][-1:]}

    return a_graph(outer=outer)


def handled_when_sent(llm: Any) -> StateGraph[Any]:
    graph: StateGraph[Any] = StateGraph(State)
    graph.add_node("pay", pays(llm).nodes["pay"].runnable, error_handler=asks)
    graph.add_conditional_edges(START, lambda _: [Send("pay", {"messages": []})], ["pay"])
    return graph


KINDS = [handled, handled_within, handled_around, handled_within_a_function, handled_when_sent]


@pytest.mark.parametrize("create", KINDS)
async def test_the_question_of_a_handler_is_shown_and_answered(database_url: str, tmp_path: Path, create: Any) -> None:
    async with server(database_url, tmp_path, REFUSED, agents={"mine": create}) as (house, _, _):
        first = ids_of(await turn(house, "Pay.", agent="mine"))
        second = ids_of(await answer(house, True))
        assert list(second) == ["What now?"] == await waiting(house)
        assert "resume" in await refusal(house, ThreadWaits, "And now?", agent="mine")
        late = {first["Pay 900 EUR?"]: False}
        assert "answered already" in await refusal(house, ThreadAnswered, "", agent="mine", resume=late)
        assert text_of(await answer(house, {second["What now?"]: "stop"})) == "handled stop"
        assert await waiting(house) == []
        assert "answered already" in await refusal(house, ThreadAnswered, "", agent="mine", resume="again")


@pytest.mark.parametrize("create", KINDS)
async def test_a_handler_is_not_at_work_when_the_node_succeeds(database_url: str, tmp_path: Path, create: Any) -> None:
    async with server(database_url, tmp_path, PAID, agents={"mine": create}) as (house, _, _):
        await turn(house, "Pay.", agent="mine")
        assert text_of(await answer(house, True)) == "PAID True"
        assert await waiting(house) == []


@pytest.mark.parametrize("around", [False, True], ids=["of a node", "of a graph"])
async def test_a_handler_asks_twice_and_the_last_answer_counts(database_url: str, tmp_path: Path, around: bool) -> None:
    done: list[str] = []

    @task
    async def note(text: str) -> str:
        done.append(text)
        return text

    def create(llm: Any) -> StateGraph[Any]:
        async def on_error(_: Any) -> dict[str, Any]:
            first = await note(f"first {interrupt('first?')}")
            second = await note(f"second {interrupt('second?')}")
            await llm.with_config(tags=["nostream"]).ainvoke("Write it down.")
            return {"messages": [AIMessage(f"{first}, {second}")]}

        graph = handled(llm, on_error)
        return a_graph(outer=graph.compile()) if around else graph

    async with server(database_url, tmp_path, REFUSED, REFUSED, PAID, agents={"mine": create}) as (house, _, _):
        await turn(house, "Pay.", agent="mine")
        first = ids_of(await answer(house, True))
        assert list(first) == ["first?"]
        await answer(house, "a")
        assert await waiting(house) == ["second?"]
        late = {first["first?"]: "again"}
        assert "answered already" in await refusal(house, ThreadAnswered, "", agent="mine", resume=late)
        assert failure_of(await answer(house, "b")) is not None
        assert await waiting(house) == ["second?"]
        assert text_of(await answer(house, "c")) == "first a, second c"
    assert done == ["first a", "second b", "second c"]


async def test_a_handler_that_fails_leaves_the_question_of_its_node(database_url: str, tmp_path: Path) -> None:
    def create(llm: Any) -> StateGraph[Any]:
        async def on_error(_: Any) -> dict[str, Any]:
            await llm.with_config(tags=["nostream"]).ainvoke("Write it down.")
            return {"messages": [AIMessage("handled")]}

        return handled(llm, on_error)

    script = [REFUSED, REFUSED, PAID]
    async with server(database_url, tmp_path, *script, agents={"mine": create}) as (house, _, _):
        await turn(house, "Pay.", agent="mine")
        assert failure_of(await answer(house, True)) is not None
        assert await waiting(house) == ["Pay 900 EUR?"]
        assert text_of(await answer(house, False)) == "NOT PAID False"
        assert await waiting(house) == []


async def test_what_a_handler_did_before_it_failed_is_done_again(database_url: str, tmp_path: Path) -> None:
    done: list[str] = []

    @task
    async def note() -> str:
        done.append("handled")
        return f"handled {len(done)}"

    def create(llm: Any) -> StateGraph[Any]:
        async def on_error(_: Any) -> dict[str, Any]:
            text = await note()
            await llm.with_config(tags=["nostream"]).ainvoke("Write it down.")
            return {"messages": [AIMessage(text)]}

        return handled(llm, on_error)

    script = [REFUSED, REFUSED, REFUSED, PAID]
    async with server(database_url, tmp_path, *script, agents={"mine": create}) as (house, _, _):
        await turn(house, "Pay.", agent="mine")
        assert failure_of(await answer(house, True)) is not None
        assert text_of(await answer(house, False)) == "handled 2"


async def test_a_handler_that_has_ended_stays_done_while_another_node_asks(database_url: str, tmp_path: Path) -> None:
    done: list[str] = []

    async def on_error(_: Any) -> dict[str, Any]:
        done.append("handled")
        return {"done": [f"handled {interrupt('What now?')}"]}

    def create(llm: Any) -> StateGraph[Any]:
        graph = handled(llm, on_error)
        graph.add_node("other", lambda _: {"done": [f"other {interrupt('other?')}"]})
        graph.add_node("sum", lambda state: {"messages": [AIMessage(", ".join(sorted(state["done"])))]})
        graph.add_edge(START, "other")
        graph.add_edge("other", "sum")
        return graph

    async with server(database_url, tmp_path, REFUSED, agents={"mine": create}) as (house, _, _):
        ids = ids_of(await turn(house, "Pay.", agent="mine"))
        ids |= ids_of(await answer(house, {ids["Pay 900 EUR?"]: True}))
        assert sorted(await waiting(house)) == ["What now?", "other?"]
        await answer(house, {ids["What now?"]: "stop"})
        assert await waiting(house) == ["other?"]
        assert text_of(await answer(house, 1)) == "handled stop, other 1"
    assert done == ["handled", "handled"]
