"""Rows for the ledger, a ledger to give them to, and what arrived of them."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import psycopg

from core.database import Database
from core.migration import migrate
from domain.runs import RunRecord
from services.ledger import Ledger
from tests.postgres_for_tests import (
    WAIT_S,
    settings_for,
)

MOMENT = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)
CALL = {
    "model": "m",
    "provider": "p",
    "input_tokens": 12,
    "output_tokens": 34,
    "status": "succeeded",
    "estimated": False,
    "latency_s": 0.8,
    "cost_eur": 0.001,
    "gwp_kgco2eq": None,
}


def a_record(**changes: object) -> RunRecord:
    record = RunRecord(
        run_id=uuid4(),
        created_at=MOMENT,
        request_id="req-1",
        subject="alice",
        project_id=None,
        agent="v1",
        requested_model=None,
        model="mistral-small",
        stream=True,
        status="succeeded",
        error_code=None,
        message_count=3,
        input_tokens=12,
        output_tokens=None,
        estimated=False,
        latency_s=1.25,
        time_to_first_token_s=0.2,
        cost_eur=0.001,
        energy_kwh=None,
        gwp_kgco2eq=1e-6,
        wcf_liters=float("nan"),
        calls=(CALL,),
    )
    return dataclasses.replace(record, **changes)


@asynccontextmanager
async def opened(
    data_dir: Path, url: str | None, *, max_pending_bytes: int = 64_000_000, **settings: object
) -> AsyncIterator[tuple[Ledger, Database]]:
    """A database and a ledger on it, as the server opens and closes them."""
    database = Database(settings_for(data_dir, url, **settings))
    ledger = Ledger(database, data_dir / "ledger", max_pending_bytes=max_pending_bytes, flush_s=0.05)
    await database.open()
    await ledger.start()
    try:
        yield ledger, database
    finally:
        await ledger.stop()
        await database.close()


async def until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not fact():  # noqa: ASYNC110  (a row stored by another task is no event)
            await asyncio.sleep(0.02)


async def until_written(ledger: Ledger) -> None:
    await until(lambda: ledger.status().pending_rows == 0)


def stored_ids(url: str) -> list[UUID]:
    with psycopg.connect(url) as connection:
        return [run_id for (run_id,) in connection.execute("SELECT run_id FROM runs").fetchall()]


def log_arrivals(url: str) -> None:
    """Rows' places in the table say nothing of their order: a trigger does."""
    migrate(url, 5)
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE arrivals (number bigserial, run_id uuid)")
        connection.execute("""
            CREATE FUNCTION log_arrival() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO arrivals (run_id) VALUES (NEW.run_id); RETURN NULL; END'
        """)
        connection.execute("CREATE TRIGGER arrival AFTER INSERT ON runs FOR EACH ROW EXECUTE FUNCTION log_arrival()")


def arrived_ids(url: str) -> list[UUID]:
    with psycopg.connect(url) as connection:
        return [run_id for (run_id,) in connection.execute("SELECT run_id FROM arrivals ORDER BY number").fetchall()]


def files_in(data_dir: Path) -> list[str]:
    return sorted(path.name for path in (data_dir / "ledger").iterdir())


async def leave_journal(data_dir: Path, records: list[RunRecord]) -> Path:
    """What a dead process leaves: rows no database has seen."""
    async with opened(data_dir, "postgresql://postgres@127.0.0.1:1/none") as (ledger, _):
        for record in records:
            ledger.record(record)
    (path,) = (data_dir / "ledger").glob("*.jsonl")
    return path
