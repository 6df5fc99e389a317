"""Callers take turns, long jobs give way between chunks, and small ones wait for no large one."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from core import job_turns
from core import jobs as jobs_module
from core.database import Database
from core.jobs import Jobs, TurnOver, turn_is_over
from tests.house_for_tests import until
from tests.postgres_for_tests import WAIT_S, settings_for


@dataclass
class Bench:
    """A queue whose work notes its name when it begins, and stands still where its gate is shut."""

    url: str
    database: Database
    jobs: Jobs
    begun: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    chunks: Counter[str] = field(default_factory=Counter)
    shut: dict[str, asyncio.Event] = field(default_factory=dict)

    async def work(self, name: str) -> None:
        self.begun.append(name)
        if name in self.shut:
            await self.shut[name].wait()
        self.ended.append(name)

    async def in_chunks(self, name: str) -> None:
        self.begun.append(name)
        while self.chunks[name] < 3:
            self.chunks[name] += 1
            if await turn_is_over():
                raise TurnOver
        self.ended.append(name)

    async def defer(self, owner: str, name: str, *, job: str = "work", small: bool = False) -> None:
        async with self.database.connection() as connection:
            await self.jobs.defer(connection, job, owner, small=small, name=name)

    def shut_gate(self, name: str) -> asyncio.Event:
        return self.shut.setdefault(name, asyncio.Event())


@pytest.fixture
async def bench(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(jobs_module, "LOOK_S", 1_000)  # A place that becomes free is taken at once, not at a look.
    database = Database(settings_for(tmp_path, database_url))
    bench = Bench(database_url, database, Jobs(database, concurrency=1))
    bench.jobs.register("work", bench.work)
    bench.jobs.register("in chunks", bench.in_chunks)
    await database.open()
    assert await database.wait_ready(WAIT_S)
    try:
        yield bench
    finally:
        await bench.jobs.stop()
        await database.close()


async def test_one_job_of_a_caller_does_not_wait_for_all_of_another(bench: Bench) -> None:
    for number in range(20):
        await bench.defer("alice", f"alice {number}")
    for number in range(3):
        await bench.defer("bruno", f"bruno {number}")
    await bench.defer("carla", "carla")
    bench.jobs.start()
    await until(lambda: len(bench.ended) == 24, WAIT_S)
    assert bench.ended[:7] == ["alice 0", "bruno 0", "carla", "alice 1", "bruno 1", "alice 2", "bruno 2"]
    assert bench.ended[7:] == [f"alice {number}" for number in range(3, 20)]


async def test_who_comes_late_is_next(bench: Bench) -> None:
    gate = bench.shut_gate("alice 0")
    for number in range(20):
        await bench.defer("alice", f"alice {number}")
    bench.jobs.start()
    await until(lambda: bench.begun == ["alice 0"], WAIT_S)
    await bench.defer("bruno", "bruno")
    gate.set()
    await until(lambda: len(bench.ended) == 21, WAIT_S)
    assert bench.ended[:2] == ["alice 0", "bruno"]


async def test_a_small_job_does_not_wait_for_a_large_one_that_never_ends(bench: Bench) -> None:
    bench.shut_gate("endless")
    await bench.defer("alice", "endless")
    for number in range(3):
        await bench.defer("alice", f"large {number}")
    bench.jobs.start()
    await until(lambda: bench.begun == ["endless"], WAIT_S)
    await bench.defer("bruno", "one line", small=True)
    await until(lambda: bench.ended == ["one line"], WAIT_S)
    await bench.defer("alice", "her own line", small=True)
    await until(lambda: bench.ended == ["one line", "her own line"], WAIT_S)
    assert bench.begun == ["endless", "one line", "her own line"]


async def test_small_jobs_take_turns_too_and_hold_up_no_large_one(bench: Bench) -> None:
    gates = [bench.shut_gate(f"small {number}") for number in range(2)]
    for number in range(10):
        await bench.defer("alice", f"small {number}", small=True)
    bench.jobs.start()
    await until(lambda: bench.begun == ["small 0", "small 1"], WAIT_S)
    await bench.defer("bruno", "large")
    gates[0].set()
    await until(lambda: len(bench.begun) == 11, WAIT_S)
    gates[1].set()
    assert bench.begun[2] == "large"


async def test_a_long_job_gives_its_place_back_between_chunks_and_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(job_turns, "_clock", lambda: float(next(ticks)))
    monkeypatch.setattr(job_turns, "TURN_S", 0)
    await bench.defer("alice", "long", job="in chunks")
    await bench.defer("bruno", "other", job="in chunks")
    bench.jobs.start()
    await until(lambda: len(bench.ended) == 2, WAIT_S)
    # A second to the first chunk, and then for as long: never most of the time for what is done again.
    assert bench.begun == ["long", "other", "long", "other"]
    assert bench.chunks == {"long": 3, "other": 3}


@pytest.mark.parametrize("turn_s", [0, 1_000], ids=["nobody waits", "its turn is not over"])
async def test_a_job_keeps_its_place(bench: Bench, monkeypatch: pytest.MonkeyPatch, turn_s: float) -> None:
    monkeypatch.setattr(job_turns, "TURN_S", turn_s)
    await bench.defer("alice", "long", job="in chunks")
    await bench.defer("alice" if turn_s == 0 else "bruno", "other", job="in chunks")
    bench.jobs.start()
    await until(lambda: len(bench.ended) == 2, WAIT_S)
    assert bench.begun == ["long", "other"]


async def test_jobs_of_a_former_version_are_done(bench: Bench) -> None:
    with psycopg.connect(bench.url, autocommit=True) as connection:
        connection.execute("""
            SELECT procrastinate_defer_jobs_v1(ARRAY[
                ROW('work', 'work', 0, NULL, NULL, '{"name": "old"}'::jsonb, NULL)::procrastinate_job_to_defer_v1
            ])
        """)
    bench.jobs.start()
    await until(lambda: bench.ended == ["old"], WAIT_S)


async def test_outside_a_job_no_turn_ends() -> None:
    assert not await turn_is_over()
