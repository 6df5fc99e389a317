"""What the work on a recording reads and writes. Only the attempt that took the job last may write."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from core.database import Database, storable, storable_json
from core.jobs import TakenAway
from core.stored_files import StoredFiles
from domain.audio import Segment
from domain.runs import Hop
from domain.transcripts import HeardPiece
from services.audio.job import Taken

FILES = StoredFiles("transcription_files", "job_id")

_TAKE = """
    UPDATE transcription_jobs SET claim = %(claim)s, status = 'running', attempts = attempts + 1
    WHERE job_id = %(job)s AND status IN ('queued', 'running')
    RETURNING owner, job_type, request_id, project_id, requested_model, language, prompt, context, duration_s, target_s,
        max_s, attempts, error, calls, created_at
"""
_PIECES = """
    SELECT ordinal, start_s, end_s, overlap_s, text, language, model, segments, hops FROM transcription_pieces
    WHERE job_id = %s ORDER BY ordinal
"""
_ADVANCE = """
    UPDATE transcription_jobs SET attempts = 0, error = NULL, calls = %(calls)s,
        progress_percent = greatest(progress_percent, %(percent)s)
    WHERE job_id = %(job)s AND claim = %(claim)s
"""
_ADD = """
    INSERT INTO transcription_pieces (job_id, ordinal, start_s, end_s, overlap_s, text, language, model, segments, hops)
    VALUES (%(job)s, %(ordinal)s, %(start_s)s, %(end_s)s, %(overlap_s)s, %(text)s, %(language)s, %(model)s,
        %(segments)s, %(hops)s)
"""
_SUCCEED = """
    UPDATE transcription_jobs SET status = 'succeeded', progress_percent = 100, error = NULL,
        transcript = %(transcript)s, finished_at = now(), claim = NULL
    WHERE job_id = %(job)s AND claim = %(claim)s
"""
_FAIL = """
    UPDATE transcription_jobs SET status = 'failed', error = %(error)s, transcript = %(transcript)s,
        finished_at = now(), claim = NULL
    WHERE job_id = %(job)s AND claim = %(claim)s
"""
_POSTPONE = """
    UPDATE transcription_jobs SET status = 'queued', error = %(error)s, claim = NULL
    WHERE job_id = %(job)s AND claim = %(claim)s
"""


class JobStore:
    """Each step is a transaction, and the first statement of each proves that the job is still this attempt's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, job_id: UUID) -> Taken | None:
        """Make the job this attempt's; `None` when it is gone or done."""
        claim = uuid4()
        async with self._database.connection() as connection:
            row = await (await connection.execute(_TAKE, {"claim": claim, "job": job_id})).fetchone()
        return None if row is None else Taken(job_id=job_id, claim=claim, **row)

    async def find_pieces(self, job_id: UUID) -> list[HeardPiece]:
        """What attempts before have heard, in order."""
        async with self._database.connection() as connection:
            rows = await (await connection.execute(_PIECES, (job_id,))).fetchall()
        return [_piece(row) for row in rows]

    async def write_file(self, job_id: UUID, path: Path) -> None:
        """The uploaded bytes, at this path."""
        await FILES.write(self._database, job_id, path)

    async def add(self, taken: Taken, piece: HeardPiece, *, percent: float, calls: Sequence[Mapping[str, Any]]) -> None:
        """Store what was heard in a piece, and how far this is. Raises `TakenAway`."""
        async with self._own(taken, _ADVANCE, percent=percent, calls=Jsonb(list(calls))) as connection:
            await connection.execute(_ADD, {"job": taken.job_id, **_row(piece)})

    async def succeed(self, taken: Taken, transcript: Mapping[str, Any]) -> None:
        """Done: the recording goes, and the pieces are in the transcript."""
        async with self._own(taken, _SUCCEED, transcript=Jsonb(storable_json(transcript))) as connection:
            await self._let_go(connection, taken.job_id)

    async def fail(self, taken: Taken, reason: str, transcript: Mapping[str, Any] | None) -> None:
        """`transcript` is of what was heard before: it is paid for."""
        kept = None if transcript is None else Jsonb(storable_json(transcript))
        async with self._own(taken, _FAIL, error=storable(reason), transcript=kept) as connection:
            await self._let_go(connection, taken.job_id)

    async def postpone(self, taken: Taken, reason: str) -> None:
        """What was heard stays; the next attempt goes on after it."""
        async with self._own(taken, _POSTPONE, error=storable(reason)):
            pass

    async def _let_go(self, connection: AsyncConnection[DictRow], job_id: UUID) -> None:
        await FILES.delete(connection, job_id)
        await connection.execute("DELETE FROM transcription_pieces WHERE job_id = %s", (job_id,))

    @asynccontextmanager
    async def _own(self, taken: Taken, first: Any, **values: Any) -> AsyncIterator[AsyncConnection[DictRow]]:
        async with self._database.connection() as connection, connection.transaction():
            cursor = await connection.execute(first, {"job": taken.job_id, "claim": taken.claim, **values})
            if cursor.rowcount != 1:
                raise TakenAway
            yield connection


def _row(piece: HeardPiece) -> dict[str, Any]:
    segments = piece.segments
    return {
        "ordinal": piece.ordinal,
        "start_s": piece.start_s,
        "end_s": piece.end_s,
        "overlap_s": piece.overlap_s,
        "text": storable(piece.text),
        "language": piece.language,
        "model": piece.model,
        "segments": None if segments is None else Jsonb([[s.start_s, s.end_s, storable(s.text)] for s in segments]),
        "hops": Jsonb([[hop.model, storable(hop.reason)] for hop in piece.hops]),
    }


def _piece(row: Mapping[str, Any]) -> HeardPiece:
    segments = row["segments"]
    return HeardPiece(
        **{
            **row,
            "segments": None if segments is None else tuple(Segment(*each) for each in segments),
            "hops": tuple(Hop(*each) for each in row["hops"]),
        }
    )
