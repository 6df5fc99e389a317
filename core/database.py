"""The database: an open pool, a schema that is up to date, and a state that follows the server's ups and downs."""

import asyncio
import contextlib
import logging
import math
import random
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

from config.settings import Settings
from core.embedded_postgres import EmbeddedPostgres
from core.migration import MigrationFailedError, MissingExtensionError, find_version, is_current, migrate
from core.postgres_processes import EmbeddedPostgresError
from domain.errors import BadRequest, ConfigurationError, DatabaseUnavailable, StorageFull

logger = logging.getLogger("routeur.database")

DatabaseState = Literal["starting", "ready", "down"]
DatabasePool = AsyncConnectionPool[AsyncConnection[DictRow]]
StartWait = Callable[[], Awaitable[None]]

MIN_SERVER_VERSION = 150000
PROBE_S = 1.0
FIRST_RETRY_S = 0.2
MAX_RETRY_S = 2.0
POOL_CLOSE_S = 5.0
QUICK_CONNECTIONS = 4
MAX_PROBLEM_CHARS = 200

# What can go wrong while the database starts, answers or returns; anything else is a bug, and ends the supervisor.
_FAILURES = (
    psycopg.Error,
    OSError,
    TimeoutError,
    UnicodeError,  # psycopg's own encoding of an odd host name, such as `my..host`.
    subprocess.SubprocessError,
    EmbeddedPostgresError,
    MigrationFailedError,
)

OUTAGES = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError, OSError, TimeoutError)
"""What may be over when a request is sent again; `InternalError` is also a server that became read-only."""
DATA_ERRORS = (psycopg.DataError, UnicodeEncodeError)
"""What is wrong with the values of a statement, and stays so."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class _StartingPool(AsyncConnectionPool[AsyncConnection[DictRow]]):
    """A pool whose users wait, before their first connection, for a database that is still starting."""

    def __init__(self, *arguments: Any, wait_started: StartWait, **options: Any) -> None:
        self._wait_started = wait_started
        super().__init__(*arguments, **options)

    async def getconn(self, timeout: float | None = None) -> AsyncConnection[DictRow]:  # noqa: ASYNC109 - psycopg's own
        """As ever, and `timeout` begins once the database has started."""
        await self._wait_started()
        return await super().getconn(timeout)


class Database:
    """PostgreSQL, the server's own or the one `DATABASE_URL` names. It may be down: `state` says so."""

    def __init__(self, settings: Settings) -> None:
        self._timeout_s = settings.database_timeout_s
        self._start_wait_s = settings.database_start_wait_s
        self._embedded: EmbeddedPostgres | None = None
        if settings.database_url is None:
            self._embedded = EmbeddedPostgres(settings.data_dir / "pg")
            try:
                self._uri = self._embedded.uri
            except PermissionError as error:
                message = f"DATA_DIR: {self._embedded.directory} belongs to another user; run as its owner"
                raise ConfigurationError(message) from error
        else:
            self._uri = _libpq_uri(settings.database_url.get_secret_value())
        self._state: DatabaseState = "starting"
        self._reason: str | None = "the database is starting"
        self._ready = asyncio.Event()
        self._started = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool = self._create_pool("database", settings.database_pool_size, is_checked=True)
        self._quick_pool = self._create_pool("quick", QUICK_CONNECTIONS, is_checked=False)

    @property
    def state(self) -> DatabaseState:
        return self._state

    @property
    def reason(self) -> str | None:
        """Why it is not ready, in words safe to show; the log has the details."""
        return self._reason

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that the connections belong to; `None` before it is opened."""
        return self._loop

    @property
    def uri(self) -> str:
        """The address, with its password if it has one: not for logs."""
        return self._uri

    @property
    def pool(self) -> DatabasePool:
        """One object for the life of the server. While the database is down it raises a `psycopg.OperationalError`."""
        return self._pool

    @property
    def quick_pool(self) -> DatabasePool:
        """For what is asked on every turn: a connection is not tried out before it is handed over (a round trip).

        After an outage the supervisor throws broken ones away; until then they raise a `psycopg.OperationalError`.
        """
        return self._quick_pool

    async def open(self) -> None:
        """Start connecting and return: the server must not wait for its database, nor fail without it."""
        self._loop = asyncio.get_running_loop()
        self._supervisor = asyncio.create_task(self._supervise(), name="database supervisor")
        self._supervisor.add_done_callback(self._supervisor_ended)

    async def close(self) -> None:
        """Close every connection and leave the embedded server, which stops with its last user."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
            await asyncio.wait({supervisor})
        self._mark("down", "the database is closed")
        for pool in (self._pool, self._quick_pool):
            await pool.close(timeout=POOL_CLOSE_S)
        if self._embedded is not None:
            await asyncio.to_thread(self._embedded.leave)

    async def wait_ready(self, timeout_s: float) -> bool:
        """True as soon as the database is ready; false when it is not within `timeout_s`."""
        try:
            await asyncio.wait_for(self._ready.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def wait_started(self) -> None:
        """Returns once it is known whether the database is ready or down, at once but in the first seconds.

        At most DATABASE_START_WAIT_S: a first start makes the database's files, which takes some seconds.
        """
        if self._state != "starting" or self._supervisor is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._start_wait_s):
                await self._started.wait()

    async def ping(self) -> None:
        """One round trip. Raises a `psycopg.OperationalError` or a `TimeoutError` when the database is down."""
        await self.wait_started()
        if self._state != "ready":
            raise psycopg.OperationalError(self._reason or "the database is not ready")
        async with asyncio.timeout(self._timeout_s), self._pool.connection() as connection:
            await connection.execute("SELECT 1")

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection[DictRow]]:
        """A connection of the pool. Raises `DatabaseUnavailable` when there is none, or when it breaks meanwhile."""
        await self.wait_started()
        if self._state != "ready":
            raise DatabaseUnavailable(f"{self._reason or 'the database is not ready'}: try again soon")
        try:
            async with self._pool.connection() as connection:
                yield connection
        except psycopg.errors.DiskFull as error:
            raise StorageFull("the database's disk is full: nothing was stored") from error
        except DATA_ERRORS as error:
            raise unstorable(error) from error
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise DatabaseUnavailable("the database does not answer: try again soon") from error

    async def _supervise(self) -> None:
        """Connect, watch, and start again for as long as the server lives."""
        retry_s = FIRST_RETRY_S
        while True:
            try:
                connection = await self._connect()
                try:
                    await self._prepare(connection)
                    self._mark("ready", None)
                    retry_s = FIRST_RETRY_S
                    await self._watch(connection)
                finally:
                    await connection.close()
            except _FAILURES as error:
                self._mark("down", _safe_reason(error), detail=str(error))
            await asyncio.sleep(retry_s * random.uniform(0.8, 1.2))  # noqa: S311  (replicas should not knock together)
            retry_s = min(retry_s * 2, MAX_RETRY_S)

    async def _connect(self) -> AsyncConnection[DictRow]:
        if self._embedded is not None:
            self._uri = await asyncio.to_thread(self._embedded.join)
        return await AsyncConnection.connect(
            self._uri, autocommit=True, row_factory=dict_row, **self.connection_options()
        )

    async def _prepare(self, connection: AsyncConnection[DictRow]) -> None:
        version = connection.info.server_version
        if version < MIN_SERVER_VERSION:
            raise MigrationFailedError(f"PostgreSQL {version // 10000} is too old: 15 or later is needed")
        if not is_current(await find_version(connection)):
            await asyncio.to_thread(migrate, self._uri, self._connect_timeout_s)
        for pool in (self._pool, self._quick_pool):
            await pool.open()
            # After an outage: throw away the connections it broke, before anyone meets them.
            await pool.check()

    async def _watch(self, connection: AsyncConnection[DictRow]) -> None:
        """Returns by raising, when the database stops answering. Its own connection: a busy pool is not an outage."""
        while True:
            await asyncio.sleep(PROBE_S)
            async with asyncio.timeout(self._timeout_s):
                await connection.execute("SELECT 1")

    def _mark(self, state: DatabaseState, reason: str | None, *, detail: str | None = None) -> None:
        changed = state != self._state or reason != self._reason
        self._state, self._reason = state, reason
        self._started.set()
        if state == "ready":
            self._ready.set()
        else:
            self._ready.clear()
        if changed and detail is not None:
            logger.warning("the database is down", extra={"reason": detail})
        elif changed:
            logger.info("the database is %s", state)

    def _supervisor_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._mark("down", "the database's supervisor stopped")
            logger.error("the database's supervisor stopped", exc_info=error)

    def _current_uri(self) -> str:
        return self._uri

    @property
    def _connect_timeout_s(self) -> int:
        return max(2, math.ceil(self._timeout_s))  # libpq knows whole seconds, two at least.

    def _create_pool(self, name: str, max_size: int, *, is_checked: bool) -> DatabasePool:
        return _StartingPool(
            self._current_uri,  # The embedded server's socket may move when it restarts.
            connection_class=AsyncConnection[DictRow],
            kwargs=self.connection_options() | {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row},
            min_size=1,
            max_size=max_size,
            timeout=self._timeout_s,
            # The pool's own retries slow down up to minutes; giving up early, it tries again when it is next asked.
            reconnect_timeout=2.0,
            check=AsyncConnectionPool.check_connection if is_checked else None,
            name=name,
            open=False,
            wait_started=self.wait_started,
        )

    def connection_options(self) -> dict[str, Any]:
        """What the address leaves open: a network that swallows packets must be noticed within seconds."""
        defaults: dict[str, Any] = {
            "connect_timeout": self._connect_timeout_s,
            "application_name": "routeur",
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 15_000,
        }
        chosen = conninfo_to_dict(self._uri)
        return {name: value for name, value in defaults.items() if name not in chosen}


def _libpq_uri(url: str) -> str:
    """The address for libpq, from what people paste: `postgresql+asyncpg://` names a driver libpq does not know."""
    uri = re.sub(r"^(postgres(?:ql)?)\+\w+://", r"\1://", url)
    try:
        conninfo_to_dict(uri)
    except psycopg.Error:
        # Without the cause: it may quote the password.
        raise ConfigurationError("DATABASE_URL: not an address of a PostgreSQL database (postgresql://…)") from None
    return uri


def _safe_reason(error: BaseException) -> str:
    match error:
        case MissingExtensionError():
            return str(error)
        case MigrationFailedError():
            return "the database answers but its schema could not be brought up to date"
        case EmbeddedPostgresError():
            return "the embedded PostgreSQL does not start"
        case _:
            return "the database does not answer"


def unstorable(error: Exception) -> BadRequest:
    """For one of `DATA_ERRORS`: a value is the caller's matter, and sending it again does not help."""
    if isinstance(error, UnicodeEncodeError):
        problem = "a text with half of a surrogate pair"
    else:
        problem = (str(error).splitlines() or ["a value out of range"])[0][:MAX_PROBLEM_CHARS]
    return BadRequest(f"a value of the request cannot be looked up or stored: {problem}")


def storable(text: str) -> str:
    """The text as PostgreSQL can hold it, of the same length: without NUL and halves of surrogate pairs."""
    return _UNSTORABLE.sub("\ufffd", text)


def storable_json(value: Any) -> Any:
    """The same of a whole document: every text in it, and no number that JSON does not know."""
    match value:
        case str():
            return storable(value)
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {storable(str(key)): storable_json(content) for key, content in value.items()}
        case list() | tuple():
            return [storable_json(item) for item in value]
        case _:
            return value
