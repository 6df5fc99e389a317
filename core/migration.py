"""Bring the database's schema to the version this server knows, one process at a time."""

import logging
import threading
from pathlib import Path

import psycopg

from core.migrations import HEAD

logger = logging.getLogger("routeur.database")

# Any constant will do, as long as every replica has the same: these are the bytes of "routeur".
ADVISORY_LOCK = int.from_bytes(b"routeur")
LOCK_TIMEOUT_S = 60  # Waiting for another replica's migrations, or for a table another session holds.

_one_at_a_time = threading.Lock()  # Alembic's context is a global of the process.


class MigrationFailedError(Exception):
    """The schema could not be brought up to date; the message says why."""


class MissingExtensionError(MigrationFailedError):
    """PostgreSQL lacks an extension. The message is ours, and safe to show."""


async def find_version(connection: psycopg.AsyncConnection[dict[str, object]]) -> str | None:
    """The version of the schema in this database; `None` when it has none yet."""
    try:
        cursor = await connection.execute("SELECT version_num FROM alembic_version")
    except psycopg.errors.UndefinedTable:
        return None
    row = await cursor.fetchone()
    return str(row["version_num"]) if row else None


def is_current(version: str | None) -> bool:
    """A newer version is fine too: migrations only add, and a newer replica has run them during an upgrade."""
    return version is not None and version >= HEAD


def migrate(conninfo: str, connect_timeout_s: int) -> None:
    """Run the missing migrations. Blocks: call it from a thread."""
    # Imported here: 20 MB and 0.2 s, needed only when there is something to do.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError
    from sqlalchemy import create_engine, pool
    from sqlalchemy.exc import SQLAlchemyError

    def connect() -> psycopg.Connection[tuple[object, ...]]:
        # libpq reads the address, not SQLAlchemy: sockets, several hosts and TLS options mean what they mean elsewhere.
        return psycopg.connect(conninfo, connect_timeout=connect_timeout_s)

    engine = create_engine("postgresql+psycopg://", creator=connect, poolclass=pool.NullPool)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    try:
        with _one_at_a_time, engine.connect() as connection:
            connection.exec_driver_sql(f"SET lock_timeout = '{LOCK_TIMEOUT_S}s'")
            # Held by the session: should this process die, the server releases it.
            connection.exec_driver_sql(f"SELECT pg_advisory_lock({ADVISORY_LOCK})")
            connection.commit()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
    except (SQLAlchemyError, CommandError) as error:
        raise MigrationFailedError(f"the migrations of the database failed: {error}") from error
    finally:
        engine.dispose()
    logger.info("the database's schema is up to date", extra={"version": HEAD})
