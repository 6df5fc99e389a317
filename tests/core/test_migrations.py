"""The schema: made once whoever starts, and the same as the domain's ledger row."""

import dataclasses
import re
from importlib import metadata
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, pool

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


def test_the_installed_procrastinate_is_the_one_whose_schema_is_laid_down() -> None:
    """A new version may bring changes to its tables: they need a migration of ours, and this test that number."""
    laid_down = ScriptDirectory(str(Path(migrations.__file__).parent)).get_revision("0003").module
    assert metadata.version("procrastinate") == laid_down.PROCRASTINATE_VERSION


def test_the_installed_checkpointer_and_store_are_those_whose_tables_are_laid_down() -> None:
    """New versions with more steps of their own need a migration of ours that runs these."""
    from langgraph.checkpoint.postgres.base import BasePostgresSaver
    from langgraph.store.postgres.base import MIGRATIONS

    scripts = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert len(BasePostgresSaver.MIGRATIONS) == scripts.get_revision("0004").module.CHECKPOINTER_STEPS
    assert len(MIGRATIONS) == scripts.get_revision("0005").module.STORE_STEPS


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (None, "the PostgreSQL of DATABASE_URL lacks pgvector: install it there (0.7 or newer)"),
        ("0.6.2", "the pgvector of DATABASE_URL is 0.6.2: 0.7 or newer is needed"),
    ],
)
async def test_a_postgresql_without_pgvector_is_told_from_others(
    tmp_path: Path, database_url: str, found: str | None, reason: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        # What the migration asks is a view; another of its name before it on the path stands for another PostgreSQL.
        connection.execute("CREATE SCHEMA other")
        connection.execute("CREATE TABLE other.pg_available_extensions (name text, default_version text)")
        if found is not None:
            connection.execute("INSERT INTO other.pg_available_extensions VALUES ('vector', %s)", (found,))
        name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
        connection.execute(f"ALTER DATABASE {name} SET search_path = other, pg_catalog, public")
    database = Database(settings_for(tmp_path, database_url))
    await database.open()
    try:
        assert not await database.wait_ready(2)
        assert (database.state, database.reason) == ("down", reason)
    finally:
        await database.close()


def test_going_back_and_forth_leaves_a_whole_schema(database_url: str) -> None:
    migrate(database_url, 5)
    before = objects_of(database_url)
    downgrade(database_url, "0002")
    assert not [name for name in objects_of(database_url) if "procrastinate" in name or "passages" in name]
    migrate(database_url, 5)
    assert objects_of(database_url) == before


def objects_of(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        query = """
            SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace UNION ALL
            SELECT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace UNION ALL
            SELECT typname::text FROM pg_type WHERE typnamespace = 'public'::regnamespace
        """
        return sorted(name for (name,) in connection.execute(query).fetchall() if "vec" not in name)


def downgrade(url: str, version: str) -> None:
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=pool.NullPool)
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, version)
        connection.commit()
    engine.dispose()
