"""What an agent keeps in its store is its principal's: over threads and restarts, and nobody else's."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from core.database import Database
from domain.errors import DatabaseUnavailable
from services.store import AgentStore
from tests.house_for_tests import a_run, ask, events_of, open_house, text_of
from tests.live_server import NO_DATABASE
from tests.postgres_for_tests import WAIT_S, _made_cluster, database_url, postgres, settings_for, tmp_path
from tests.scripted_provider import scripted_provider

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.

NOTES = ("notes", "2026")


@asynccontextmanager
async def opened(url: str, folder: Path) -> AsyncIterator[AgentStore]:
    database = Database(settings_for(folder, url))
    await database.open()
    try:
        assert await database.wait_ready(WAIT_S)
        yield AgentStore(database)
    finally:
        await database.close()


async def test_what_is_kept_is_found_again_by_its_principal_alone(database_url: str, tmp_path: Path) -> None:
    async with opened(database_url, tmp_path) as store:
        async with a_run(subject="ada@example.com"):
            await store.aput(NOTES, "colour", {"is": "blue"})
        async with a_run(subject="ada@example.com"):
            item = await store.aget(NOTES, "colour")
            assert item is not None
            assert (item.value, item.namespace, item.key) == ({"is": "blue"}, NOTES, "colour")
            assert [found.namespace for found in await store.asearch(("notes",))] == [NOTES]
            assert await store.alist_namespaces() == [NOTES]
            assert await store.alist_namespaces(prefix=("notes",), max_depth=1) == [("notes",)]
            assert await store.alist_namespaces(suffix=("2026",)) == [NOTES]
        async with a_run(subject="alan"):
            assert await store.aget(NOTES, "colour") is None
            assert await store.asearch(()) == []
            assert await store.alist_namespaces() == []
            assert await store.alist_namespaces(prefix=("*",)) == []
            await store.adelete(NOTES, "colour")
        async with a_run(subject="ada@example.com"):
            assert await store.aget(NOTES, "colour") is not None
            await store.adelete(NOTES, "colour")
            assert await store.aget(NOTES, "colour") is None


async def test_it_outlives_the_server(database_url: str, tmp_path: Path) -> None:
    async with opened(database_url, tmp_path) as store, a_run(subject="ada"):
        await store.aput(NOTES, "n", {"n": 1})
    async with opened(database_url, tmp_path) as store, a_run(subject="ada"):
        item = await store.aget(NOTES, "n")
        assert item is not None
        assert item.value == {"n": 1}


async def test_nobodys_memory_is_there_outside_a_run(database_url: str, tmp_path: Path) -> None:
    async with opened(database_url, tmp_path) as store:
        with pytest.raises(RuntimeError, match="no run"):
            await store.aget(NOTES, "n")
        with pytest.raises(NotImplementedError, match="aget"):
            store.get(NOTES, "n")


async def test_without_the_database_the_store_says_so(tmp_path: Path) -> None:
    store = AgentStore(Database(settings_for(tmp_path, NO_DATABASE)))
    async with a_run(subject="ada"):
        with pytest.raises(DatabaseUnavailable):
            await store.aget(NOTES, "n")


def create_counter_graph(llm: Any, store: AgentStore) -> StateGraph[Any]:
    """Counts how often its principal has come."""

    async def count(_: MessagesState) -> dict[str, Any]:
        item = await store.aget(("visits",), "count")
        visits = (item.value["n"] if item else 0) + 1
        await store.aput(("visits",), "count", {"n": visits})
        return {"messages": [AIMessage(str(visits))]}

    graph: StateGraph[Any] = StateGraph(MessagesState)
    graph.add_node("count", count)
    graph.add_edge(START, "count")
    graph.add_edge("count", END)
    return graph


async def test_an_agent_asks_for_it_by_name(database_url: str, tmp_path: Path) -> None:
    async with (
        scripted_provider() as provider,
        opened(database_url, tmp_path) as store,
        open_house(provider, agents={"counter": create_counter_graph}, store=store) as house,
    ):
        answers = [text_of(await events_of(house, ask("counter"))) for _ in range(3)]
    assert answers == ["1", "2", "3"]
