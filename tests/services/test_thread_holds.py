"""Who holds a thread: a process that dies lets go within moments, and what it cut off is visible."""

import asyncio
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from domain.errors import Conflict, ThreadBusy, ThreadWaits
from services import threads as threads_module
from services.threads import Lease, Thread, Threads
from tests.house_for_tests import failure_of, until
from tests.postgres_for_tests import Child, _made_cluster, database_url, postgres, tmp_path
from tests.scripted_provider import Cut, say
from tests.services.test_breakpoints import plans_then_acts
from tests.services.test_threads import OUI, keeping, refusal, server, turn

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.

KILLED_S = 5.0
HOLDING = """
import asyncio, sys
from pathlib import Path
from uuid import UUID
from core.database import Database
from services.threads import Threads
from tests.postgres_for_tests import settings_for

async def main():
    settings = settings_for(Path(sys.argv[1]), sys.argv[2])
    database = Database(settings)
    threads = Threads(database, settings)
    await database.open()
    await threads.start()
    assert await database.wait_ready(60)
    await threads.take("t", owner="tester", agent="echo", run_id=UUID(int=7), resumes=False)
    print("held", flush=True)
    await asyncio.sleep(100)

asyncio.run(main())
"""


async def take(threads: Threads, **fields: Any) -> Lease:
    return await threads.take("t", owner="tester", agent="echo", run_id=uuid4(), **{"resumes": False, **fields})


async def look(threads: Threads) -> Thread:
    return await threads.get_or_raise("t", "tester")


async def test_a_killed_process_lets_go_within_moments_and_its_run_is_lost(database_url: str, tmp_path: Path) -> None:
    async with server(database_url, tmp_path, OUI) as (house, _, threads):
        child = Child(HOLDING, str(tmp_path), database_url)
        assert await asyncio.to_thread(child.read_line) == "held"
        await refusal(house, ThreadBusy)
        assert (await look(threads)).last_status == "running"
        await asyncio.to_thread(child.kill)
        killed_at = time.monotonic()
        while (thread := await look(threads)).busy:  # noqa: ASYNC110 - the database has no event for it
            await asyncio.sleep(0.05)
        assert time.monotonic() - killed_at < KILLED_S
        assert (thread.last_status, thread.last_run.int if thread.last_run else None) == ("lost", 7)
        assert failure_of(await turn(house)) is None
        assert (await look(threads)).last_status == "succeeded"


async def test_a_stopped_server_lets_go_at_once(database_url: str, tmp_path: Path) -> None:
    async with keeping(database_url, tmp_path / "a") as one:
        await take(one)
    async with keeping(database_url, tmp_path / "b") as other:
        await take(other)


async def test_a_run_keeps_its_thread_when_the_connection_that_holds_it_breaks(
    database_url: str, tmp_path: Path
) -> None:
    async with keeping(database_url, tmp_path) as threads:
        lease = await take(threads)
        first = threads._presence.number
        async with threads._database.pool.connection() as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s::oid",
                (first,),
            )
        await until(lambda: threads._presence.number not in {None, first})
        while not (await look(threads)).busy:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
        assert not lease.is_lost


async def test_a_process_that_is_not_present_yet_holds_by_a_lease(
    database_url: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(threads_module, "PRESENCE_WAIT_S", 0.01)
    async with keeping(database_url, tmp_path) as threads:
        await threads._presence.stop()
        await take(threads)
        assert (await look(threads)).busy


async def test_the_last_run_of_a_thread_is_told(database_url: str, tmp_path: Path) -> None:
    agents = {"mine": lambda llm: plans_then_acts(llm).compile(interrupt_before=["act"])}
    async with server(database_url, tmp_path, [*say("Ou"), Cut()], OUI, agents=agents) as (house, _, threads):
        await turn(house)
        thread = await look(threads)
        assert (thread.last_status, thread.last_run) == ("failed", house.ledger.rows[-1].run_id)
        await turn(house)
        assert (await look(threads)).last_status == "succeeded"
        await turn(house, "Hi", "u", agent="mine")
        await refusal(house, ThreadWaits, "And?", "u", agent="mine")
        stopped = await threads.get_or_raise("u", "tester")
        assert (stopped.last_status, stopped.last_run) == ("interrupted", house.ledger.rows[-1].run_id)


async def test_a_run_that_is_refused_does_not_hide_what_was_cut_off(database_url: str, tmp_path: Path) -> None:
    async with server(database_url, tmp_path) as (house, _, threads):
        lease = await take(threads)
        threads._leases.clear()
        async with threads._database.pool.connection() as connection:
            await connection.execute("UPDATE threads SET leased_until = now() - interval '1s'")
        assert "waits for nothing" in await refusal(house, Conflict, "", resume=1)
        thread = await look(threads)
        assert (thread.last_status, thread.last_run) == ("lost", lease.run_id)
