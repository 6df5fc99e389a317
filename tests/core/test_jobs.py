"""The queue: each job is done, whatever dies in between, and a deleted one is not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from procrastinate.worker import Worker

from core import jobs as jobs_module
from core.database import Database
from core.job_turns import Turns
from core.jobs import Jobs, RetryLater
from core.migration import migrate
from domain.errors import DatabaseUnavailable
from tests.house_for_tests import until
from tests.postgres_for_tests import WAIT_S, Child, Door, settings_for

WORKER = """
import asyncio, sys
from pathlib import Path
from config.settings import Settings
from core.database import Database
from core.job_turns import Turns
from core.jobs import Jobs

async def work(name):
    print("begun", name, flush=True)
    await asyncio.sleep(60)

async def main():
    database = Database(Settings(_env_file=None, data_dir=Path(sys.argv[1]), database_url=sys.argv[2]))
    jobs = Jobs(database)
    jobs.register("work", work)
    await database.open()
    jobs.start()
    await asyncio.to_thread(sys.stdin.readline)
    await jobs.stop()
    await database.close()

asyncio.run(main())
"""


@asynccontextmanager
async def opened(directory: Path, url: str, *, concurrency: int = 1) -> AsyncIterator[tuple[Database, Jobs]]:
    database = Database(settings_for(directory, url))
    jobs = Jobs(database, concurrency=concurrency)
    await database.open()
    try:
        yield database, jobs
    finally:
        await jobs.stop()
        await database.close()


async def defer(database: Database, jobs: Jobs, job: str, /, **arguments: str) -> int:
    assert await database.wait_ready(WAIT_S)
    async with database.connection() as connection:
        return await jobs.defer(connection, job, **arguments)


def left(url: str) -> list[tuple[str, str]]:
    with psycopg.connect(url) as connection:
        query = "SELECT task_name, status::text FROM procrastinate_jobs ORDER BY id"
        return connection.execute(query).fetchall()


def workers(url: str) -> int:
    with psycopg.connect(url) as connection:
        return len(connection.execute("SELECT id FROM procrastinate_workers").fetchall())


def listens(url: str) -> bool:
    with psycopg.connect(url) as connection:
        query = """
            SELECT 1 FROM pg_stat_activity
            WHERE datname = current_database() AND query LIKE 'LISTEN %' AND state = 'idle'
        """
        return connection.execute(query).fetchone() is not None


async def test_jobs_are_done_once_in_order_and_leave_nothing(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "LOOK_S", 100)  # New ones are announced.
    done: list[str] = []

    async def work(name: str) -> None:
        done.append(name)

    async with opened(tmp_path, database_url) as (database, jobs):
        jobs.register("work", work)
        for number in range(3):
            await defer(database, jobs, "work", name=f"early {number}")
        jobs.start()
        await until(lambda: len(done) == 3 and listens(database_url), WAIT_S)
        await defer(database, jobs, "work", name="late")
        await until(lambda: len(done) == 4, WAIT_S)
        await until(lambda: left(database_url) == [], WAIT_S)
    assert done == ["early 0", "early 1", "early 2", "late"]
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM procrastinate_events").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM procrastinate_workers").fetchone() == (0,)


async def test_a_job_that_is_announced_while_the_worker_looks_in_vain_is_begun_at_once(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "LOOK_S", 1_000)
    look, hear = Turns.take_next, Worker._handle_notification
    looked_in_vain, heard = asyncio.Event(), asyncio.Event()
    done: list[str] = []

    async def slow_look(turns: Turns, queues: Any, worker: int) -> Any:
        job = await look(turns, queues, worker)
        if job is None and done == ["first"] and not looked_in_vain.is_set():
            looked_in_vain.set()
            await asyncio.wait_for(heard.wait(), WAIT_S)
        return job

    async def telling(worker: Worker, **announced: Any) -> None:
        await hear(worker, **announced)
        if looked_in_vain.is_set():
            heard.set()

    async def work(name: str) -> None:
        done.append(name)

    monkeypatch.setattr(Turns, "take_next", slow_look)
    monkeypatch.setattr(Worker, "_handle_notification", telling)
    async with opened(tmp_path, database_url) as (database, jobs):
        jobs.register("work", work)
        jobs.start()
        await until(lambda: listens(database_url), WAIT_S)
        await defer(database, jobs, "work", name="first")
        await asyncio.wait_for(looked_in_vain.wait(), WAIT_S)
        await defer(database, jobs, "work", name="second")
        await until(lambda: done == ["first", "second"], WAIT_S)


async def test_a_job_belongs_to_the_transaction_that_defers_it(tmp_path: Path, database_url: str) -> None:
    async with opened(tmp_path, database_url) as (database, jobs):
        assert await database.wait_ready(WAIT_S)
        async with database.connection() as connection, connection.transaction(force_rollback=True):
            await jobs.defer(connection, "work", name="a")
        assert left(database_url) == []


async def test_what_may_pass_is_tried_again_and_a_bug_is_not(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jobs_module, "LOOK_S", 0.1)
    monkeypatch.setattr(jobs_module, "DATABASE_RETRY_S", 0.1)
    tried: list[str] = []

    async def work(name: str) -> None:
        tried.append(name)
        if name == "bug":
            raise KeyError(name)
        if tried.count(name) < 3:
            raise RetryLater(0.05) if name == "waits" else DatabaseUnavailable("it is down")

    async with opened(tmp_path, database_url, concurrency=3) as (database, jobs):
        jobs.register("work", work)
        jobs.start()
        for name in ("waits", "outage", "bug"):
            await defer(database, jobs, "work", name=name)
        await until(lambda: left(database_url) == [], WAIT_S)
    assert sorted(tried) == ["bug", *["outage"] * 3, *["waits"] * 3]
    assert [record.message for record in caplog.records if record.exc_info] == ["a job failed"]


async def test_jobs_of_a_name_that_we_do_not_know_are_left_to_who_does(tmp_path: Path, database_url: str) -> None:
    done: list[str] = []

    async def work(name: str) -> None:
        done.append(name)

    async with opened(tmp_path, database_url) as (database, jobs):
        jobs.register("work", work)
        await defer(database, jobs, "of a newer server", name="x")
        await defer(database, jobs, "work", name="ours")
        jobs.start()
        await until(lambda: done == ["ours"] and len(left(database_url)) == 1, WAIT_S)
        assert left(database_url) == [("of a newer server", "todo")]


@pytest.mark.parametrize("is_told", [True, False], ids=["at once", "at the next look, had it not been told"])
async def test_a_job_that_is_removed_while_it_runs_is_stopped(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, is_told: bool
) -> None:
    monkeypatch.setattr(jobs_module, "LOOK_S", 1_000 if is_told else 0.1)
    if not is_told:
        monkeypatch.setattr(jobs_module, "_ABORT", "SELECT %s")
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async with opened(tmp_path, database_url) as (database, jobs):
        jobs.register("work", work)
        jobs.start()
        assert await database.wait_ready(WAIT_S)
        await until(lambda: listens(database_url), WAIT_S)
        job = await defer(database, jobs, "work")
        await asyncio.wait_for(begun.wait(), WAIT_S)
        async with database.connection() as connection, connection.transaction():
            await jobs.remove(connection, job)
        assert left(database_url) == []
        await asyncio.wait_for(ended.wait(), WAIT_S)
        begun.clear()
        await defer(database, jobs, "work")
        await asyncio.wait_for(begun.wait(), WAIT_S)  # The worker goes on.


async def test_a_worker_that_stops_gives_its_job_back_at_once(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "STOP_S", 100)
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.sleep(60)

    async with opened(tmp_path, database_url) as (database, jobs):
        jobs.register("work", work)
        jobs.start()
        await defer(database, jobs, "work")
        await asyncio.wait_for(begun.wait(), WAIT_S)
        async with asyncio.timeout(WAIT_S):
            await jobs.stop()
        assert left(database_url) == [("work", "todo")]


async def test_the_job_of_a_killed_worker_is_begun_again_at_once(tmp_path: Path, database_url: str) -> None:
    async with opened(tmp_path, database_url) as (database, jobs):
        await defer(database, jobs, "work", name="a")
        first = await asyncio.to_thread(Child, WORKER, str(tmp_path), database_url)
        assert await asyncio.to_thread(first.read_line) == "begun a"
        bystander = await asyncio.to_thread(Child, WORKER, str(tmp_path), database_url)
        try:
            async with asyncio.timeout(WAIT_S):  # Less than a dead worker has by its heartbeat.
                await asyncio.to_thread(first.kill)
                assert await asyncio.to_thread(bystander.read_line) == "begun a"
        finally:
            bystander.kill()
        done: list[str] = []

        async def work(name: str) -> None:
            done.append(name)

        jobs.register("work", work)
        jobs.start()
        await until(lambda: done == ["a"], WAIT_S)


async def test_the_job_of_a_living_worker_is_nobody_elses(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "LOOK_S", 0.05)
    begun: list[str] = []

    async def work(name: str) -> None:
        begun.append(name)
        await asyncio.sleep(60)

    async with opened(tmp_path, database_url) as (database, one), opened(tmp_path, database_url) as (_, other):
        for jobs in (one, other):
            jobs.register("work", work)
            jobs.start()
        for name in ("a", "b"):
            await defer(database, one, "work", name=name)
        await until(lambda: len(begun) == 2, WAIT_S)
        await asyncio.sleep(0.5)
        assert sorted(begun) == ["a", "b"]


async def test_the_worker_survives_the_databases_absence(
    tmp_path: Path, database_url: str, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Down at the start, and gone in the middle of a job, whose end cannot be written then."""
    monkeypatch.setattr(jobs_module, "LOOK_S", 0.2)
    monkeypatch.setattr(jobs_module, "POOL_WAIT_S", 0.3)
    migrate(database_url, 5)
    go_on = asyncio.Event()
    begun: list[str] = []

    async def work(name: str) -> None:
        begun.append(name)
        if len(begun) == 1:
            await go_on.wait()

    async with opened(tmp_path, door.url) as (database, jobs):
        jobs.register("work", work)
        jobs.start()
        await asyncio.sleep(0.3)
        await door.open()
        await defer(database, jobs, "work", name="a")
        await until(lambda: begun == ["a"], WAIT_S)
        await door.shut()
        go_on.set()
        await until(lambda: database.state == "down" and jobs._worker is None, WAIT_S)
        assert left(database_url) == [("work", "doing")]
        await door.open()
        await until(lambda: begun == ["a", "a"], WAIT_S)
        await until(lambda: left(database_url) == [], WAIT_S)
        await defer(database, jobs, "work", name="b")
        await until(lambda: begun == ["a", "a", "b"], WAIT_S)


async def test_a_job_whose_end_could_not_be_written_is_done_again(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would stay at work for ever, in the hands of a worker that lives and has forgotten it."""
    monkeypatch.setattr(jobs_module, "LOOK_S", 0.1)
    finish = jobs_module._FINISH
    monkeypatch.setattr(jobs_module, "_FINISH", "SELECT 1 / 0")
    begun: list[str] = []

    async def work(name: str) -> None:
        begun.append(name)
        if len(begun) == 2:
            monkeypatch.setattr(jobs_module, "_FINISH", finish)

    async with opened(tmp_path, database_url) as (database, jobs):
        jobs.register("work", work)
        jobs.start()
        await defer(database, jobs, "work", name="a")
        await until(lambda: left(database_url) == [], WAIT_S)
    assert begun == ["a", "a"]


async def test_who_was_taken_for_dead_has_no_say_any_more(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its heartbeat stopped, another has its job: its own end of it must not remove the other's."""
    monkeypatch.setattr(jobs_module, "LOOK_S", 0.1)
    gates = [asyncio.Event(), asyncio.Event()]
    begun: list[int] = []

    async def work() -> None:
        begun.append(len(begun))
        await gates[begun[-1]].wait()

    async with opened(tmp_path, database_url) as (database, one), opened(tmp_path, database_url) as (_, other):
        one.register("work", work)
        one.start()
        await defer(database, one, "work")
        await until(lambda: begun == [0], WAIT_S)
        other.register("work", work)
        other.start()
        await until(lambda: workers(database_url) == 2, WAIT_S)
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("""
                UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour'
                WHERE id = (SELECT worker_id FROM procrastinate_jobs)
            """)
        await until(lambda: begun == [0, 1], WAIT_S)
        gates[0].set()
        await asyncio.sleep(0.3)
        assert left(database_url) == [("work", "doing")]
        gates[1].set()
        await until(lambda: left(database_url) == [], WAIT_S)
