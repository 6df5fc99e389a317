"""The ledger's journal: rows on disk outlive the process, within bounds, and are adopted once."""

import asyncio
import dataclasses
import errno
import os
import random
import signal
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import orjson
import pytest

from services import ledger_journal
from tests.ledger_for_tests import (
    MOMENT,
    WAIT_S,
    a_record,
    arrived_ids,
    files_in,
    leave_journal,
    log_arrivals,
    opened,
    stored_ids,
    until,
    until_written,
)
from tests.postgres_for_tests import (
    Child,
    Door,
    _made_cluster,
    data_dir,
    database_url,
    door,
    postgres,
    tmp_path,
)

__all__ = ["_made_cluster", "data_dir", "database_url", "door", "postgres", "tmp_path"]  # Fixtures.


RECORD_FOR_EVER = """
import asyncio, sys
from datetime import datetime, UTC
from pathlib import Path
from uuid import uuid4
from config.settings import Settings
from core.database import Database
from domain.runs import RunRecord
from services.ledger import Ledger

async def main():
    data_dir = Path(sys.argv[1])
    database = Database(Settings(_env_file=None, data_dir=data_dir, database_url=sys.argv[2]))
    ledger = Ledger(database, data_dir / "ledger", max_pending_bytes=64_000_000, flush_s=0.02)
    await database.open()
    await ledger.start()
    while True:
        run_id = uuid4()
        ledger.record(RunRecord(run_id, datetime.now(UTC), "r", "s", None, "v1", None, "m", False, "succeeded", None,
                                2, 1, 1, False, 0.1, None, None, None, None, None, ({"model": "m" * 200},)))
        sys.stdout.write(f"{run_id}\\n")
        sys.stdout.flush()
        await asyncio.sleep(0.0005)

asyncio.run(main())
"""


async def test_kill_9_at_any_moment_loses_no_acknowledged_row_and_doubles_none(
    tmp_path: Path, database_url: str
) -> None:
    acknowledged: list[UUID] = []
    for _ in range(10):
        child = Child(RECORD_FOR_EVER, str(tmp_path), database_url)
        moment = random.randint(1, 500)  # noqa: S311  (how many rows until it is killed)
        first = await asyncio.to_thread(lambda child, moment: [child.read_line() for _ in range(moment)], child, moment)
        child.process.send_signal(signal.SIGKILL)
        rest, _ = await asyncio.to_thread(child.process.communicate)
        # The last line may be half printed: that row's acknowledgement never arrived.
        acknowledged += [UUID(line) for line in [*first, *rest.splitlines()] if len(line) == 36]
    assert len(acknowledged) > 100
    async with opened(tmp_path, database_url) as (ledger, _):
        await until(lambda: len(files_in(tmp_path)) == 3 and ledger.status().pending_rows == 0)
    stored = stored_ids(database_url)
    assert set(acknowledged) <= set(stored)
    assert len(stored) == len(set(stored))
    assert files_in(tmp_path) == []


async def test_rows_left_at_stop_are_written_by_the_next_start(tmp_path: Path, database_url: str) -> None:
    log_arrivals(database_url)
    left = [a_record() for _ in range(50)]
    path = await leave_journal(tmp_path, left)
    async with opened(tmp_path, database_url) as (ledger, _):
        await until(lambda: not path.exists())
        ledger.record(last := a_record())
    assert arrived_ids(database_url) == [record.run_id for record in [*left, last]]
    assert files_in(tmp_path) == []


async def test_two_processes_adopt_a_dead_ones_journal_once(tmp_path: Path, database_url: str) -> None:
    await leave_journal(tmp_path, [a_record() for _ in range(500)])
    down = "postgresql://postgres@127.0.0.1:1/none"
    # Without a database, what each of them adopted stays visible.
    async with opened(tmp_path, down) as (first, _), opened(tmp_path, down) as (second, _):
        await until(lambda: first.status().pending_rows + second.status().pending_rows > 0)
        await asyncio.sleep(0.3)  # Time for the other one to err.
        assert sorted([first.status().pending_rows, second.status().pending_rows]) == [0, 500]
    async with opened(tmp_path, database_url) as (first, _), opened(tmp_path, database_url):
        await until(lambda: len(list((tmp_path / "ledger").glob("*.jsonl"))) == 2)
        await until_written(first)
    assert len(stored_ids(database_url)) == 500
    assert files_in(tmp_path) == []


async def test_a_torn_last_line_is_forgotten_and_the_rest_kept(tmp_path: Path, database_url: str) -> None:
    kept = a_record()
    path = await leave_journal(tmp_path, [kept])
    with path.open("ab") as journal:
        journal.write(orjson.dumps(a_record())[:100])
    async with opened(tmp_path, database_url) as (ledger, _):
        await until(lambda: not path.exists())
        assert ledger.status().rejected_rows == 0
    assert stored_ids(database_url) == [kept.run_id]


async def test_rows_beyond_the_bound_are_dropped_counted_and_said_once(
    tmp_path: Path, door: Door, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path, door.url, max_pending_bytes=10_000) as (ledger, _):
        for _ in range(100):
            ledger.record(a_record())
        now = ledger.status()
        assert now.pending_bytes <= 10_000
        assert now.pending_rows + now.dropped_rows == 100
        assert now.dropped_rows > 50
        assert sum(path.stat().st_size for path in (tmp_path / "ledger").glob("*.jsonl")) <= 10_000
        assert [record.levelname for record in caplog.records if "drops" in record.message] == ["ERROR"]
        await door.open()
        await until_written(ledger)
        ledger.record(a_record())
        await until_written(ledger)
        assert now.state == "dropping"
        assert ledger.status() == dataclasses.replace(
            now, state="ready", pending_rows=0, pending_bytes=0, last_error=None
        )
    assert len(stored_ids(database_url)) == now.pending_rows + 1


async def test_rows_that_a_full_disk_does_not_take_wait_in_memory_and_return_to_the_journal(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = os.write
    records = [a_record() for _ in range(4)]

    def half(descriptor: int, content: bytes) -> int:
        return write(descriptor, content[: len(content) // 2])

    async with opened(tmp_path, "postgresql://postgres@127.0.0.1:1/none") as (ledger, _):
        ledger.record(records[0])
        for full, record in zip((half, nothing), records[1:], strict=False):
            monkeypatch.setattr(os, "write", full)
            ledger.record(record)
            monkeypatch.setattr(os, "write", write)
        assert (ledger.status().state, ledger.status().memory_rows) == ("degraded", 2)
        assert [record.levelname for record in caplog.records if "ledger degraded" in record.message] == ["ERROR"]
        ledger.record(records[3])
        assert ledger.status().pending_rows == 4
        await until(lambda: ledger.status().state == "waiting for the database")
        assert (ledger.status().dropped_rows, ledger.status().memory_rows) == (0, 0)
    async with opened(tmp_path, database_url) as (ledger, _):
        await until(lambda: len(list((tmp_path / "ledger").glob("*.jsonl"))) == 1)
        await until_written(ledger)
    assert set(stored_ids(database_url)) == {record.run_id for record in records}


async def test_with_the_database_well_a_full_disk_loses_no_row(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [a_record() for _ in range(100)]
    async with opened(tmp_path, database_url) as (ledger, database):
        assert await database.wait_ready(WAIT_S)
        monkeypatch.setattr(os, "write", nothing)
        for record in records:
            ledger.begin(dataclasses.replace(record, status="lost"))
            ledger.record(record)
        assert (ledger.status().state, ledger.status().memory_rows) == ("degraded", 100)
        await until_written(ledger)
        assert ledger.status().state == "degraded", "the disk is still full"
        assert set(stored_ids(database_url)) == {record.run_id for record in records}
        assert "No space left on device" in (ledger.status().last_error or "")
        monkeypatch.undo()
        ledger.record(a_record())
        await until_written(ledger)
        await until(lambda: ledger.status().state == "ready")
        assert (ledger.status().last_error, ledger.status().dropped_rows) == (None, 0)


async def test_a_disk_that_takes_some_rows_and_refuses_others_counts_as_full(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Such is one with room for a single block, which the file of rows and the one of beginnings take in turns."""
    write = os.write
    records = [a_record() for _ in range(20)]
    async with opened(tmp_path, database_url) as (ledger, database):
        assert await database.wait_ready(WAIT_S)
        for record in records:
            monkeypatch.setattr(os, "write", nothing)
            ledger.begin(dataclasses.replace(record, status="lost"))
            monkeypatch.setattr(os, "write", write)
            ledger.record(record)
            assert ledger.status().state == "degraded"
        await until(lambda: ledger.status().state == "ready")
        await until_written(ledger)
        lines = [record.message for record in caplog.records if record.name == "routeur.ledger"]
        assert lines == [
            "ledger degraded: the disk takes no rows, they wait in memory",
            "ledger journal writes resumed",
        ]
    assert len(stored_ids(database_url)) == len(records)


async def test_rows_in_memory_are_bounded_and_those_beyond_are_dropped_and_counted(
    tmp_path: Path, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, door.url, max_pending_bytes=20_000) as (ledger, _):
        monkeypatch.setattr(os, "write", nothing)
        for _ in range(100):
            ledger.record(a_record())
        now = ledger.status()
        assert now.state == "dropping"
        assert 0 < now.pending_bytes <= 5_000
        assert now.memory_rows + now.dropped_rows == 100
        await door.open()
        await until_written(ledger)
        assert ledger.status().state == "degraded"


def nothing(descriptor: int, content: bytes) -> int:
    """A full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_a_start_without_room_for_a_journal_is_tried_again(tmp_path: Path, database_url: str) -> None:
    (tmp_path / "ledger").write_text("in the way")
    async with opened(tmp_path, database_url) as (ledger, _):
        ledger.record(a_record())
        assert (ledger.status().state, ledger.status().dropped_rows) == ("degraded", 0)
        (tmp_path / "ledger").unlink()
        await until((tmp_path / "ledger").exists)
        ledger.record(a_record())
        await until_written(ledger)
    assert len(stored_ids(database_url)) == 2


async def test_a_corrupt_journal_is_set_aside_and_does_not_block_what_follows(
    tmp_path: Path, database_url: str
) -> None:
    kept = a_record()
    path = await leave_journal(tmp_path, [kept])
    path.write_bytes(b'\x00\x00\xff{"run_id":\n{]\n' + path.read_bytes())
    async with opened(tmp_path, database_url) as (ledger, _):
        await until(lambda: not path.exists())
        assert ledger.status().rejected_rows == 2
    assert stored_ids(database_url) == [kept.run_id]


async def test_a_busy_journal_moves_to_new_files_and_gives_its_space_back(
    tmp_path: Path, door: Door, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_journal, "SEGMENT_BYTES", 20_000)
    monkeypatch.setattr(ledger_journal, "BATCH_BYTES", 3_000)
    log_arrivals(database_url)
    records = [
        a_record(created_at=MOMENT + timedelta(seconds=n), agent="x" * (5_000 if n == 7 else 5)) for n in range(400)
    ]
    async with opened(tmp_path, door.url) as (ledger, _):
        for record in records[:100]:
            ledger.record(record)
        await door.open()
        for record in records[100:]:
            ledger.record(record)
            await asyncio.sleep(0.002)
        await until_written(ledger)
        assert len(list((tmp_path / "ledger").glob("*.jsonl"))) == 1
    assert arrived_ids(database_url) == [record.run_id for record in records]
