"""The ledger's journal: rows that wait for the database, in files that outlive this process.

One process appends to one file, `<owner>.<number>.jsonl`, and holds a lock on `<owner>.lock` while it lives. Rows that
were handed to the kernel survive a kill -9 of the process (not a power cut: nothing is synced to the disk). A file
whose owner's lock is free belongs to a dead process: whoever takes the lock writes its rows.
"""

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import orjson

from core.private_files import make_private_folder
from services.ledger_intents import IntentLog, newest_of_each_run

BATCH_BYTES = 256_000  # About 400 rows: one statement of a few milliseconds.
SEGMENT_BYTES = 4_000_000  # A busy file is left behind at this size, so that its space comes back.
REJECTED_NAME = "rejected.jsonl"
_SEGMENT_NAME = re.compile(r"([0-9a-f]{32})\.(\d{8})\.jsonl")
_LOCK_NAME = re.compile(r"([0-9a-f]{32})\.(?:lock|intents)")
LOST_SEGMENT = 99_999_999
"""The number of the file that a dead process's unfinished runs become: it comes after the rows of those that ended."""


class JournalFullError(OSError):
    """The rows that wait fill the room they are allowed."""


class JournalClosedError(OSError):
    """The journal is not open."""


@dataclass(slots=True)
class Owner:
    """A process's lock on its files; it is free as soon as the process is dead."""

    name: str
    path: Path
    descriptor: int

    def release(self, *, unlink: bool) -> None:
        if unlink:
            self.path.unlink(missing_ok=True)
        os.close(self.descriptor)


@dataclass(slots=True, eq=False)
class Segment:
    """One file of rows. What lies before `done_bytes` is in the database."""

    owner: Owner
    path: Path
    descriptor: int
    size: int = 0
    rows: int = 0
    done_bytes: int = 0
    done_rows: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Whole lines of a segment, and where they end."""

    lines: list[bytes]
    end: int


class Journal:
    """The files of this process and those it adopted, oldest first. Used from one thread but where said otherwise."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._owner: Owner | None = None
        self._live: Segment | None = None
        self.intents: IntentLog | None = None
        self._segments: list[Segment] = []
        self._next_number = 0

    @property
    def is_open(self) -> bool:
        return self._live is not None

    @property
    def pending_rows(self) -> int:
        return sum(segment.rows - segment.done_rows for segment in self._segments)

    @property
    def pending_bytes(self) -> int:
        return sum(segment.size - segment.done_bytes for segment in self._segments)

    def open(self) -> None:
        make_private_folder(self._directory)
        owner = _create_owner(self._directory)
        intents = None
        try:
            intents = IntentLog.create(self._directory / f"{owner.name}.intents")
            self._live = self._create_segment(owner)
        except OSError:
            if intents is not None:
                intents.close()
            owner.release(unlink=True)
            raise
        self._owner, self.intents = owner, intents
        self._segments.append(self._live)

    def append(self, line: bytes) -> None:
        """Hand one row to the kernel, or raise an `OSError` and leave no trace of it."""
        live = self._live
        if live is None:
            raise JournalClosedError("the ledger's journal is not open")
        if sum(segment.size for segment in self._segments) + len(line) > self._max_bytes:
            raise JournalFullError(f"more than {self._max_bytes} bytes of rows wait for the database")
        try:
            written = os.write(live.descriptor, line)
            if written != len(line):
                raise OSError(errno.ENOSPC, "the disk took a part of a row only")
        except OSError:
            # A half-written line would spoil the next one.
            with contextlib.suppress(OSError):
                os.ftruncate(live.descriptor, live.size)
            raise
        live.size += len(line)
        live.rows += 1

    def find_work(self) -> Segment | None:
        """The oldest segment with rows to write. A grown live file is left behind for a new one first."""
        live, owner = self._live, self._owner
        if live is not None and owner is not None and live.size >= SEGMENT_BYTES:
            # Without room for a new file, the old one goes on.
            with contextlib.suppress(OSError):
                self._live = self._create_segment(owner)
                self._segments.append(self._live)
        return next((segment for segment in self._segments if segment.size > segment.done_bytes), None)

    def commit(self, segment: Segment, batch: Batch) -> None:
        """The rows of this batch are in the database: forget them, and the file with its last row."""
        segment.done_bytes = batch.end
        segment.done_rows += len(batch.lines)
        if segment.done_bytes < segment.size:
            return
        if segment is not self._live:
            self._remove(segment)
            return
        os.ftruncate(segment.descriptor, 0)
        segment.size = segment.rows = segment.done_bytes = segment.done_rows = 0

    def adopt_dead(self) -> list[Segment]:
        """Take the files of dead processes, to be given to `add`. Reads them through: call it from a thread."""
        mine = {segment.owner.name for segment in self._segments} | ({self._owner.name} if self._owner else set())
        adopted: list[list[Segment]] = []
        for name in _owner_names(self._directory) - mine:
            owner = _take_over(self._directory, name)
            if owner is not None and (segments := _open_segments(self._directory, owner)):
                adopted.append(segments)
        # The oldest process first; of each, the rows of its runs before what it left of those that it had not ended.
        adopted.sort(key=lambda segments: os.fstat(segments[0].descriptor).st_mtime)
        return [segment for segments in adopted for segment in segments]

    def add(self, adopted: list[Segment]) -> int:
        """Count adopted files as ours, before our own; how many rows they hold. Files without a row are removed."""
        self._segments[:0] = adopted
        for segment in adopted:
            if segment.size == 0:
                self._remove(segment)
        return sum(segment.rows for segment in adopted)

    def reject(self, line: bytes, reason: str) -> None:
        """Set aside a row the database will never take. Bounded like the rest."""
        path = self._directory / REJECTED_NAME
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            if os.fstat(descriptor).st_size + len(line) > self._max_bytes:
                raise JournalFullError(f"{path} is full")
            rejected = {"reason": reason, "row": line.decode("utf-8", "replace")}
            os.write(descriptor, orjson.dumps(rejected, option=orjson.OPT_APPEND_NEWLINE))
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Release the locks. Files with rows stay, for the next process to adopt."""
        intents, self.intents = self.intents, None
        leaves_intents = intents is not None and intents.close()
        if self._live is not None and self._live.size == 0:
            live, self._live = self._live, None
            self._remove(live)
        self._live = None
        left = {segment.owner.name for segment in self._segments}
        owners = {id(segment.owner): segment.owner for segment in self._segments}
        for segment in self._segments:
            os.close(segment.descriptor)
        self._segments.clear()
        if self._owner is not None:
            owners[id(self._owner)] = self._owner
            if leaves_intents:
                left.add(self._owner.name)
        self._owner = None
        for owner in owners.values():
            owner.release(unlink=owner.name not in left)

    def _create_segment(self, owner: Owner) -> Segment:
        path = self._directory / f"{owner.name}.{self._next_number:08d}.jsonl"
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        self._next_number += 1
        return Segment(owner, path, descriptor)

    def _remove(self, segment: Segment) -> None:
        self._segments.remove(segment)
        segment.path.unlink(missing_ok=True)
        os.close(segment.descriptor)
        owner = segment.owner
        if owner is not self._owner and all(other.owner is not owner for other in self._segments):
            owner.release(unlink=True)


def read_batch(segment: Segment, end: int) -> Batch:
    """The next whole lines before `end`, which ends a line. Blocks a little: call it from a thread."""
    wanted = BATCH_BYTES
    while True:
        content = os.pread(segment.descriptor, min(wanted, end - segment.done_bytes), segment.done_bytes)
        last = content.rfind(b"\n") + 1
        if last or len(content) < wanted:
            return Batch(content[:last].split(b"\n")[:-1], segment.done_bytes + last if last else end)
        wanted *= 2  # One row longer than a batch.


def _create_owner(directory: Path) -> Owner:
    """The lock is taken before the file has the name others look at: nobody can find it free."""
    name = uuid4().hex
    path = directory / f"{name}.lock"
    unnamed = directory / f"{name}.new"
    descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unnamed.rename(path)
    except OSError:
        os.close(descriptor)
        unnamed.unlink(missing_ok=True)
        raise
    return Owner(name, path, descriptor)


def _owner_names(directory: Path) -> set[str]:
    matches = (_SEGMENT_NAME.fullmatch(path.name) or _LOCK_NAME.fullmatch(path.name) for path in directory.iterdir())
    return {match[1] for match in matches if match}


def _take_over(directory: Path, name: str) -> Owner | None:
    """The lock of a dead owner; `None` when it lives, or when another process took it."""
    path = directory / f"{name}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The one who had it may have finished and removed it between our two steps.
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return Owner(name, path, descriptor)
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def _open_segments(directory: Path, owner: Owner) -> list[Segment]:
    """The files of an owner we took over; its lock goes with the last of them."""
    segments: list[Segment] = []
    try:
        _take_intents(directory, owner)
        (directory / f"{owner.name}.intents-new").unlink(missing_ok=True)
        for path in sorted(directory.glob(f"{owner.name}.*.jsonl")):
            segments.append(Segment(owner, path, os.open(path, os.O_RDONLY)))
            _measure(segments[-1])
    except OSError:
        for segment in segments:
            os.close(segment.descriptor)
        owner.release(unlink=False)
        raise
    if not segments:
        owner.release(unlink=True)
    return segments


def _take_intents(directory: Path, owner: Owner) -> None:
    """What a dead process's unfinished runs leave becomes a file of rows like the others."""
    intents = directory / f"{owner.name}.intents"
    with contextlib.suppress(FileNotFoundError):
        content = intents.read_bytes()
        newest = newest_of_each_run(content)
        if len(newest) < len(content):
            with contextlib.suppress(OSError):  # On a full disk, a run's first row stands for it.
                rewritten = intents.with_suffix(".intents-new")
                rewritten.write_bytes(newest)
                rewritten.rename(intents)
        intents.rename(directory / f"{owner.name}.{LOST_SEGMENT:08d}.jsonl")


def _measure(segment: Segment) -> None:
    """Count a dead process's rows. A last line without its end was never acknowledged: it does not count."""
    offset = 0
    for content in _read_through(segment.descriptor):
        segment.rows += content.count(b"\n")
        last = content.rfind(b"\n") + 1
        segment.size = offset + last if last else segment.size
        offset += len(content)


def _read_through(descriptor: int) -> Iterator[bytes]:
    offset = 0
    while content := os.pread(descriptor, 1_000_000, offset):
        yield content
        offset += len(content)
