"""A thread's oldest messages go when there are more than its limit, whatever adds them to its state."""

import operator
from pathlib import Path
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import pytest
from langchain_core.messages import HumanMessage
from langgraph.channels import DeltaChannel
from langgraph.graph import START, StateGraph
from langgraph.graph.message import _messages_delta_reducer

from tests.house_for_tests import failure_of
from tests.postgres_for_tests import _made_cluster, database_url, postgres, tmp_path
from tests.services.test_threads import OUI, asked, server, turn

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.


async def test_the_state_is_trimmed_to_its_limit_and_begins_with_the_user(database_url: str, tmp_path: Path) -> None:
    options = {"thread_max_messages": 6}
    async with server(database_url, tmp_path, *[OUI] * 5, settings=options) as (house, provider, threads):
        for number in range(5):
            await turn(house, str(number))
        lease = await threads.take("t", owner="tester", agent="echo", run_id=uuid4(), resumes=False)
        assert lease.messages <= 6
    assert asked(provider)[3] == ["0", "Oui", "1", "Oui", "2", "Oui", "3"]
    assert asked(provider)[4] == ["3", "Oui", "4"]


def adds_up(left: list[Any], right: list[Any]) -> list[Any]:
    return [*left, *right]


@pytest.mark.parametrize("reducer", [adds_up, operator.add, DeltaChannel(_messages_delta_reducer), None])
async def test_the_state_is_trimmed_whatever_adds_its_messages(database_url: str, tmp_path: Path, reducer: Any) -> None:
    """A reducer of one's own knows nothing of LangChain's messages that remove others."""

    class State(TypedDict):
        messages: Annotated[list[Any], reducer] if reducer else list[Any]  # type: ignore[misc, valid-type]

    def create(llm: Any) -> StateGraph[Any]:
        async def echo(state: State) -> dict[str, Any]:
            spoken = await llm.ainvoke(state["messages"])
            return {"messages": [spoken] if reducer else [HumanMessage("kept")] * 8}

        graph: StateGraph[Any] = StateGraph(State)
        graph.add_node("echo", echo)
        graph.add_edge(START, "echo")
        return graph

    options = {"thread_max_messages": 6}
    agents = {"mine": create}
    async with server(database_url, tmp_path, *[OUI] * 6, settings=options, agents=agents) as (house, provider, _):
        for number in range(6):
            assert failure_of(await turn(house, str(number), agent="mine")) is None
    last = ["3", "Oui", "4", "Oui", "5"] if reducer else ["5"]
    assert asked(provider)[5] == last
