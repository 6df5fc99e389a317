"""Whose job is next, and for how long: callers take turns, and small jobs have a place that large ones never take.

A job is deferred with its owner and whether it is small. The next one is that of the caller of whom the fewest are at
work and who was served longest ago; a caller's own follow each other. Work that stores its progress looks between two
chunks (`turn_is_over`) whether others wait, and then raises `TurnOver`: it goes on later from where it was.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from uuid import uuid4

from procrastinate import PsycopgConnector
from procrastinate.jobs import Job

TURN_S = 20.0
"""While others wait, a job gives its place back after so long, at its next chunk."""
SMALL_PRIORITY = 1
OWNER_FROM = 38
"""A job's owner is kept in `queueing_lock`, after a UUID and a space: that column is unique, and has no other use here.
A former version, which runs beside during an upgrade, can do the job too.
"""
SMALL_PLACES = 1
"""Beside the places for any job."""
KNOWN_OWNERS = 1_000
"""Whose last turn was before those of so many others counts as never served: it is next anyway."""

_OWNER_OF = f"coalesce(substr(queueing_lock, {OWNER_FROM}), '')"
_DUE = "status = 'todo' AND queue_name = ANY(%(queues)s::text[]) AND (scheduled_at IS NULL OR scheduled_at <= now())"
_FETCH = f"""
    WITH waiting AS (
        SELECT id, {_OWNER_OF} AS owner FROM procrastinate_jobs
        WHERE {_DUE} AND (NOT %(small_only)s::boolean OR priority >= {SMALL_PRIORITY})
    ), busy AS (
        SELECT {_OWNER_OF} AS owner, count(*) AS jobs FROM procrastinate_jobs
        WHERE status = 'doing' AND queue_name = ANY(%(queues)s::text[]) GROUP BY 1
    ), ranked AS (
        SELECT id, row_number() OVER (ORDER BY coalesce(busy.jobs, 0), coalesce(served.turn, 0), id) AS place
        FROM waiting LEFT JOIN busy USING (owner)
        LEFT JOIN unnest(%(owners)s::text[], %(turns)s::bigint[]) AS served (owner, turn) USING (owner)
    ), candidate AS (
        SELECT job.id FROM procrastinate_jobs AS job JOIN ranked USING (id)
        WHERE job.status = 'todo' ORDER BY place LIMIT 1 FOR UPDATE OF job SKIP LOCKED
    )
    UPDATE procrastinate_jobs AS job SET status = 'doing', worker_id = %(worker)s
    FROM candidate WHERE job.id = candidate.id
    RETURNING job.id, job.status::text, job.task_name, job.priority, job.lock, job.queueing_lock, job.args,
        job.scheduled_at, job.queue_name, job.attempts, job.worker_id
"""  # noqa: S608  # nosec B608 - constants of ours
_OTHERS_WAIT = f"""
    SELECT EXISTS (SELECT 1 FROM procrastinate_jobs WHERE {_DUE} AND {_OWNER_OF} <> %(owner)s) AS others
"""  # noqa: S608  # nosec B608 - constants of ours


class RetryLater(Exception):
    """Raised by a job's work: what hindered it may pass. It is begun again after so many seconds."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"again in {wait_s:g} s")
        self.wait_s = wait_s


class TurnOver(RetryLater):
    """Raised by a job's work between two chunks: the jobs of others come first."""

    def __init__(self) -> None:
        super().__init__(0)


class Turns:
    """The jobs at work here, and when each caller was last served here. `places` are for any job."""

    def __init__(self, connector: PsycopgConnector, places: int) -> None:
        self._connector = connector
        self._places = places
        self._large: set[int] = set()
        self._served: dict[str, int] = {}
        self._count = 0
        self.queues: list[str] = []

    async def take_next(self, queues: Sequence[str], worker: int) -> Job | None:
        """The job whose turn it is, if there is one that has a place."""
        self.queues = list(queues)
        rows = await self._connector.execute_query_all_async(
            _FETCH,
            queues=self.queues,
            worker=worker,
            small_only=len(self._large) >= self._places,
            owners=list(self._served),
            turns=list(self._served.values()),
        )
        if not rows:
            return None
        job = Job.from_row(rows[0])
        if job.id is not None and job.priority < SMALL_PRIORITY:
            self._large.add(job.id)
        self._note_served(owner_of(job))
        return job

    def give_back(self, job: Job) -> None:
        """The place of a job that is not at work any more."""
        if job.id is not None:
            self._large.discard(job.id)

    async def others_wait(self, owner: str) -> bool:
        rows = await self._connector.execute_query_all_async(_OTHERS_WAIT, queues=self.queues, owner=owner)
        return bool(rows[0]["others"])

    def _note_served(self, owner: str) -> None:
        self._count += 1
        self._served.pop(owner, None)
        self._served[owner] = self._count
        if len(self._served) > KNOWN_OWNERS:
            del self._served[next(iter(self._served))]


@dataclass(slots=True)
class _Turn:
    """A job at work. `first_chunk_at` is when it got beyond what it had to do again."""

    turns: Turns
    owner: str
    begun_at: float
    first_chunk_at: float | None = None


_clock = time.monotonic
_turn: ContextVar[_Turn | None] = ContextVar("turn", default=None)


@contextlib.contextmanager
def begin_turn(turns: Turns, job: Job) -> Iterator[None]:
    """For the work on a job, and the tasks that it starts."""
    token = _turn.set(_Turn(turns, owner_of(job), _clock()))
    try:
        yield
    finally:
        _turn.reset(token)


async def turn_is_over() -> bool:
    """Call it after each chunk stored: whether the job at hand should give its place back. Never outside a job.

    At least as long as the way to the first new chunk took: what is done again is never most of the work.
    """
    turn = _turn.get()
    if turn is None:
        return False
    now = _clock()
    if turn.first_chunk_at is None:
        turn.first_chunk_at = now
    if now - turn.first_chunk_at < max(TURN_S, turn.first_chunk_at - turn.begun_at):
        return False
    return await turn.turns.others_wait(turn.owner)


def owner_of(job: Job) -> str:
    return (job.queueing_lock or "")[OWNER_FROM - 1 :]


def name_owner(owner: str) -> str:
    """The `queueing_lock` of a new job."""
    return f"{uuid4()} {owner}"
