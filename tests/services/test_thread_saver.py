"""The saver of threads, as the graphs of LangGraph call it."""

from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph

from tests.house_for_tests import text_of
from tests.postgres_for_tests import _made_cluster, database_url, postgres, tmp_path
from tests.services.test_threads import server, turn

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.


async def test_a_plain_function_runs_a_graph_that_remembers(database_url: str, tmp_path: Path) -> None:
    inner: StateGraph[Any] = StateGraph(MessagesState)
    inner.add_node("answer", lambda state: {"messages": [AIMessage(f"{len(state['messages'])} so far")]})
    inner.add_edge(START, "answer")
    counts = inner.compile(checkpointer=True)

    def create(llm: Any) -> StateGraph[Any]:
        graph: StateGraph[Any] = StateGraph(MessagesState)
        graph.add_node("outer", lambda state: {"messages": counts.invoke(state)["messages"][-1:]})
        graph.add_edge(START, "outer")
        return graph

    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        assert text_of(await turn(house, "un", agent="mine")) == "1 so far"
        assert text_of(await turn(house, "deux", agent="mine")) == "3 so far"
