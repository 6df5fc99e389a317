"""The states of threads are written together, and one that cannot be written harms no other."""

import asyncio
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.postgres_for_tests import _made_cluster, database_url, postgres, tmp_path
from tests.services.test_threads import count, keeping

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.


async def test_a_state_that_cannot_be_written_fails_its_own_run_alone(database_url: str, tmp_path: Path) -> None:
    async with keeping(database_url, tmp_path) as threads:
        writer = threads.saver._writer

        def row(name: str, content: str) -> Any:
            return writer.write(checkpoint=(name, "", "1", None, content, "{}"))

        good, bad, other = await asyncio.gather(
            row("good", "{}"), row("bad", "no JSON"), row("other", "{}"), return_exceptions=True
        )
        assert (good, other) == (None, None)
        assert isinstance(bad, psycopg.DataError)
        assert await count(threads, "checkpoints") == 2


async def test_a_run_that_has_ended_beside_a_state_at_fault_harms_no_other(database_url: str, tmp_path: Path) -> None:
    async with keeping(database_url, tmp_path) as threads:
        contents = {"ended": "{}", "bad": "no JSON", "good": "{}"}
        ended, bad, good = (
            asyncio.create_task(threads.saver._writer.write(checkpoint=(name, "", "1", None, content, "{}")))
            for name, content in contents.items()
        )
        await asyncio.sleep(0)
        ended.cancel()
        outcomes = await asyncio.gather(ended, bad, good, return_exceptions=True)
        assert [type(one) for one in outcomes] == [
            asyncio.CancelledError,
            psycopg.errors.InvalidTextRepresentation,
            type(None),
        ]


async def test_nobody_waits_for_ever_when_the_writer_breaks(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with keeping(database_url, tmp_path) as threads:
        writer = threads.saver._writer

        async def broken(*_: Any) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(type(writer), "_store", broken)
        waiting = [writer.write(checkpoint=(str(n), "", "1", None, "{}", "{}")) for n in range(3)]
        async with asyncio.timeout(30):
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [psycopg.OperationalError] * 3
        writing = writer._writing
        assert writing is not None
        with pytest.raises(RuntimeError):
            await writing
