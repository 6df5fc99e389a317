"""Runs that a process had begun when it was killed: each leaves one row, `lost`, unless it had ended."""

import asyncio
import dataclasses
import signal
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from services import ledger_intents
from services.ledger_intents import IntentLog, newest_of_each_run
from tests.ledger_for_tests import a_record, files_in, opened, stored_ids, until, until_written
from tests.postgres_for_tests import WAIT_S, Child, _made_cluster, data_dir, database_url, postgres, tmp_path

__all__ = ["_made_cluster", "data_dir", "database_url", "postgres", "tmp_path"]  # Fixtures.

BEGIN_AND_END = """
import asyncio, dataclasses, sys
from pathlib import Path
from tests.ledger_for_tests import a_record, opened

async def main():
    async with opened(Path(sys.argv[1]), sys.argv[2]) as (ledger, database):
        await database.wait_ready(60)
        records = [a_record() for _ in range(600)]
        for record in records:
            ledger.begin(dataclasses.replace(record, status="lost", latency_s=None))
        for record in records[:-3]:
            ledger.record(record)
        for record in records[-3:]:
            print(record.run_id, flush=True)
        if sys.argv[3] == "written":
            while ledger.status().pending_rows:
                await asyncio.sleep(0.02)
        print("done", flush=True)
        await asyncio.sleep(100)

asyncio.run(main())
"""


def statuses(url: str) -> dict[UUID, str]:
    with psycopg.connect(url) as connection:
        return dict(connection.execute("SELECT run_id, status FROM runs").fetchall())


async def leave_runs(data_dir: Path, url: str, when: str) -> set[UUID]:
    child = await asyncio.to_thread(Child, BEGIN_AND_END, str(data_dir), url, when)
    ids = {UUID(await asyncio.to_thread(child.read_line)) for _ in range(3)}
    assert await asyncio.to_thread(child.read_line) == "done"
    child.process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(child.process.communicate)
    return ids


async def test_runs_that_a_killed_process_had_begun_are_recorded_as_lost_and_those_it_ended_once(
    tmp_path: Path, database_url: str
) -> None:
    for number, when in enumerate(["at once", "written"], 1):
        lost = await leave_runs(tmp_path, database_url, when)
        async with opened(tmp_path, database_url) as (ledger, _):
            await until(lambda: len(files_in(tmp_path)) == 3 and ledger.status().pending_rows == 0)
        found = statuses(database_url)
        assert len(found) == 600 * number
        assert {run_id for run_id in lost if found[run_id] == "lost"} == lost
        assert sum(status == "lost" for status in found.values()) == 3 * number
        assert files_in(tmp_path) == []


async def test_a_run_that_ended_well_leaves_its_own_row_alone(tmp_path: Path, database_url: str) -> None:
    ended, abandoned = a_record(), a_record()
    async with opened(tmp_path, database_url) as (ledger, _):
        for record in (ended, abandoned):
            ledger.begin(dataclasses.replace(record, status="lost", latency_s=None))
        ledger.record(ended)
        ledger.abandon(abandoned.run_id)
        await until_written(ledger)
    async with opened(tmp_path, database_url) as (ledger, _):
        await until(lambda: len(files_in(tmp_path)) == 3)
    assert statuses(database_url) == {ended.run_id: "succeeded"}


async def test_runs_still_going_on_at_a_stop_are_recorded_by_the_next_start(tmp_path: Path, database_url: str) -> None:
    record = a_record()
    async with opened(tmp_path, database_url) as (ledger, _):
        ledger.begin(dataclasses.replace(record, status="lost", latency_s=None))
    async with opened(tmp_path, database_url) as (ledger, database):
        assert await database.wait_ready(WAIT_S)
        await until(lambda: stored_ids(database_url) == [record.run_id])
    assert files_in(tmp_path) == []


def test_the_file_holds_little_more_than_the_runs_that_go_on(tmp_path: Path) -> None:
    log = IntentLog.create(tmp_path / "a.intents")
    runs = [a_record().run_id for _ in range(3_000)]
    line = b"x" * 399 + b"\n"
    for run_id in runs:
        log.begin(run_id, line)
    for run_id in runs[5:]:
        log.settle(run_id)
    log.compact()
    assert (tmp_path / "a.intents").read_bytes() == line * 5
    log.begin(more := a_record().run_id, line)
    for run_id in [*runs[:5], more]:
        log.settle(run_id)
    log.compact()
    assert (tmp_path / "a.intents").stat().st_size == 0
    assert log.close() is False
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_half_of_a_row_leaves_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = IntentLog.create(tmp_path / "a.intents")
    write = ledger_intents.os.write
    monkeypatch.setattr(ledger_intents.os, "write", lambda fd, content: write(fd, content[:10]))
    with pytest.raises(OSError, match="a part of a row"):
        log.begin(a_record().run_id, b"x" * 100 + b"\n")
    assert (tmp_path / "a.intents").read_bytes() == b""
    log.close()


COST = """
import asyncio, dataclasses, sys, time
from pathlib import Path
from tests.ledger_for_tests import a_record, opened

async def main():
    async with opened(Path(sys.argv[1]), "postgresql://postgres@127.0.0.1:1/none") as (ledger, _):
        rounds = []
        for _ in range(7):
            records = [dataclasses.replace(a_record(), status="lost", latency_s=None) for _ in range(500)]
            started = time.thread_time()
            for record in records:
                ledger.begin(record)
            for record in records:
                ledger.abandon(record.run_id)
            rounds.append((time.thread_time() - started) * 1e6 / len(records))
        print(min(rounds), flush=True)

asyncio.run(main())
"""


async def test_beginning_a_run_costs_microseconds(tmp_path: Path) -> None:
    """In a process of its own; the limit leaves room for a machine twice as slow as one on which it took 5 µs."""
    child = await asyncio.to_thread(Child, COST, str(tmp_path))
    took_us = float(await asyncio.to_thread(child.finish))
    assert took_us < 20, took_us


def test_of_a_dead_processs_rows_the_last_of_each_run_stands() -> None:
    first, second = b'{"run_id":"%s","calls":1}\n' % (b"a" * 36), b'{"run_id":"%s","calls":1}\n' % (b"b" * 36)
    later = b'{"run_id":"%s","calls":2}\n' % (b"a" * 36)
    assert newest_of_each_run(first + second + later + b'{"run_id":"torn') == later + second
