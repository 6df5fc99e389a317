"""Background jobs: kept in PostgreSQL by procrastinate, done by a worker inside the server or in a process of its own.

A job is done at least once. One whose worker died is begun again within seconds of somebody noticing: each worker
holds a lock in the database for as long as its process lives, and whoever looks sees which jobs have lost theirs.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from procrastinate import App, JobContext, PsycopgConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job, Notification, Status
from procrastinate.manager import JobManager, NotificationCallback
from procrastinate.retry import BaseRetryStrategy, RetryDecision
from procrastinate.worker import Worker
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row

from core.database import Database
from core.job_turns import (
    SMALL_PLACES,
    SMALL_PRIORITY,
    RetryLater,
    TurnOver,
    Turns,
    begin_turn,
    name_owner,
    turn_is_over,
)
from domain.errors import DatabaseUnavailable

__all__ = ["Jobs", "RetryLater", "TakenAway", "TurnOver", "Work", "turn_is_over"]

logger = logging.getLogger("routeur.jobs")

Work = Callable[..., Awaitable[None]]
"""Does one job, given the arguments it was deferred with. It may be begun again after a part of it was done."""

WORKER_LOCKS = int.from_bytes(b"jobs")
"""The first half of the advisory locks: of the worker with this id, and with 0 of who looks for dead ones."""
LOOK_S = 2.0
"""Between two looks for jobs whose wait is over or whose worker died. New ones are announced."""
HEARTBEAT_S = 5.0
STALLED_S = 40.0
"""A worker whose machine vanished still has its lock for a while: it counts as dead without a heartbeat for so long."""
RETRY_S = 1.0
POOL_WAIT_S = 3.0
DATABASE_RETRY_S = 5.0
STOP_S = 10.0
"""A job that is told to stop may take this long; it is done again elsewhere, or at the next start."""

_DEFER = """
    SELECT unnest(procrastinate_defer_jobs_v1(ARRAY[
        ROW(%s, %s, %s, NULL, %s, %s::jsonb, NULL)::procrastinate_job_to_defer_v1
    ])) AS id
"""
# The update tells the worker that has it to stop, when the transaction commits; by then the row is gone.
_ABORT = "UPDATE procrastinate_jobs SET abort_requested = true WHERE id = ANY(%s) AND status = 'doing'"
_REMOVE = "DELETE FROM procrastinate_jobs WHERE id = ANY(%s)"
# A worker that was taken for dead, and was not, has no say any more in what became of its jobs.
_FINISH = "DELETE FROM procrastinate_jobs WHERE id = %(id)s AND worker_id = %(worker)s"
_RETRY = """
    SELECT procrastinate_retry_job_v2(id, %(at)s, NULL, NULL, NULL)
    FROM procrastinate_jobs WHERE id = %(id)s AND worker_id = %(worker)s AND status = 'doing'
"""
_STILL_OURS = "SELECT id FROM procrastinate_jobs WHERE id = ANY(%s) AND worker_id = %s"
_TAKE_OVER = f"""
    SELECT id, procrastinate_retry_job_v2(id, now(), NULL, NULL, NULL)
    FROM procrastinate_jobs AS job
    WHERE status = 'doing' AND NOT EXISTS (
        SELECT 1 FROM procrastinate_workers AS worker JOIN pg_locks AS lock ON lock.objid = worker.id::oid
        WHERE worker.id = job.worker_id AND lock.locktype = 'advisory' AND lock.granted
            AND lock.classid = {WORKER_LOCKS} AND lock.objsubid = 2
            AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND worker.last_heartbeat > now() - interval '{STALLED_S} seconds'
    )
"""  # noqa: S608  # nosec B608 - constants of ours


class TakenAway(Exception):
    """What a job works on was deleted, or another worker has it: there is nothing more to do here."""


class Jobs:
    """The queue, and this process's worker on it. The worker outlives the database's absences.

    `concurrency` jobs at once, and one more if it is small.
    """

    def __init__(self, database: Database, *, concurrency: int = 1) -> None:
        self._database = database
        self._concurrency = concurrency
        self._works: dict[str, Work] = {}
        self._task: asyncio.Task[None] | None = None
        self._worker: Worker | None = None
        self._going: dict[int, asyncio.Task[Any]] = {}
        self._stopping = False

    def register(self, name: str, work: Work) -> None:
        """What does the jobs of this name. Before `start`."""
        self._works[name] = work

    async def defer(
        self, connection: AsyncConnection[Any], name: str, /, owner: str = "", *, small: bool = False, **arguments: str
    ) -> int:
        """Put a job into the queue, in the transaction of the caller. Its id there.

        Owners take turns; a small job waits for no large one, even of its own owner.
        """
        cursor = connection.cursor(row_factory=dict_row)
        priority = SMALL_PRIORITY if small else 0
        await cursor.execute(_DEFER, (name, name, priority, name_owner(owner), json.dumps(arguments)))
        row = await cursor.fetchone()
        if row is None:
            raise RuntimeError("procrastinate gave no id")
        return int(row["id"])

    async def remove(self, connection: AsyncConnection[Any], *jobs: int) -> None:
        """Leave no trace of jobs, in the transaction of the caller. A worker that is at one is told to stop."""
        await connection.execute(_ABORT, (list(jobs),))
        await connection.execute(_REMOVE, (list(jobs),))

    def start(self) -> None:
        """Begin to work, as soon as the database is there."""
        # Its errors are ours to tell: of an outage it would print a traceback a task.
        logging.getLogger("procrastinate").setLevel(logging.CRITICAL)
        self._task = asyncio.create_task(self._run_for_ever(), name="job worker")
        self._task.add_done_callback(_ended)

    async def stop(self) -> None:
        """Jobs at work are interrupted; the queue has them again, for the next worker."""
        self._stopping = True
        task, self._task = self._task, None
        if task is None:
            return
        if self._worker is not None:
            self._worker.stop()  # type: ignore[no-untyped-call]  # As procrastinate has it.
        else:
            task.cancel()
        _, still = await asyncio.wait({task}, timeout=STOP_S)
        if still:
            task.cancel()
            await asyncio.wait({task}, timeout=STOP_S)

    async def _run_for_ever(self) -> None:
        while not self._stopping:
            if not await self._database.wait_ready(RETRY_S):
                continue
            try:
                await self._run()
            except (ConnectorException, psycopg.Error, OSError, TimeoutError) as error:
                reason = str(error.__cause__ or error)
                logger.warning("the job worker lost the database; it begins anew", extra={"reason": reason})
            finally:
                self._worker = None
            if not self._stopping:
                await asyncio.sleep(RETRY_S)

    async def _run(self) -> None:
        """One worker, until it is stopped or the database breaks."""
        options = self._database.connection_options()
        connector = PsycopgConnector(
            conninfo=self._database.uri,
            kwargs=options,
            min_size=1,
            max_size=self._concurrency + SMALL_PLACES + 2,
            timeout=POOL_WAIT_S,
            # As for the house's own pool: its retries slow down up to minutes.
            reconnect_timeout=2.0,
        )
        presence = await AsyncConnection.connect(self._database.uri, autocommit=True, row_factory=dict_row, **options)
        try:
            await _take_over(presence)
            await connector.open_async()
            await self._work(connector, presence)
        finally:
            await connector.close_async()
            await presence.close()

    async def _work(self, connector: PsycopgConnector, presence: AsyncConnection[DictRow]) -> None:
        app = App(connector=connector)
        turns = Turns(connector, self._concurrency)
        app.job_manager = _Manager(connector, presence, self._begin_anew, turns)
        for name, work in self._works.items():
            app.task(name=name, retry=_Retries(), pass_context=True)(self._performing(name, work, turns))
        self._worker = worker = Worker(
            app,
            queues=list(self._works),  # No others: during an upgrade, a newer server defers jobs that we do not know.
            concurrency=self._concurrency + SMALL_PLACES,
            fetch_job_polling_interval=LOOK_S,
            shutdown_graceful_timeout=0,
            install_signal_handlers=False,
            update_heartbeat_interval=HEARTBEAT_S,
            stalled_worker_timeout=STALLED_S,
        )
        look = asyncio.create_task(self._look_around(presence, worker), name="job worker's look")
        try:
            await worker.run()  # type: ignore[no-untyped-call]  # As procrastinate has it.
        finally:
            look.cancel()
            await asyncio.gather(look, return_exceptions=True)

    def _performing(self, name: str, work: Work, turns: Turns) -> Work:
        """The work, with its last words: the end of a job is nobody else's to tell."""

        async def perform(context: JobContext, **arguments: str) -> None:
            task, job = asyncio.current_task(), context.job.id
            if task is not None and job is not None:
                self._going[job] = task
                task.add_done_callback(lambda _: self._going.pop(job, None))
            try:
                with begin_turn(turns, context.job):
                    await work(**arguments)
            except RetryLater:
                raise
            except (DatabaseUnavailable, psycopg.OperationalError) as error:
                raise RetryLater(DATABASE_RETRY_S) from error
            except Exception:
                logger.exception("a job failed", extra={"job": name, "arguments": arguments})
                raise

        return perform

    async def _look_around(self, presence: AsyncConnection[DictRow], worker: Worker) -> None:
        """Take over what dead workers left, let go what is ours no more, and notice when the database has gone."""
        try:
            while True:
                await asyncio.sleep(LOOK_S)
                async with asyncio.timeout(STALLED_S):
                    await _take_over(presence)
                    going = list(self._going)
                    still = await (await presence.execute(_STILL_OURS, (going, worker.worker_id))).fetchall()
                for job in set(going) - {row["id"] for row in still}:
                    # Deleted, or another's. It was announced too, but an announcement may be missed.
                    if (task := self._going.get(job)) is not None:
                        task.cancel()
        except (psycopg.Error, OSError, TimeoutError) as error:
            logger.warning("the job worker lost the database", extra={"reason": str(error)})
            self._begin_anew()

    def _begin_anew(self) -> None:
        """What this worker could not write down, another has to find: the jobs of one that is gone are taken over."""
        if self._worker is not None:
            self._worker.stop()  # type: ignore[no-untyped-call]  # As procrastinate has it.


class _Manager(JobManager):
    """Marks the worker as living, misses no announcement, and lets no worker end a job that is not its own any more."""

    def __init__(
        self,
        connector: PsycopgConnector,
        presence: AsyncConnection[DictRow],
        lose: Callable[[], None],
        turns: Turns,
    ) -> None:
        super().__init__(connector)
        self._presence = presence
        self._lose = lose
        self._turns = turns
        self._heard = 0
        self._on_notification: NotificationCallback | None = None

    async def listen_for_jobs(
        self, *, on_notification: NotificationCallback, queues: Iterable[str] | None = None
    ) -> None:
        async def hear(*, channel: str, notification: Notification) -> None:
            self._heard += 1
            await on_notification(channel=channel, notification=notification)

        self._on_notification = hear
        await super().listen_for_jobs(on_notification=hear, queues=queues)

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        """Looks again when a job was announced meanwhile.

        After each look procrastinate 3.10 forgets what was announced, also during it (`Worker._fetch_and_process_jobs`
        clears its event last): the job would wait for the next look.
        """
        while True:
            heard = self._heard
            job = await self._turns.take_next(list(queues or ()), worker_id)
            if job is not None or self._heard == heard:
                return job

    async def register_worker(self) -> int:
        worker_id: int = await super().register_worker()
        # Before the first job is fetched, and for as long as this connection lives.
        await self._presence.execute("SELECT pg_advisory_lock(%s, %s)", (WORKER_LOCKS, worker_id))
        return worker_id

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:
        """Also a job that failed leaves the queue: what became of it is written where its work is."""
        await self._write(_FINISH, job)

    async def retry_job(
        self,
        job: Job,
        retry_at: datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        lock: str | None = None,
    ) -> None:
        await self._write(_RETRY, job, at=retry_at or datetime.now(UTC))

    async def _write(self, query: Any, job: Job, **more: Any) -> None:
        try:
            await self.connector.execute_query_async(query, id=job.id, worker=job.worker_id, **more)
        except ConnectorException:
            self._lose()
        self._turns.give_back(job)
        if self._on_notification is not None and job.id is not None:
            # What had no place may have one now: procrastinate would look for it at its next look only.
            notice: Notification = {"type": "job_inserted", "job_id": job.id}
            await self._on_notification(channel="", notification=notice)


class _Retries(BaseRetryStrategy):
    """How long is the work's own matter. One that was interrupted is begun again at once, by somebody else."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        match exception:
            case RetryLater(wait_s=wait_s):
                return RetryDecision(retry_at=datetime.now(UTC) + timedelta(seconds=wait_s))
            case asyncio.CancelledError():
                return RetryDecision(retry_at=datetime.now(UTC))
            case _:
                return None


async def _take_over(presence: AsyncConnection[DictRow]) -> None:
    async with presence.transaction():
        lock = await presence.execute("SELECT pg_try_advisory_xact_lock(%s, 0) AS mine", (WORKER_LOCKS,))
        row = await lock.fetchone()
        if row is None or not row["mine"]:
            return  # Another worker looks at this moment.
        taken = await (await presence.execute(_TAKE_OVER)).fetchall()
    if taken:
        logger.warning("jobs of dead workers are begun again", extra={"jobs": len(taken)})


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("the job worker stopped", exc_info=error)
