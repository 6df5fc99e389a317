"""Uploaded bytes in the database, a megabyte a row: none is ever in memory whole, and any worker can read them."""

import asyncio
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from core.database import Database
from core.private_files import open_private

CHUNK_BYTES = 1_048_576


class StoredFiles:
    """A table of (`key`, `ordinal`, `content`). Its rows belong to those of another table, and go with them."""

    def __init__(self, table: str, key: str) -> None:
        self._add = f"INSERT INTO {table} ({key}, ordinal, content) VALUES (%s, %s, %b)"  # noqa: S608  # nosec B608 - names of ours
        self._read = f"SELECT content FROM {table} WHERE {key} = %s AND ordinal = %s"  # noqa: S608  # nosec B608 - names of ours
        self._delete = f"DELETE FROM {table} WHERE {key} = %s"  # noqa: S608  # nosec B608 - names of ours

    async def store(self, connection: AsyncConnection[DictRow], owner: UUID, file: BinaryIO) -> None:
        """All of the file, in the transaction of the caller."""
        await asyncio.to_thread(file.seek, 0)
        ordinal = 0
        while content := await asyncio.to_thread(file.read, CHUNK_BYTES):
            await connection.execute(self._add, (owner, ordinal, content))
            ordinal += 1

    async def write(self, database: Database, owner: UUID, path: Path) -> None:
        """The stored bytes as a file at this path, which only this user can read."""
        with open_private(path) as file:
            ordinal = 0
            while (content := await self._chunk(database, owner, ordinal)) is not None:
                await asyncio.to_thread(file.write, content)
                ordinal += 1

    async def delete(self, connection: AsyncConnection[Any], owner: UUID) -> None:
        """In the transaction of the caller."""
        await connection.execute(self._delete, (owner,))

    async def _chunk(self, database: Database, owner: UUID, ordinal: int) -> bytes | None:
        async with database.connection() as connection, connection.cursor(binary=True) as cursor:
            await cursor.execute(self._read, (owner, ordinal))
            row = await cursor.fetchone()
        return None if row is None else bytes(row["content"])
