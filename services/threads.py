"""Threads: the conversations that the server keeps. Each has one owner, one agent, and at most one run at a time.

Ids belong to their owner: two owners may use the same one, and neither learns of the other's.

Policy: fails closed. Without the database a run on a thread is refused; runs without one never come here.
"""

import asyncio
import logging
import time
import unicodedata
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg

from config.settings import Settings
from core.database import DATA_ERRORS, OUTAGES, QUICK_CONNECTIONS, Database, storable, unstorable
from core.presence import Presence
from domain.errors import Conflict, DatabaseUnavailable, InvalidParameter, NotFound, ThreadBusy
from domain.runs import RunStatus
from services import thread_sql
from services.questions import forget_old_ids
from services.thread_saver import ThreadSaver
from services.thread_sql import HOLDERS, LEASE_S

logger = logging.getLogger("routeur.threads")

RENEW_S = LEASE_S / 3
PRESENCE_WAIT_S = 1.0
"""A run that comes before this process is present holds its thread by a lease alone."""
FIRST_LOOK_S = 0.02
LONGEST_LOOK_S = 0.5
PRUNE_EVERY = 10
"""Turns between two prunings: every checkpoint holds the whole conversation, and only the newest is read again."""
RETENTION_EVERY_S = 3600.0
RETENTION_BATCH = 500
STOP_S = 5.0
DOTS = frozenset({".", ".."})
UNPRINTABLE = frozenset({"Cc", "Zl", "Zp"})
"""Unicode's categories of control characters and of separators of lines and of paragraphs."""

DATABASE_FAULTS = OUTAGES


@dataclass(frozen=True, slots=True)
class Thread:
    """What is known of a thread without reading its state. `key` is its name in its checkpoints."""

    thread_id: str
    key: str
    agent: str
    turns: int
    busy: bool
    created_at: datetime
    used_at: datetime
    last_run: UUID | None
    last_status: str | None
    """How its last run ended; `lost` for one whose process died, `running` for one that goes on."""


@dataclass(slots=True)
class Lease:
    """A run's hold of its thread. `turns` counts the runs before it; `lose` ends the run when the hold is lost."""

    thread_id: str
    owner: str
    run_id: UUID
    turns: int = 0
    messages: int = 0
    """How many the thread's state holds; the run updates it."""
    key: str = ""
    """The thread's name in its checkpoints."""
    is_new: bool = False
    """Whether the run has made the thread: there is no state to read."""
    is_whole: bool = False
    """Whether the state is at rest: nothing is pending, no step is open.

    As the last run left it; the run says how it leaves it. Where it is not known, the state is read.
    """
    lose: Callable[[], object] = lambda: None
    is_lost: bool = False


class Threads:
    """Gives runs their threads, keeps the holds alive, and forgets what nobody has used for long."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._waits_for_busy = settings.thread_busy == "wait"
        self._wait_s = settings.run_timeout_s
        self._retention_days = settings.thread_retention_days
        self._leases: dict[UUID, Lease] = {}
        self._upkeep: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self.max_messages = settings.thread_max_messages
        self._presence = Presence(database, HOLDERS, self._renew)
        self.saver = ThreadSaver(database, at_once=QUICK_CONNECTIONS)

    async def start(self) -> None:
        """Begin to keep holds alive."""
        self._presence.start()
        self._upkeep = asyncio.create_task(self._keep_up(), name="threads")

    async def stop(self) -> None:
        """After the last run."""
        if self._upkeep is not None:
            self._upkeep.cancel()
            await asyncio.wait({self._upkeep})
        if self._background:
            _, late = await asyncio.wait(self._background, timeout=STOP_S)
            for task in late:
                task.cancel()
        # Its end lets go of what is still held.
        await self._presence.stop()

    async def take(self, thread_id: str, *, owner: str, agent: str, run_id: UUID, resumes: bool) -> Lease:
        """Hold a thread for a run, making it at its first use unless it `resumes`. Raises what hinders it."""
        await self._check_id(thread_id, owner)
        deadline = time.monotonic() + self._wait_s
        pause_s = FIRST_LOOK_S
        parameters = {"name": thread_id, "owner": owner, "agent": agent, "run_id": run_id}
        statement = thread_sql.RETAKE if resumes else thread_sql.TAKE
        while True:
            lease = Lease(thread_id, owner, run_id)
            try:
                holder = await self._holder()
                taken = await self._one(statement, {**parameters, "key": str(uuid4()), "holder": holder})
            except asyncio.CancelledError:
                # The statement may have been done all the same.
                self._in_background(self._let_go(lease, None))
                raise
            if taken is not None:
                lease.turns, lease.messages = taken["turns"], taken["messages"]
                lease.key, lease.is_new, lease.is_whole = taken["key"], taken["is_new"], taken["is_whole"]
                self._leases[run_id] = lease
                return lease
            await self._check(thread_id, owner, agent, resumes=resumes)
            if not self._waits_for_busy:
                raise ThreadBusy(f"thread {thread_id!r}: another run is going on; ask again when it has ended")
            if time.monotonic() > deadline:
                raise ThreadBusy(f"thread {thread_id!r}: another run has been going on for {self._wait_s:g} s")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_LOOK_S)

    async def _check_id(self, thread_id: str, owner: str) -> None:
        """Raises `InvalidParameter` for an id that nothing can be kept under, or a new one that no address reaches."""
        if storable(thread_id) != thread_id:
            raise InvalidParameter("thread_id", f"{thread_id!r}: NUL and halves of surrogate pairs cannot be kept")
        problem = _problem_of_new_id(thread_id)
        if problem and await self._one(thread_sql.LOOK, {"owner": owner, "name": thread_id}) is None:
            raise InvalidParameter("thread_id", f"{thread_id!r}: {problem}")

    async def _holder(self) -> int | None:
        if self._presence.number is None and self._database.state == "ready":
            return await self._presence.wait(PRESENCE_WAIT_S)
        return self._presence.number

    async def release(self, lease: Lease, status: RunStatus | None) -> None:
        """Let go of the thread, also when the caller is cancelled meanwhile. Never raises.

        `status` says how its run ended; `None` that it was refused before it began.
        """
        self._leases.pop(lease.run_id, None)
        self.saver.let_go(lease.key)
        await asyncio.shield(self._in_background(self._let_go(lease, status)))

    async def _let_go(self, lease: Lease, status: RunStatus | None) -> None:
        completed = status in {"succeeded", "interrupted"}
        parameters = {
            "owner": lease.owner,
            "name": lease.thread_id,
            "run_id": lease.run_id,
            "messages": lease.messages,
            "turns": int(completed),
            "status": status,
            "is_whole": status == "succeeded" and lease.is_whole,
        }
        try:
            async with self._database.quick_pool.connection() as connection:
                await connection.execute(thread_sql.RELEASE, parameters)
        except DATABASE_FAULTS as error:
            logger.warning("a thread stays taken until its lease ends", extra={"reason": type(error).__name__})
            return
        if completed and (lease.turns + 1) % PRUNE_EVERY == 0:
            self._in_background(self._prune(lease.key))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name="thread upkeep")
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def get_or_raise(self, thread_id: str, owner: str) -> Thread:
        """The owner's thread; raises `NotFound`. Others may have one of the same id, which is nothing to this owner."""
        row = await self._one(thread_sql.LOOK, {"owner": owner, "name": thread_id})
        if row is None:
            raise _no_such_thread(thread_id)
        return _thread(row)

    async def find(self, owner: str, *, limit: int, offset: int) -> tuple[list[Thread], int]:
        """The owner's threads, the last used first, and how many there are in all (0 beyond the end)."""
        rows = await self._all(thread_sql.LIST, (owner, limit, offset))
        return [_thread(row) for row in rows], rows[0]["total"] if rows else 0

    async def delete(self, thread_id: str, owner: str) -> None:
        """Forget a thread and all of its state; raises `ThreadBusy` while a run is going on."""
        thread = await self.get_or_raise(thread_id, owner)
        if not await self._hold([thread.key], owner, 0):
            raise ThreadBusy(f"thread {thread_id!r}: a run is going on; delete it when it has ended")
        await self._forget([thread.key])

    async def _check(self, thread_id: str, owner: str, agent: str, *, resumes: bool) -> None:
        """Raises why the thread cannot be taken, unless it is only busy."""
        row = await self._one(thread_sql.LOOK, {"owner": owner, "name": thread_id})
        if row is None:
            if resumes:
                raise _no_such_thread(thread_id)
            return
        if row["agent"] != agent:
            raise Conflict(
                f"thread {thread_id!r} is a conversation with agent {row['agent']!r}: "
                f"name that agent, or another thread for {agent!r}"
            )

    async def _one(self, statement: str, arguments: Any) -> dict[str, Any] | None:
        return next(iter(await self._all(statement, arguments)), None)

    async def _all(self, statement: str, arguments: Any) -> list[dict[str, Any]]:
        try:
            async with self._database.quick_pool.connection() as connection:
                return await (await connection.execute(statement, arguments)).fetchall()
        except DATA_ERRORS as error:
            raise unstorable(error) from error
        except DATABASE_FAULTS as error:
            raise thread_database_down() from error

    async def _keep_up(self) -> None:
        forget_at = time.monotonic() + RENEW_S
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await self._renew()
                if self._retention_days and time.monotonic() >= forget_at:
                    forget_at = time.monotonic() + RETENTION_EVERY_S
                    await self.forget_unused()
            except (psycopg.Error, *DATABASE_FAULTS, DatabaseUnavailable) as error:
                logger.warning("the holds of threads were not renewed", extra={"reason": type(error).__name__})

    async def _renew(self) -> None:
        if not self._leases:
            return
        runs = list(self._leases)
        keys = [lease.key for lease in self._leases.values()]
        renewed = {"keys": keys, "runs": runs, "holder": self._presence.number}
        async with self._database.quick_pool.connection() as connection:
            rows = await (await connection.execute(thread_sql.RENEW, renewed)).fetchall()
        kept = {row["run_id"] for row in rows}
        for run_id in runs:
            if run_id not in kept and (lease := self._leases.get(run_id)) is not None:
                logger.warning("a run lost its thread", extra={"run_id": str(run_id)})
                lease.is_lost = True
                lease.lose()

    async def forget_unused(self) -> int:
        """Delete the threads that nobody has used for `THREAD_RETENTION_DAYS`; how many."""
        forgotten = 0
        while True:
            unused = [
                row["thread_id"] for row in await self._all(thread_sql.UNUSED, (self._retention_days, RETENTION_BATCH))
            ]
            # None that was used again since: it is held, and nobody takes it any more.
            held = await self._hold(unused, None, self._retention_days)
            if not held:
                return forgotten
            await self._forget(held)
            forgotten += len(held)

    async def _hold(self, keys: list[str], owner: str | None, days: int) -> list[str]:
        """Those of the threads that nobody uses, held so that nobody does from now on."""
        parameters = {"keys": keys, "owner": owner, "days": days, "holder": self._presence.number}
        return [row["thread_id"] for row in await self._all(thread_sql.HOLD, parameters)]

    async def _forget(self, thread_ids: list[str]) -> None:
        """The state first: a thread that is half forgotten is still found, and forgotten again."""
        try:
            await self.saver.aprune(thread_ids, strategy="delete")
            async with self._database.quick_pool.connection() as connection:
                await connection.execute("DELETE FROM threads WHERE thread_id = ANY(%s)", (thread_ids,))
        except DATABASE_FAULTS as error:
            raise thread_database_down() from error

    async def _prune(self, thread_id: str) -> None:
        try:
            await self.saver.aprune([thread_id], strategy="keep_latest")
            await forget_old_ids(self.saver, thread_id)
        except (psycopg.Error, *DATABASE_FAULTS, NotImplementedError) as error:
            # Another pruning got in between, or the state is of a kind that cannot be pruned: only space is lost.
            logger.info("a thread was not pruned", extra={"reason": type(error).__name__})


def _problem_of_new_id(thread_id: str) -> str | None:
    if not DOTS.isdisjoint(thread_id.split("/")):
        return "clients take '.' and '..' out of addresses"
    if any(unicodedata.category(character) in UNPRINTABLE for character in thread_id):
        return "it holds a control character or a line separator"
    return None


def _thread(row: dict[str, Any]) -> Thread:
    return Thread(**{name: row[name] for name in Thread.__dataclass_fields__})


def thread_database_down() -> DatabaseUnavailable:
    """What a caller is told when the conversation cannot be read or kept."""
    return DatabaseUnavailable(
        "threads need the database, and it does not answer now; ask again, or send conversation_history instead"
    )


def lost_thread() -> ThreadBusy:
    """What a run is ended with when its hold ran out: what it would still write is not the conversation any more."""
    return ThreadBusy("the server was too slow to keep the thread, and another run has taken it")


def _no_such_thread(thread_id: str) -> NotFound:
    return NotFound(f"thread {thread_id!r}: there is no such thread")
