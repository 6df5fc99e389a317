"""A worker's connection to the model's process: what the process's death leaves of it."""

import asyncio
from pathlib import Path

import pytest
import uvloop

from services.local_models.control import ControlConnection
from tests.postgres_for_tests import tmp_path

__all__ = ["tmp_path"]  # Fixtures.


@pytest.mark.timeout(60)
@pytest.mark.parametrize("turns", range(4))
def test_a_call_that_ends_while_the_process_dies_has_no_figures_and_does_not_fail(tmp_path: Path, turns: int) -> None:
    """On uvloop, which refuses to write to a connection that is closed, unlike asyncio's own loop."""

    async def scenario() -> None:
        async def stay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        server = await asyncio.start_unix_server(stay, str(tmp_path / "s"))
        connection = await ControlConnection.open(tmp_path / "s")
        call = connection.begin()
        # What uvloop does when the other side is gone; the reader notices a turn or two later.
        connection._writer.transport.abort()
        for _ in range(turns):
            await asyncio.sleep(0)
        assert await connection.end(call) is None
        assert connection.begin() == call + 1
        await connection.close()
        server.close()

    uvloop.run(asyncio.wait_for(scenario(), 20))
