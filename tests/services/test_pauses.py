"""Where a run stopped is read from checkpoints alone, and is what LangGraph says with the graph at hand."""

import operator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send

from services.pauses import OpenTask, Pause, next_nodes, paused
from services.taken_answers import ERROR, ERROR_SOURCE_NODE, INTERRUPT, RESUME


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


BEGINS = ("a",)
ENDED = ("out",)
ASKS = (INTERRUPT,)
UNDER_WAY: dict[str, tuple[list[tuple[str, str, tuple[str, ...]]], dict[str, tuple[str, ...]], list[str]]] = {
    "one": ([("t:1", "1", BEGINS)], {}, ["t:1"]),
    "the inner of two": ([("t:1", "1", BEGINS), ("t:1|m:2", "2", BEGINS)], {}, ["t:1|m:2"]),
    "not the inner of an older step": ([("t:1", "3", BEGINS), ("t:1|m:2", "2", BEGINS)], {}, ["t:1"]),
    "several of a task": ([("t:1", "1", BEGINS), ("t:1|1", "2", BEGINS)], {}, ["t:1", "t:1|1"]),
    "one in the second of a task": (
        [("t:1", "1", ()), ("t:1|1", "2", BEGINS), ("t:1|1|m:2", "3", BEGINS)],
        {},
        ["t:1|1|m:2"],
    ),
    "of tasks whose names begin alike": ([("t:1", "1", BEGINS), ("t:11", "2", BEGINS)], {}, ["t:1", "t:11"]),
    "not one that asks": ([("t:1", "1", BEGINS), ("u:2", "2", BEGINS)], {"t:1/x:9": ASKS}, ["u:2"]),
    "not one that failed": ([("t:1", "1", BEGINS), ("u:2", "2", BEGINS)], {"t:1/x:9": (ERROR,)}, ["u:2"]),
    "one at its end": ([("t:1", "1", ())], {}, ["t:1"]),
    "the newest at its end": ([("t:1", "1", ()), ("t:1|1", "2", ())], {}, ["t:1|1"]),
    "none at its end beside one that stopped": ([("t:1", "2", ()), ("t:1|1", "1", BEGINS)], {}, ["t:1|1"]),
    "none at its end around one that stopped": ([("t:1", "1", ()), ("t:1|c:2", "2", BEGINS)], {}, ["t:1|c:2"]),
    "one at its end in a task whose graph ended": ([("t:1", "1", ()), ("t:1|c:2", "2", ())], {}, ["t:1|c:2"]),
    "none whose task ended": ([("t:1", "1", ())], {"/t:1": ENDED}, []),
    "none whose task asks": ([("t:1", "1", ())], {"/t:1": ASKS}, []),
    "none whose task was handled": ([("t:1", "1", ())], {"/t:1": (ERROR, ERROR_SOURCE_NODE)}, []),
    "one that remembers, before its end": ([("t", "1", BEGINS), ("t|m:2", "2", BEGINS)], {}, ["t|m:2"]),
    "one whose task had asked before": ([("t:1", "1", ())], {"/t:1": (RESUME,)}, ["t:1"]),
}


@pytest.mark.parametrize("case", UNDER_WAY)
@pytest.mark.parametrize("is_paused", [False, True])
def test_graphs_that_stopped_are_told_from_those_that_ended_asked_or_failed(case: str, is_paused: bool) -> None:
    graphs, stored, expected = UNDER_WAY[case]
    tasks = [
        OpenTask(
            place.partition("/")[0], "1", place.rpartition(":")[2], "", frozenset(channels), is_waiting=channels == ASKS
        )
        for place, channels in stored.items()
    ]
    found = paused([Pause(*one) for one in graphs], tasks, is_paused=is_paused)
    assert sorted(one.namespace for one in found) == expected


@pytest.mark.parametrize("is_paused", [False, True])
def test_a_graph_that_remembers_and_has_no_more_nodes_has_ended_if_something_else_stopped_the_run(
    is_paused: bool,
) -> None:
    """Its namespace does not say which task runs it."""
    assert bool(paused([Pause("t", "1")], [], is_paused=is_paused)) is is_paused


@pytest.mark.parametrize("is_paused", [False, True])
def test_a_task_that_failed_may_have_done_so_before_it_was_run_again(is_paused: bool) -> None:
    """Where nothing else stopped the run, it has: its graph has ended, and it goes on with nothing."""
    failed = OpenTask("", "1", "1", "", frozenset({ERROR}))
    assert bool(paused([Pause("t:1", "1")], [failed], is_paused=is_paused)) is is_paused


def test_what_comes_after_a_graph_that_stopped_at_its_end_is_in_the_graph_around_it() -> None:
    around = [Pause("t:1", "1", ("m",)), Pause("t:1|m:2", "2", ("n",)), Pause("u:9", "3", ("o",))]
    found = paused([*around, Pause("t:1|m:2|n:3", "4")], [], is_paused=True)
    assert [(one.namespace, one.next) for one in found] == [("u:9", ("o",)), ("t:1|m:2|n:3", ("n",))]
