"""Where a run stopped is read from checkpoints alone, and is what LangGraph says with the graph at hand."""

import operator
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send

from services.pauses import Pause, innermost, next_nodes


class State(TypedDict):
    done: Annotated[list[str], operator.add]


async def following(graph: StateGraph[Any]) -> list[tuple[str, ...]]:
    """The nodes that came next at each step, as read from the checkpoint; LangGraph says the same."""
    compiled = graph.compile(InMemorySaver(), interrupt_before="*")
    config: Any = {"configurable": {"thread_id": "t"}}
    steps: list[tuple[str, ...]] = []
    await compiled.ainvoke({"done": []}, config)
    while True:
        state = await compiled.aget_state(config)
        saved = await compiled.checkpointer.aget_tuple(config)
        found = next_nodes(saved.checkpoint)
        assert sorted(found) == sorted(set(state.next))
        if not found:
            return steps
        steps.append(tuple(sorted(found)))
        await compiled.ainvoke(None, config)


def with_nodes(*names: str) -> StateGraph[Any]:
    graph: StateGraph[Any] = StateGraph(State)
    for name in names:
        graph.add_node(name, lambda _, name=name: {"done": [name]})
    return graph


async def test_nodes_that_begin_next_are_read_without_the_graph() -> None:
    graph = with_nodes("plan", "left", "right", "late", "sum")
    graph.add_edge(START, "plan")
    for name in ("left", "right"):
        graph.add_edge("plan", name)
    graph.add_edge("right", "late")
    graph.add_edge(["left", "late"], "sum")
    graph.add_edge("sum", END)
    assert await following(graph) == [("plan",), ("left", "right"), ("late",), ("sum",)]


async def test_nodes_that_are_sent_work_or_gone_to_are_read() -> None:
    graph = with_nodes("item", "sum")
    graph.add_node(
        "route", lambda state: Command(goto="item" if len(state["done"]) < 4 else END), destinations=("item",)
    )
    graph.add_conditional_edges(START, lambda _: [Send("item", {}), Send("item", {})], ["item"])
    graph.add_edge("item", "sum")
    graph.add_edge("sum", "route")
    assert await following(graph) == [("item",), ("sum",), ("route",), ("item",), ("sum",), ("route",)]


async def test_nodes_that_wait_for_all_others_are_read() -> None:
    graph = with_nodes("one", "two", "three")
    graph.add_node("last", lambda _: {}, defer=True)
    graph.add_edge(START, "one")
    graph.add_edge(START, "two")
    graph.add_edge("two", "three")
    graph.add_edge("one", "last")
    graph.add_edge("three", "last")
    assert await following(graph) == [("one", "two"), ("three",), ("last",)]


def test_the_innermost_graphs_are_those_that_stopped() -> None:
    places = ["s:1", "s:1|a:2", "s:1|1", "s:1|1|b:3", "other", "s:11"]
    assert [one.namespace for one in innermost(Pause(place, "x") for place in places)] == [
        "s:1|a:2",
        "s:1|1|b:3",
        "other",
        "s:11",
    ]
