"""Which graphs a graph runs, as far as they can be seen before it runs."""

from typing import Any

import pytest
from langgraph.graph import START, MessagesState, StateGraph

from services.graphs_within import MOST_HELD, graphs_within


def a_graph_of(node: Any) -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    return graph.compile()


def nothing(state: MessagesState) -> dict[str, Any]:
    return {}


@pytest.mark.parametrize(("more", "is_found"), [(0, True), (MOST_HELD, False)], ids=["a few", "data"])
@pytest.mark.parametrize("kind", [list, tuple, dict], ids=lambda kind: kind.__name__)
def test_what_a_function_holds_is_looked_through_unless_it_is_data(kind: Any, more: int, is_found: bool) -> None:
    inner = a_graph_of(nothing)
    held = [inner, *range(more)]
    things = kind(enumerate(held)) if kind is dict else kind(held)

    def node(state: MessagesState) -> dict[str, Any]:
        return {} if things else {"messages": []}

    outer = a_graph_of(node)
    assert list(graphs_within(outer)) == [outer, inner][: 1 + is_found]


def test_things_that_hold_each_other_are_looked_at_once() -> None:
    ring: list[Any] = []
    ring.append(ring)

    def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": ring and []}

    outer = a_graph_of(node)
    assert list(graphs_within(outer)) == [outer]
