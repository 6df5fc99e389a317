"""The schema: made once whoever starts, and the same as the domain's ledger row."""

import dataclasses
import re
from pathlib import Path

import psycopg
import pytest
from alembic.script import ScriptDirectory

from core import migrations
from core.database import Database
from core.migration import is_current, migrate
from domain.runs import RunRecord
from tests.postgres_for_tests import WAIT_S, Child, settings_for

OPEN = """
import asyncio, sys
from pathlib import Path
from config.settings import Settings
from core.database import Database

async def main():
    database = Database(Settings(_env_file=None, data_dir=Path(sys.argv[1]), database_url=sys.argv[2]))
    print("imported", flush=True)
    sys.stdin.readline()
    await database.open()
    print(await database.wait_ready(30), flush=True)
    await database.close()

asyncio.run(main())
"""


def test_head_names_the_newest_migration() -> None:
    scripts = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert scripts.get_heads() == [migrations.HEAD]
    assert all(re.fullmatch(r"\d{4}", script.revision) for script in scripts.walk_revisions())


def test_four_processes_may_migrate_at_once(tmp_path: Path, database_url: str) -> None:
    children = [Child(OPEN, str(tmp_path), database_url) for _ in range(4)]
    assert [child.read_line() for child in children] == ["imported"] * 4
    assert [child.finish().split() for child in children] == [["True"]] * 4
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(migrations.HEAD,)]


def test_the_table_has_the_columns_of_the_ledger_row_in_their_order(database_url: str) -> None:
    migrate(database_url, 5)
    with psycopg.connect(database_url) as connection:
        columns = connection.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'runs' ORDER BY ordinal_position"
        ).fetchall()
        indexes = connection.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'runs'").fetchall()
    assert [name for (name,) in columns] == [field.name for field in dataclasses.fields(RunRecord)]
    assert any("(created_at)" in definition for (definition,) in indexes)
    assert any("(subject, created_at)" in definition for (definition,) in indexes)


def test_migrating_what_is_current_changes_nothing(database_url: str) -> None:
    migrate(database_url, 5)
    migrate(database_url, 5)


@pytest.mark.parametrize(
    ("version", "current"), [(None, False), ("0000", False), (migrations.HEAD, True), ("9999", True)]
)
def test_a_newer_schema_is_as_good_as_ours(version: str | None, current: bool) -> None:
    assert is_current(version) is current


async def test_a_database_that_refuses_the_migration_is_down_and_says_so(tmp_path: Path, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE runs (not_ours int)")
    database = Database(settings_for(tmp_path, database_url))
    await database.open()
    try:
        assert not await database.wait_ready(0.8)
        assert database.state == "down"
        assert database.reason == "the database answers but its schema could not be brought up to date"
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("DROP TABLE runs")
        assert await database.wait_ready(WAIT_S)
    finally:
        await database.close()
