"""Transcription jobs as their owners handle them: sent, listed, looked at, cancelled. Nobody else sees them."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, BinaryIO
from uuid import UUID, uuid4

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from config.settings import Settings
from core.database import Database, storable
from core.jobs import Jobs
from domain.errors import NotFound, RouteurError, TooManyJobs
from domain.principals import Principal
from services.accounting.totals import as_calls
from services.audio.accounts import Accounts, Hearing
from services.audio.job import ENDED, Job
from services.audio.job_store import FILES
from services.audio.job_work import JOB
from services.audio.transcription import Transcriptions
from services.audio.wishes import Wishes

logger = logging.getLogger("routeur.audio")

STORING_AT_ONCE = 2
"""Each holds a connection for as long as its upload takes to store: others need some too."""
RETENTION_EVERY_S = 3600.0
RETENTION_BATCH = 500

_FIELDS = ", ".join(field.name for field in fields(Job))
_LISTED = ", ".join(field.name for field in fields(Job) if field.name != "transcript")
# One caller's at a time: two requests at once could both find the last free place.
_LOCK_CALLER = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 6))"
_UNFINISHED = """
    SELECT count(*) AS total FROM transcription_jobs WHERE owner = %s AND status IN ('queued', 'running')
"""
_ADD = f"""
    INSERT INTO transcription_jobs (job_id, owner, job_type, request_id, project_id, filename, size_bytes, duration_s,
        requested_model, language, prompt, context, target_s, max_s)
    VALUES (%(job)s, %(owner)s, %(job_type)s, %(request_id)s, %(project_id)s, %(filename)s, %(size_bytes)s,
        %(duration_s)s, %(model)s, %(language)s, %(prompt)s, %(context)s, %(target_s)s, %(max_s)s)
    RETURNING {_FIELDS}
"""  # noqa: S608  # nosec B608 - constants of ours
_GET = f"SELECT {_FIELDS} FROM transcription_jobs WHERE job_id = %s AND owner = %s"  # noqa: S608  # nosec B608 - constants of ours
_LIST = f"""
    SELECT {_LISTED}, NULL AS transcript, count(*) OVER () AS total FROM transcription_jobs WHERE owner = %s
    ORDER BY created_at DESC, job_id LIMIT %s OFFSET %s
"""  # noqa: S608  # nosec B608 - constants of ours
_COUNT = "SELECT count(*) AS total FROM transcription_jobs WHERE owner = %s"
_HOLD = """
    SELECT status, queue_job, request_id, project_id, requested_model, calls, created_at FROM transcription_jobs
    WHERE job_id = %s AND owner = %s FOR UPDATE
"""
_CANCEL = f"""
    UPDATE transcription_jobs SET status = 'cancelled', error = NULL, finished_at = now(), claim = NULL
    WHERE job_id = %s RETURNING {_FIELDS}
"""  # noqa: S608  # nosec B608 - constants of ours
_FORGET = """
    DELETE FROM transcription_jobs WHERE job_id IN (
        SELECT job_id FROM transcription_jobs WHERE finished_at < now() - make_interval(days => %s) LIMIT %s
    )
"""


@dataclass(frozen=True, slots=True)
class Sent:
    """A recording that a caller sent: its bytes, open for reading, and what the probe found."""

    filename: str
    size_bytes: int
    duration_s: float
    file: BinaryIO


class TranscriptionJobs:
    """A recording is stored with its job in one transaction: there is none without somebody to work on it."""

    def __init__(
        self, database: Database, jobs: Jobs, transcriptions: Transcriptions, accounts: Accounts, settings: Settings
    ) -> None:
        self._database = database
        self._jobs = jobs
        self._transcriptions = transcriptions
        self._accounts = accounts
        self._most = settings.audio_jobs_per_caller
        self._retention_days = settings.audio_retention_days
        self._storing = asyncio.Semaphore(STORING_AT_ONCE)
        self._upkeep: asyncio.Task[None] | None = None

    async def check_room(self, principal: Principal) -> None:
        """Raises `TooManyJobs` before megabytes are read for nothing."""
        async with self._database.connection() as connection:
            await self._check_room(connection, principal)

    async def add(self, sent: Sent, wishes: Wishes, principal: Principal, request_id: str) -> Job:
        """Store a recording and queue the work on it. Raises `TooManyJobs`, or when nobody could hear it."""
        plan = self._transcriptions.plan(wishes)
        cut = self._transcriptions.cut_plan(plan, sent.duration_s)
        async with self._storing, self._database.connection() as connection, connection.transaction():
            await connection.execute(_LOCK_CALLER, (principal.subject,))
            await self._check_room(connection, principal)
            row = await _one_or_raise(
                connection,
                _ADD,
                {
                    "job": uuid4(),
                    "owner": principal.subject,
                    "job_type": wishes.job_type,
                    "request_id": request_id,
                    "project_id": wishes.project_id,
                    "filename": storable(sent.filename),
                    "size_bytes": sent.size_bytes,
                    "duration_s": sent.duration_s,
                    "model": wishes.model,
                    "language": wishes.language,
                    "prompt": None if wishes.prompt is None else storable(wishes.prompt),
                    "context": wishes.context,
                    "target_s": cut.target_s,
                    "max_s": cut.max_s,
                },
            )
            await FILES.store(connection, row["job_id"], sent.file)
            queued = await self._jobs.defer(connection, JOB, principal.subject, job_id=str(row["job_id"]))
            await connection.execute(
                "UPDATE transcription_jobs SET queue_job = %s WHERE job_id = %s", (queued, row["job_id"])
            )
        return _job(row)

    async def find(self, principal: Principal, *, limit: int, offset: int) -> tuple[list[Job], int]:
        """A page of the caller's jobs without their transcripts, the newest first, and how many there are."""
        async with self._database.connection() as connection:
            rows = await (await connection.execute(_LIST, (principal.subject, limit, offset))).fetchall()
            if rows:
                return [_job(row) for row in rows], int(rows[0]["total"])
            counted = await _one_or_raise(connection, _COUNT, (principal.subject,))
        return [], int(counted["total"])

    async def get_or_raise(self, principal: Principal, job_id: str) -> Job:
        """Raises `NotFound`."""
        async with self._database.connection() as connection:
            row = await (await connection.execute(_GET, (_uuid(job_id), principal.subject))).fetchone()
        if row is None:
            raise _no_such_job(job_id)
        return _job(row)

    async def end(self, principal: Principal, job_id: str) -> Job | None:
        """Cancel it, and stop the work on it; a job that has ended is deleted: `None`. Raises `NotFound`."""
        uuid = _uuid(job_id)
        async with self._database.connection() as connection, connection.transaction():
            held = await (await connection.execute(_HOLD, (uuid, principal.subject))).fetchone()
            if held is None:
                raise _no_such_job(job_id)
            if held["status"] in ENDED:
                await connection.execute("DELETE FROM transcription_jobs WHERE job_id = %s", (uuid,))
                return None
            if held["queue_job"] is not None:
                await self._jobs.remove(connection, held["queue_job"])
            await FILES.delete(connection, uuid)
            await connection.execute("DELETE FROM transcription_pieces WHERE job_id = %s", (uuid,))
            row = await _one_or_raise(connection, _CANCEL, (uuid,))
        self._record(principal, uuid, held)
        return _job(row)

    def start(self) -> None:
        """Begin to forget what is older than AUDIO_RETENTION_DAYS."""
        if self._retention_days:
            self._upkeep = asyncio.create_task(self._forget_for_ever(), name="transcription upkeep")

    async def stop(self) -> None:
        upkeep, self._upkeep = self._upkeep, None
        if upkeep is not None:
            upkeep.cancel()
            await asyncio.wait({upkeep})

    async def forget_old(self) -> int:
        """Delete the jobs that ended so long ago, with their transcripts; how many."""
        forgotten = 0
        while True:
            async with self._database.connection() as connection:
                cursor = await connection.execute(_FORGET, (self._retention_days, RETENTION_BATCH))
            if not cursor.rowcount:
                return forgotten
            forgotten += cursor.rowcount

    async def _forget_for_ever(self) -> None:
        while True:
            if await self._database.wait_ready(RETENTION_EVERY_S):
                with contextlib.suppress(RouteurError, psycopg.Error, OSError, TimeoutError):
                    if forgotten := await self.forget_old():
                        logger.info("old transcripts were deleted", extra={"jobs": forgotten})
                await asyncio.sleep(RETENTION_EVERY_S)

    async def _check_room(self, connection: AsyncConnection[DictRow], principal: Principal) -> None:
        unfinished = (await _one_or_raise(connection, _UNFINISHED, (principal.subject,)))["total"]
        if unfinished >= self._most:
            problem = f"{unfinished} of your jobs are not finished, and {self._most} may be (AUDIO_JOBS_PER_CALLER)"
            raise TooManyJobs(f"{problem}: wait for one to end, or cancel one")

    def _record(self, principal: Principal, job_id: UUID, held: Mapping[str, Any]) -> None:
        """What was consumed for a job that is cancelled before it was done."""
        calls = as_calls(held["calls"])
        hearing = Hearing(
            run_id=job_id,
            request_id=held["request_id"],
            subject=principal.subject,
            project_id=held["project_id"],
            requested_model=held["requested_model"],
            created_at=held["created_at"],
        )
        self._accounts.record(hearing, calls, "cancelled", None, latency_s=sum(call.latency_s for call in calls))


def _uuid(job_id: str) -> UUID:
    try:
        return UUID(job_id)
    except ValueError as error:
        raise _no_such_job(job_id) from error


def _no_such_job(job_id: str) -> NotFound:
    return NotFound(f"no transcription job {job_id[:60]!r}")


async def _one_or_raise(connection: AsyncConnection[DictRow], query: Any, values: Any) -> DictRow:
    row = await (await connection.execute(query, values)).fetchone()
    if row is None:
        raise RuntimeError("the database gave no row")
    return row


def _job(row: Mapping[str, Any]) -> Job:
    return Job(**{field.name: row[field.name] for field in fields(Job)})
