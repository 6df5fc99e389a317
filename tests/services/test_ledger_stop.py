"""The ledger stops at once when there is nothing to write, whatever its writer was doing."""

import asyncio
import time
from pathlib import Path

import pytest

from core.database import Database
from services import ledger as ledger_module
from services.ledger import Ledger
from tests.postgres_for_tests import settings_for

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"


async def test_a_ledger_that_is_stopped_while_its_writer_starts_does_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "STOP_S", 60)
    database = Database(settings_for(tmp_path, NOWHERE))
    for pauses in (0, 1, 2, 5):
        ledger = Ledger(database, tmp_path / f"ledger-{pauses}", max_pending_bytes=1_000_000, flush_s=0.05)
        await ledger.start()
        for _ in range(pauses):
            await asyncio.sleep(0)
        began = time.monotonic()
        await ledger.stop()
        assert time.monotonic() - began < 20
