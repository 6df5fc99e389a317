"""Whether a process lives, as the database sees it: an advisory lock on a connection that ends with the process."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from core.database import Database
from domain.errors import DatabaseUnavailable

logger = logging.getLogger("routeur.database")

PROBE_S = 1.0
PROBE_TIMEOUT_S = 10.0
RETRY_S = 0.5
STOP_LOOK_S = 0.2
NUMBERS = 2**31
"""The second half of an advisory lock is an integer of 32 bits."""

_FAULTS = (psycopg.Error, OSError, TimeoutError, DatabaseUnavailable)


class Presence:
    """One for a kind of thing that processes hold. `number` names this process while it is present, else it is `None`.

    Each connection has a number of its own: what is held under the one before must be brought under the new one, by
    `on_arrival`.
    """

    def __init__(self, database: Database, kind: int, on_arrival: Callable[[], Awaitable[None]]) -> None:
        self._database = database
        self._kind = kind
        self._on_arrival = on_arrival
        self._number: int | None = None
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def number(self) -> int | None:
        return self._number

    def start(self) -> None:
        self._task = asyncio.create_task(self._stay(), name="presence")

    async def stop(self) -> None:
        task, self._task = self._task, None
        while task is not None and not task.done():
            # Python 3.11's `wait_for` may lose a cancellation that comes at the moment of what it waits for.
            task.cancel()
            await asyncio.wait({task}, timeout=STOP_LOOK_S)

    async def wait(self, timeout_s: float) -> int | None:
        """The number, as soon as there is one; `None` when there is none within `timeout_s`."""
        try:
            await asyncio.wait_for(self._arrived.wait(), timeout_s)
        except TimeoutError:
            return None
        return self._number

    async def _stay(self) -> None:
        while True:
            try:
                if await self._database.wait_ready(RETRY_S):
                    await self._be_present()
            except _FAULTS as error:
                logger.warning("presence lost", extra={"reason": type(error).__name__})
            finally:
                self._number = None
                self._arrived.clear()
            await asyncio.sleep(RETRY_S)

    async def _be_present(self) -> None:
        """Returns by raising, when the connection breaks."""
        options = self._database.connection_options()
        connection = await AsyncConnection.connect(self._database.uri, autocommit=True, row_factory=dict_row, **options)
        try:
            self._number = await self._take_number(connection)
            self._arrived.set()
            await self._on_arrival()
            while True:
                await asyncio.sleep(PROBE_S)
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    await connection.execute("SELECT 1")
        finally:
            await connection.close()

    async def _take_number(self, connection: AsyncConnection[dict[str, object]]) -> int:
        while True:
            number = 1 + secrets.randbelow(NUMBERS - 1)
            taken = await connection.execute("SELECT pg_try_advisory_lock(%s, %s) AS mine", (self._kind, number))
            row = await taken.fetchone()
            if row is not None and row["mine"]:
                return number


def is_present(column: str, kind: int) -> str:
    """SQL: whether the process lives whose number is in this column."""
    return f"""EXISTS (
        SELECT 1 FROM pg_locks AS lock
        WHERE lock.locktype = 'advisory' AND lock.granted AND lock.classid = {kind} AND lock.objid = {column}::oid
            AND lock.objsubid = 2
            AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    )"""  # noqa: S608  # nosec B608 - names of ours
