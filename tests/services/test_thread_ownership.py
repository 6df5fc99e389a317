"""Whose a thread is: an id belongs to its owner, and others may use the same one."""

from pathlib import Path

import pytest

from domain.errors import NotFound, RouteurError
from domain.principals import Principal
from services.threads import Threads
from tests.house_for_tests import House, ask, events_of, failure_of
from tests.postgres_for_tests import _made_cluster, database_url, postgres, tmp_path
from tests.services.test_threads import OUI, asked, server, turn

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.

ALICE = Principal("alice")


async def test_two_owners_may_use_the_same_id_and_neither_learns_of_the_other(
    database_url: str, tmp_path: Path
) -> None:
    async with server(database_url, tmp_path, OUI, OUI, OUI) as (house, provider, threads):
        await turn(house, "un")
        with pytest.raises(NotFound) as missing:
            await threads.get_or_raise("t", "alice")
        with pytest.raises(NotFound):
            await threads.delete("t", "alice")
        assert await threads.find("alice", limit=9, offset=0) == ([], 0)
        assert missing.value.message == "thread 't': there is no such thread"
        await turn_of(ALICE, house, "de", resume=NotFound)
        await turn_of(ALICE, house, "deux")
        await turn(house, "trois")
        found, total = await threads.find("alice", limit=9, offset=0)
        assert ([(thread.thread_id, thread.turns) for thread in found], total) == ([("t", 1)], 1)
        await threads.delete("t", "alice")
        assert (await threads.get_or_raise("t", "tester")).turns == 2
    assert asked(provider) == [["un"], ["deux"], ["un", "Oui", "trois"]]


async def turn_of(who: Principal, house: House, text: str, *, resume: type[RouteurError] | None = None) -> None:
    fields = {} if resume is None else {"resume": text}
    request = ask("echo", text, thread_id="t", **fields)
    object.__setattr__(request, "principal", who)
    if resume is None:
        assert failure_of(await events_of(house, request)) is None
        return
    with pytest.raises(resume):
        await events_of(house, request)


async def test_threads_of_former_versions_stay_their_owners(database_url: str, tmp_path: Path) -> None:
    """Such a row's id is its key: its checkpoints are found under it."""
    async with server(database_url, tmp_path, OUI, OUI, OUI) as (house, provider, threads):
        await turn(house, "un", "old")
        await as_a_former_version_left_it(threads, "old")
        request = ask("echo", "deux", thread_id="old")
        object.__setattr__(request, "principal", ALICE)
        await events_of(house, request)
        await turn(house, "trois", "old")
        assert (await threads.get_or_raise("old", "tester")).key == "old"
        assert (await threads.get_or_raise("old", "alice")).key != "old"
    assert asked(provider) == [["un"], ["deux"], ["un", "Oui", "trois"]]


async def as_a_former_version_left_it(threads: Threads, name: str) -> None:
    key = (await threads.get_or_raise(name, "tester")).key
    async with threads._database.pool.connection() as connection:
        for table in ("threads", "checkpoints", "checkpoint_blobs", "checkpoint_writes"):
            await connection.execute(f"UPDATE {table} SET thread_id = %s WHERE thread_id = %s", (name, key))  # noqa: S608
        await connection.execute("UPDATE threads SET name = NULL")
