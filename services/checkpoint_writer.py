"""Writes the states of all threads together: what waits goes in one transaction, with one statement a table.

LangGraph saves a step's state while the next step runs, four statements a turn. One at a time they cost 3 ms of CPU a
turn and a commit each; together, under load, most of both is shared.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import psycopg

from core.database import Database

BlobRow: TypeAlias = tuple[str, str, str, str, str, bytes | None]
CheckpointRow: TypeAlias = tuple[str, str, str, str | None, str, str]
WriteRow: TypeAlias = tuple[str, str, str, str, str, int, str, str, bytes]

MAX_BATCH = 256
"""Submissions a transaction: what one of them did wrong makes all of them be written again, one by one."""

_BLOBS = """
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT * FROM unnest(%b::text[], %b::text[], %b::text[], %b::text[], %b::text[], %b::bytea[])
    ON CONFLICT (thread_id, checkpoint_ns, channel, version) DO NOTHING
"""
_CHECKPOINTS = """
    INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    SELECT t, ns, id, parent, state::jsonb, more::jsonb
    FROM unnest(%b::text[], %b::text[], %b::text[], %b::text[], %b::text[], %b::text[])
        AS rows (t, ns, id, parent, state, more)
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
        DO UPDATE SET checkpoint = EXCLUDED.checkpoint, metadata = EXCLUDED.metadata
"""
_WRITES = """
    INSERT INTO checkpoint_writes
        (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT * FROM unnest(
        %b::text[], %b::text[], %b::text[], %b::text[], %b::text[], %b::int[], %b::text[], %b::text[], %b::bytea[])
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
"""
_KEEP_WRITES = f"{_WRITES} DO NOTHING"
REPLACE_WRITES = f"""{_WRITES}
    DO UPDATE SET channel = EXCLUDED.channel, type = EXCLUDED.type, blob = EXCLUDED.blob
"""  # nosec B608 - constants of ours

_ROW_FAULTS = (psycopg.Error, TypeError, ValueError, ArithmeticError)
"""What a single submission may be at fault for: PostgreSQL's refusals, and what psycopg cannot write down."""


@dataclass(slots=True)
class Submission:
    """What must be written together; `done` tells when it is, or why it is not."""

    done: asyncio.Future[None]
    blobs: Sequence[BlobRow] = ()
    checkpoint: CheckpointRow | None = None
    writes: Sequence[WriteRow] = ()
    replaces: bool = False
    """Whether the writes take the place of earlier ones."""


@dataclass(slots=True)
class CheckpointWriter:
    """One transaction at a time; whoever comes meanwhile is in the next one."""

    database: Database
    _waiting: list[Submission] = field(default_factory=list)
    _writing: asyncio.Task[None] | None = None

    async def write(
        self,
        *,
        blobs: Sequence[BlobRow] = (),
        checkpoint: CheckpointRow | None = None,
        writes: Sequence[WriteRow] = (),
        replaces: bool = False,
    ) -> None:
        """Returns when it is stored. Raises the `psycopg.Error` that hindered it."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(Submission(done, blobs, checkpoint, writes, replaces))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_waiting(), name="checkpoint writer")
        await done

    async def _write_waiting(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            try:
                await self._store_all(batch)
            finally:
                # Whatever ended it: nobody waits for ever.
                _fail(batch, psycopg.OperationalError("the checkpoint writer ended"))

    async def _store_all(self, batch: Sequence[Submission]) -> None:
        """Together; when one of them is at fault, one by one, for the others must not suffer."""
        try:
            await self._store(batch)
        except psycopg.OperationalError as error:
            _fail(batch, error)
        except _ROW_FAULTS as error:
            if len(batch) == 1:
                _fail(batch, error)
                return
            for submission in batch:
                if not submission.done.done():
                    await self._store_all([submission])
                # Whose run has ended by now has no failure of its own, and raises that it was cancelled.
                failure = None if submission.done.cancelled() else submission.done.exception()
                if failure is not None and _is_outage(failure):
                    _fail(batch, psycopg.OperationalError("the database went away"))
        else:
            _succeed(batch)

    async def _store(self, batch: Sequence[Submission]) -> None:
        blobs = [row for submission in batch for row in submission.blobs]
        # A statement may not touch a row twice: the last one holds.
        checkpoints = {row[:3]: row for submission in batch if (row := submission.checkpoint) is not None}
        kept = [row for submission in batch if not submission.replaces for row in submission.writes]
        replaced = {(*row[:4], row[5]): row for submission in batch if submission.replaces for row in submission.writes}
        statements: tuple[tuple[str, Iterable[tuple[object, ...]]], ...] = (
            (_BLOBS, blobs),
            (_CHECKPOINTS, checkpoints.values()),
            (_KEEP_WRITES, kept),
            (REPLACE_WRITES, replaced.values()),
        )
        async with (
            self.database.quick_pool.connection() as connection,
            connection.pipeline(),
            connection.transaction(),
        ):
            for statement, rows in statements:
                if columns := [list(column) for column in zip(*rows, strict=True)]:
                    await connection.execute(statement, columns)


def _succeed(batch: Sequence[Submission]) -> None:
    for submission in batch:
        if not submission.done.done():
            submission.done.set_result(None)


def _is_outage(failure: BaseException) -> bool:
    return isinstance(failure, psycopg.OperationalError)


def _fail(batch: Sequence[Submission], error: BaseException) -> None:
    for submission in batch:
        if not submission.done.done():
            submission.done.set_exception(error)
