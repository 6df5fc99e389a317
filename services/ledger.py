"""The ledger: one row a run, in PostgreSQL; while the database is down, in a journal on disk.

Policy: fails open. Recording never raises and never waits for the database. Rows that the disk does not take wait in
memory, up to a bound; what neither takes is dropped and counted. A run that begins leaves a row too, for a process that
is killed: `services/ledger_intents.py`.
"""

import asyncio
import json
import logging
import math
import re
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import orjson
import psycopg

from core.database import Database
from domain.runs import RunRecord
from services.ledger_journal import BATCH_BYTES, Journal, JournalClosedError, JournalFullError, read_batch

logger = logging.getLogger("routeur.ledger")

ADOPT_S = 30.0  # A sibling killed with -9 leaves its rows to whoever looks next.
RETRY_S = 1.0
POLL_S = 0.1
WRITE_TIMEOUT_S = 30.0
STOP_S = 5.0
RECOVERY_S = 1.0
"""How long a disk must refuse no row to count as well: one with room for a single block takes some, not others."""
MEMORY_SHARE = 4
"""Rows in memory may take a quarter of what those in the journal may."""

# PostgreSQL reads the JSON itself: no parsing and no list of columns here. `*` has the table's own order on both sides.
_INSERT = """
    INSERT INTO runs SELECT * FROM jsonb_populate_recordset(NULL::runs, %s::jsonb)
    ON CONFLICT (run_id) DO NOTHING
"""

# Faults of the row itself: it would be refused again. Every other failure is the database's, and may pass.
_ROW_FAULTS = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.ProgramLimitExceeded)
_DATABASE_FAULTS = (psycopg.Error, OSError, TimeoutError)

# PostgreSQL has no NUL in text. After an odd number of backslashes, `u0000` is that character; else it is plain text.
_ESCAPED_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


LedgerState = Literal["ready", "waiting for the database", "degraded", "dropping"]
"""`degraded`: what is recorded would not survive this process. `dropping`: rows are being lost."""


@dataclass(frozen=True, slots=True)
class LedgerStatus:
    """For readiness and metrics: `pending` waits on disk or in memory, `rejected` is set aside, `dropped` is lost."""

    state: LedgerState
    pending_rows: int
    pending_bytes: int
    memory_rows: int
    """Those of the pending rows that would not survive the process: the disk does not take them."""
    dropped_rows: int
    rejected_rows: int
    last_error: str | None
    """Safe to show: a kind of error, never a row. `None` once it has passed."""


class Ledger:
    """Rows recorded here are stored once, in order, whatever dies in between. Used from the event loop's thread."""

    def __init__(self, database: Database, directory: Path, *, max_pending_bytes: int, flush_s: float) -> None:
        self._database = database
        self._journal = Journal(directory, max_pending_bytes)
        self._flush_s = flush_s
        self._dropped_rows = 0
        self._rejected_rows = 0
        self._memory: deque[bytes] = deque()
        self._memory_bytes = 0
        self._max_memory_bytes = max_pending_bytes // MEMORY_SHARE
        self._disk_error: str | None = None
        self._disk_refused_at = 0.0
        self._disk_takes = True
        self._dropping = False
        self._stopping = False
        self._stopped = False
        self._last_error: str | None = None
        self._work = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the journal and begin to write. A full disk is no reason not to start: it is tried again."""
        self._open_journal()
        self._writer = asyncio.create_task(self._write_for_ever(), name="ledger writer")
        self._writer.add_done_callback(self._writer_ended)

    def begin(self, record: RunRecord) -> None:
        """Keep the row that a run is to leave if this process dies before the run ends: its status is `lost`."""
        intents = self._journal.intents
        if intents is None:
            return
        try:
            intents.begin(record.run_id, _encode(record))
        except (OSError, TypeError, ValueError, RecursionError) as error:
            self._degrade(error)

    def record(self, record: RunRecord) -> None:
        """Keep one row. Once this returns, the row survives the death of this process, if the disk takes it."""
        try:
            line = _encode(record)
        except (TypeError, ValueError, RecursionError) as error:
            self._drop(error)
            return
        try:
            self._journal.append(line)
        except JournalFullError as error:
            self._drop(error)
            return
        except OSError as error:
            if not self._keep_in_memory(line, error):
                return
        else:
            if self._disk_error is not None or self._dropping:
                self._note_recovery()
        self.abandon(record.run_id)
        self._work.set()

    def abandon(self, run_id: UUID) -> None:
        """Forget what `begin` kept: the run has left its row, or is none after all."""
        if self._journal.intents is not None:
            self._journal.intents.settle(run_id)

    async def stop(self) -> None:
        """Write what can be written within a few seconds; the rest stays in the journal for the next start."""
        self._stopping = True
        self._work.set()
        writer, self._writer = self._writer, None
        if writer is not None:
            await asyncio.wait({writer}, timeout=STOP_S)
            writer.cancel()
            await asyncio.wait({writer})
        self._stopped = True
        self._move_to_journal()
        while self._memory:
            self._memory.pop()
            self._drop(JournalClosedError("the process ends, and neither the disk nor the database takes the row"))
        if self._journal.pending_rows:
            logger.warning("ledger rows wait for the next start", extra={"pending_rows": self._journal.pending_rows})
        self._journal.close()

    def status(self) -> LedgerStatus:
        return LedgerStatus(
            state=self._state(),
            pending_rows=self._pending_rows,
            pending_bytes=self._journal.pending_bytes + self._memory_bytes,
            memory_rows=len(self._memory),
            dropped_rows=self._dropped_rows,
            rejected_rows=self._rejected_rows,
            last_error=self._last_error or self._why_disk_is_unwell(),
        )

    def _state(self) -> LedgerState:
        if self._dropping:
            return "dropping"
        if self._memory or self._why_disk_is_unwell() is not None:
            return "degraded"
        waiting = self._journal.pending_rows > 0 and self._database.state != "ready"
        return "waiting for the database" if waiting else "ready"

    @property
    def _pending_rows(self) -> int:
        return self._journal.pending_rows + len(self._memory)

    async def _write_for_ever(self) -> None:
        """Adopt, write, wait; until stopped, then once more."""
        loop = asyncio.get_running_loop()
        adopt_at = loop.time()
        while True:
            last_time = self._stopping
            try:
                if loop.time() >= adopt_at and self._open_journal():
                    adopt_at = loop.time() + ADOPT_S
                    await self._adopt()
                if self._database.state == "ready":
                    await self._write_pending()
                    await self._write_memory()
                else:
                    self._move_to_journal()
                if self._journal.intents is not None:
                    self._journal.intents.compact()
            except _DATABASE_FAULTS as error:
                self._note_failure(error)
            if last_time:
                return
            await self._wait_for_work(adopt_at - loop.time())

    async def _wait_for_work(self, longest_s: float) -> None:
        """Until rows came and the database can take them. Rows that came together are written together."""
        if self._pending_rows == 0:
            self._work.clear()
            if self._stopping:
                return  # `stop` rang while the writer was busy: waiting now would miss it.
            try:
                await asyncio.wait_for(self._work.wait(), max(RETRY_S, longest_s))
            except TimeoutError:
                return
            await self._pause(self._flush_s)
        elif self._database.state == "ready":
            await self._pause(RETRY_S if self._last_error else self._flush_s)
        elif not self._stopping:
            await self._database.wait_ready(POLL_S)

    async def _pause(self, seconds: float) -> None:
        """A sleep that `stop` cuts short."""
        for _ in range(max(1, round(seconds / POLL_S))):
            if self._stopping:
                return
            await asyncio.sleep(min(seconds, POLL_S))

    async def _write_pending(self) -> None:
        """Every row pending now, in batches read from disk: memory stays bounded whatever waits."""
        remaining = self._journal.pending_rows  # Those that come meanwhile are written together, later.
        while remaining > 0 and (segment := self._journal.find_work()) is not None:
            batch = await asyncio.to_thread(read_batch, segment, segment.size)
            if batch.lines:
                await self._write(batch.lines)
            self._journal.commit(segment, batch)
            remaining -= len(batch.lines)
            if self._last_error is not None and not self._dropping:
                self._last_error = None
                logger.info("the ledger writes to the database again")

    async def _write_memory(self) -> None:
        """The rows that the disk does not take, straight into the database. A row leaves memory once it is there."""
        while self._memory:
            lines, size = [], 0
            for line in self._memory:
                lines.append(line)
                size += len(line)
                if size >= BATCH_BYTES:
                    break
            await self._write(lines)
            for _ in lines:
                self._memory.popleft()
            self._memory_bytes -= size
            self._end_dropping()

    def _move_to_journal(self) -> None:
        """While the database is down, a disk that takes rows again is where they are safe."""
        while self._memory:
            try:
                self._journal.append(self._memory[0])
            except OSError:
                return
            self._memory_bytes -= len(self._memory.popleft())
            self._note_recovery()

    def _keep_in_memory(self, line: bytes, error: OSError) -> bool:
        """Whether there is room for a row that the disk did not take."""
        if self._stopped or self._memory_bytes + len(line) > self._max_memory_bytes:
            self._drop(error)
            return False
        self._memory.append(line)
        self._memory_bytes += len(line)
        self._degrade(error)
        return True

    def _degrade(self, error: BaseException) -> None:
        self._disk_takes = False
        self._disk_refused_at = time.monotonic()
        if self._disk_error is None:
            self._disk_error = f"the disk takes no rows, they wait in memory: {_in_words(error)}"
            logger.error("ledger degraded: the disk takes no rows, they wait in memory", extra=_describe(error))

    def _note_recovery(self) -> None:
        """The disk has taken a row."""
        self._disk_takes = True
        self._why_disk_is_unwell()
        self._end_dropping()

    def _why_disk_is_unwell(self) -> str | None:
        """It counts as well again when it takes rows and has refused none for a while."""
        is_well = self._disk_takes and time.monotonic() - self._disk_refused_at >= RECOVERY_S
        if self._disk_error is not None and is_well:
            self._disk_error = None
            logger.warning("ledger journal writes resumed", extra={"memory_rows": len(self._memory)})
        return self._disk_error

    def _end_dropping(self) -> None:
        if self._dropping:
            self._dropping = False
            self._last_error = None
            logger.warning("the ledger keeps rows again", extra={"dropped_rows": self._dropped_rows})

    async def _write(self, lines: list[bytes]) -> None:
        """One statement for all; when a row is at fault, halves, down to the row itself."""
        rows = _ESCAPED_NUL.sub(r"\1", b",".join(lines).decode("utf-8", "replace"))
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S), self._database.pool.connection() as connection:
                await connection.execute(_INSERT, (f"[{rows}]",))
        except _ROW_FAULTS as error:
            if len(lines) == 1:
                await self._reject(lines[0], error)
                return
            middle = len(lines) // 2
            await self._write(lines[:middle])
            await self._write(lines[middle:])

    async def _reject(self, line: bytes, error: psycopg.Error) -> None:
        self._rejected_rows += 1
        logger.error("the database refuses a ledger row; it is set aside in rejected.jsonl", extra=_describe(error))
        try:
            await asyncio.to_thread(self._journal.reject, line, f"{type(error).__name__}: {error}")
        except OSError as full:
            self._drop(full)

    async def _adopt(self) -> None:
        rows = self._journal.add(await asyncio.to_thread(self._journal.adopt_dead))
        if rows:
            logger.info("adopted the ledger rows of dead processes", extra={"adopted_rows": rows})

    def _open_journal(self) -> bool:
        if self._journal.is_open:
            return True
        try:
            self._journal.open()
        except OSError as error:
            self._note_failure(error)
        return self._journal.is_open

    def _drop(self, error: BaseException) -> None:
        self._dropped_rows += 1
        self._last_error = f"rows are dropped: {_in_words(error)}"
        if not self._dropping:
            self._dropping = True
            logger.error("the ledger drops rows", extra=_describe(error))

    def _note_failure(self, error: BaseException) -> None:
        if self._last_error is None:
            logger.warning("ledger writes failed; rows wait", extra=_describe(error))
        self._last_error = self._last_error or f"rows wait: {_in_words(error)}"

    def _writer_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._last_error = "the ledger's writer stopped"
            logger.error("the ledger's writer stopped", exc_info=error)


def _in_words(error: BaseException) -> str:
    """For `/ready`: the system's or the database's own word for it."""
    code = getattr(error, "sqlstate", None)
    if code:
        return f"the database answered {code}"
    return getattr(error, "strerror", None) or "the server's log says why"


def _describe(error: BaseException) -> Mapping[str, Any]:
    """For the log. A database's message may quote the row, which holds no prompt and no secret."""
    return {"error": type(error).__name__, "reason": str(error)}


def _encode(record: RunRecord) -> bytes:
    try:
        return orjson.dumps(record, default=_plain, option=orjson.OPT_NAIVE_UTC | orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        # Half a surrogate pair in a name, a number beyond 64 bits: rare, and no reason to lose the row.
        row = {field.name: _mend(getattr(record, field.name)) for field in fields(record)}
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else str(value)


def _mend(value: object) -> object:
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(_mend(key)): _mend(content) for key, content in value.items()}
        case list() | tuple():
            return [_mend(item) for item in value]
        case None | int():
            return value
        case _:
            return str(value)
