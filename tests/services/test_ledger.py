"""The ledger: what was recorded is stored once, in order, and what is being answered never waits for it."""

import asyncio
import dataclasses
import os
import random
import signal
import time
from pathlib import Path
from types import MappingProxyType
from uuid import UUID

import orjson
import psycopg

from core.database import Database
from core.embedded_postgres import status
from domain.runs import RunRecord
from services.ledger import Ledger
from tests.ledger_for_tests import (
    CALL,
    a_record,
    arrived_ids,
    files_in,
    log_arrivals,
    opened,
    stored_ids,
    until,
    until_written,
)
from tests.postgres_for_tests import (
    WAIT_S,
    Child,
    Door,
    _made_cluster,
    data_dir,
    database_url,
    door,
    postgres,
    settings_for,
    tmp_path,
)

__all__ = ["_made_cluster", "data_dir", "database_url", "door", "postgres", "tmp_path"]  # Fixtures.


async def test_every_figure_arrives_and_what_is_not_known_is_null(tmp_path: Path, database_url: str) -> None:
    record = a_record(calls=(CALL, MappingProxyType({"model": "é\\u0000"})))
    async with opened(tmp_path, database_url) as (ledger, database):
        ledger.record(record)
        await until_written(ledger)
        assert await database.wait_ready(WAIT_S)
        async with database.pool.connection() as connection:
            row = await (await connection.execute("SELECT * FROM runs")).fetchone()
    expected = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    assert row == expected | {"calls": [CALL, {"model": "é\\u0000"}], "wcf_liters": None}
    assert files_in(tmp_path) == []


async def test_a_row_with_everything_unknown_that_may_be_is_stored_and_not_set_aside(
    tmp_path: Path, database_url: str
) -> None:
    """A plain model's run has no agent, and a failed one hardly any figure: none of that is a fault of the row."""
    optional = {field.name: None for field in dataclasses.fields(RunRecord) if "None" in str(field.type)}
    assert {"agent", "project_id", "cost_eur"} <= optional.keys()
    record = a_record(**optional)
    async with opened(tmp_path, database_url) as (ledger, database):
        ledger.record(record)
        await until_written(ledger)
        assert ledger.status().rejected_rows == 0
        async with database.pool.connection() as connection:
            row = await (await connection.execute("SELECT * FROM runs")).fetchone()
    assert row is not None
    assert {name: row[name] for name in optional} == optional


async def test_recording_costs_microseconds_and_ten_thousand_rows_arrive_in_order(
    tmp_path: Path, database_url: str
) -> None:
    log_arrivals(database_url)
    records = [a_record() for _ in range(10_000)]
    async with opened(tmp_path, database_url) as (ledger, database):
        assert await database.wait_ready(WAIT_S)
        per_row_us = min(_cpu_us_of_a_row(ledger, records[start : start + 500]) for start in range(0, 10_000, 500))
        await until_written(ledger)
        assert per_row_us < 60  # 20 µs is the budget on a quiet machine.
        assert arrived_ids(database_url) == [record.run_id for record in records]
        assert ledger.status() == dataclasses.replace(ledger.status(), pending_bytes=0, dropped_rows=0, last_error=None)


def _cpu_us_of_a_row(ledger: Ledger, records: list[RunRecord]) -> float:
    started = time.thread_time()
    for record in records:
        ledger.record(record)
    return (time.thread_time() - started) * 1e6 / len(records)


async def test_rows_recorded_while_the_database_is_down_arrive_when_it_returns(
    tmp_path: Path, door: Door, database_url: str
) -> None:
    log_arrivals(database_url)
    records = [a_record() for _ in range(2_000)]
    async with opened(tmp_path, door.url) as (ledger, database):
        assert not await database.wait_ready(0.1)
        for record in records[:1000]:
            ledger.record(record)
        assert ledger.status().pending_rows == 1000
        assert ledger.status().pending_bytes > 0
        await door.open()
        await until_written(ledger)
        await door.shut()
        for record in records[1000:]:
            ledger.record(record)
        await until(lambda: ledger.status().last_error is not None or database.state == "down")
        assert ledger.status().pending_rows == 1000
        await door.open()
        await until_written(ledger)
        await until(lambda: ledger.status().last_error is None)
    assert arrived_ids(database_url) == [record.run_id for record in records]


async def test_killing_the_embedded_server_loses_no_row(data_dir: Path) -> None:
    records = [a_record() for _ in range(600)]
    async with opened(data_dir, None) as (ledger, database):
        assert await database.wait_ready(WAIT_S)
        pid = status(data_dir).pid
        assert pid is not None
        for number, record in enumerate(records):
            ledger.record(record)
            if number == 300:
                os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.001)
        await until_written(ledger)
        assert sorted(stored_ids(database.uri)) == sorted(record.run_id for record in records)


async def test_a_row_before_the_start_is_kept_and_one_after_the_stop_is_counted_and_neither_raises(
    tmp_path: Path,
) -> None:
    database = Database(settings_for(tmp_path, "postgresql://postgres@127.0.0.1:1/none"))
    ledger = Ledger(database, tmp_path / "ledger", max_pending_bytes=1_000_000, flush_s=0.05)
    ledger.record(a_record())
    await ledger.start()
    await ledger.stop()
    ledger.record(a_record())
    assert (ledger.status().pending_rows, ledger.status().dropped_rows) == (0, 1)
    assert len(list((tmp_path / "ledger").glob("*.jsonl"))) == 1, "the first waits in the journal"
    await database.close()


async def test_names_postgresql_cannot_hold_are_mended_and_poison_rows_are_set_aside(
    tmp_path: Path, database_url: str
) -> None:
    good = [a_record() for _ in range(40)]
    mended = [a_record(agent="a\x00b\\u0000"), a_record(agent="a\ud800b"), a_record(calls=({"model": "\x00"},))]
    poison = [a_record(input_tokens=2**70), a_record(subject=None), a_record(subject=_incompressible(9_000))]
    rows = [*good[:20], *mended, *poison, *good[20:]]
    async with opened(tmp_path, database_url) as (ledger, _):
        for record in rows:
            ledger.record(record)
        await until_written(ledger)
        assert ledger.status().rejected_rows == 3
        assert ledger.status().dropped_rows == 0
    assert set(stored_ids(database_url)) == {record.run_id for record in [*good, *mended]}
    with psycopg.connect(database_url) as connection:
        agents = {agent for (agent,) in connection.execute("SELECT agent FROM runs WHERE agent <> 'v1'").fetchall()}
    assert agents == {"ab\\u0000", "a?b"}
    rejected = [orjson.loads(line) for line in (tmp_path / "ledger" / "rejected.jsonl").read_bytes().splitlines()]
    assert [UUID(orjson.loads(entry["row"])["run_id"]) for entry in rejected] == [record.run_id for record in poison]


async def test_a_missing_table_is_the_databases_fault_and_no_row_is_rejected(tmp_path: Path, database_url: str) -> None:
    async with opened(tmp_path, database_url) as (ledger, database):
        assert await database.wait_ready(WAIT_S)
        async with database.pool.connection() as connection:
            await connection.execute("ALTER TABLE runs RENAME TO elsewhere")
        ledger.record(a_record())
        await until(lambda: ledger.status().last_error == "rows wait: the database answered 42P01")
        assert (ledger.status().pending_rows, ledger.status().rejected_rows) == (1, 0)
        async with database.pool.connection() as connection:
            await connection.execute("ALTER TABLE elsewhere RENAME TO runs")
        await until_written(ledger)
        await until(lambda: ledger.status().last_error is None)


BACKLOG = """
import asyncio, dataclasses, resource, sys
from pathlib import Path
from uuid import uuid4
from tests.ledger_for_tests import a_record, opened, until_written

async def main():
    async with opened(Path(sys.argv[1]), sys.argv[2]) as (ledger, _):
        record = a_record(calls=({"model": "m" * 20_000},))
        for _ in range(1_500):
            ledger.record(dataclasses.replace(record, run_id=uuid4()))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(ledger.status().pending_bytes, flush=True)
        await until_written(ledger)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, flush=True)

asyncio.run(main())
"""


async def test_a_backlog_is_written_without_holding_it_in_memory(tmp_path: Path, door: Door, database_url: str) -> None:
    """In a process of its own, whose memory nothing else fills."""
    child = await asyncio.to_thread(Child, BACKLOG, str(tmp_path), door.url)
    assert int(await asyncio.to_thread(child.read_line)) > 30_000_000
    await door.open()
    assert int(await asyncio.to_thread(child.finish)) < 25_000  # KiB, Alembic's 20,000 included.
    assert len(stored_ids(database_url)) == 1_500


async def test_stopping_writes_what_is_pending(tmp_path: Path, database_url: str) -> None:
    async with opened(tmp_path, database_url) as (ledger, database):
        assert await database.wait_ready(WAIT_S)
        for _ in range(300):
            ledger.record(a_record())
    assert len(stored_ids(database_url)) == 300
    assert files_in(tmp_path) == []


def _incompressible(length: int) -> str:
    return random.Random(1).randbytes(length // 2).hex()  # noqa: S311  (a name too long for an index)
