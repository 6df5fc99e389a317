"""Ids of questions and pauses that have passed: an answer to one is refused, and never taken for that of another."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.graph import StateGraph
from langgraph.types import interrupt

from domain.errors import ThreadAnswered
from services import questions
from services import threads as threads_module
from services.questions import interrupt_ids
from services.threads import Threads
from tests.house_for_tests import finish_of, text_of
from tests.postgres_for_tests import _made_cluster, database_url, postgres, tmp_path
from tests.services.test_breakpoints_within import three_nodes
from tests.services.test_thread_answers import State, a_graph, answer
from tests.services.test_threads import count, refusal, server, turn

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.


@pytest.fixture(autouse=True)
def pruned_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads_module, "PRUNE_EVERY", 1)


def asks_and_pauses(llm: Any) -> StateGraph[Any]:
    """Four nodes that ask, one after the other, each before a graph that stops."""

    async def node(state: State) -> dict[str, Any]:
        answered = interrupt(f"question {len(state['done'])}")
        await three_nodes(interrupt_before=["act"]).ainvoke({"messages": []})
        return {"done": [str(answered)]}

    def end(state: State) -> dict[str, Any]:
        return {"messages": [AIMessage(" ".join(state["done"]))]}

    return a_graph(one=node, two=node, three=node, four=node, end=end)


async def pruned(threads: Threads) -> None:
    while threads._background:
        await asyncio.gather(*threads._background)


async def test_passed_ids_are_known_after_pruning(database_url: str, tmp_path: Path) -> None:
    async with server(database_url, tmp_path, agents={"mine": asks_and_pauses}) as (house, _, threads):
        events, passed = await turn(house, "Hi", agent="mine"), list[str]()
        while stops := finish_of(events).interrupts:
            await pruned(threads)
            (stop,) = stops
            for one in passed:
                assert one in await refusal(house, ThreadAnswered, "", agent="mine", resume={one: "late"})
            passed.append(stop.id)
            events = await answer(house, len(passed))
        await pruned(threads)
        assert (text_of(events), len(set(passed))) == ("1 3 5 7", 8)
        for one in passed:
            await refusal(house, ThreadAnswered, "", agent="mine", resume={one: "late"})


async def test_the_oldest_ids_of_a_thread_are_forgotten(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "MOST_IDS", 4)
    async with server(database_url, tmp_path, agents={"mine": asks_and_pauses}) as (house, _, threads):
        events, passed = await turn(house, "Hi", agent="mine"), list[str]()
        while stops := finish_of(events).interrupts:
            passed += [one.id for one in stops]
            events = await answer(house, 1)
        await pruned(threads)
        key = (await threads.get_or_raise("t", "tester")).key
        known = await interrupt_ids(threads.saver, key)
        assert known >= set(passed[-4:])
        assert not known & set(passed[:3])
        await threads.delete("t", "tester")
        assert await count(threads, "checkpoint_writes") == 0
