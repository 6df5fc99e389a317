"""What the runs of this process will leave in the ledger if the process dies: a row each, in a file, while they last.

A row is written when its run begins and forgotten when the run's own row is in the journal. The file of a dead process
is a file of rows like any other: the database passes over those whose run has a row already.
"""

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

RUN_ID_BYTES = len('{"run_id":"') + 36
"""With what a row begins."""
STALE_BYTES = 1_000_000
"""How much of the file may belong to runs that have ended before it is rewritten: some 2,000 rows. A new file costs as
much as a hundred of them."""


@dataclass(slots=True)
class IntentLog:
    """One process's file. Used from one thread."""

    path: Path
    _descriptor: int
    _size: int = 0
    _live_bytes: int = 0
    _live: dict[int, bytes] = field(default_factory=dict)
    """The row of each run, by its id's number, whose hash costs nothing."""

    @classmethod
    def create(cls, path: Path) -> "IntentLog":
        """Raises `OSError` where there is no room for it."""
        return cls(path, _create(path))

    def begin(self, run_id: UUID, line: bytes) -> None:
        """Keep a row until `settle`, in the place of an earlier one of the same run.

        Raises `OSError` and leaves no trace of it where the disk takes no more.
        """
        try:
            if os.write(self._descriptor, line) != len(line):
                raise OSError("the disk took a part of a row only")
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(line)
        self._live_bytes += len(line) - len(self._live.get(run_id.int, b""))
        self._live[run_id.int] = line

    def settle(self, run_id: UUID) -> None:
        """The run has left its row: the one kept for it is stale. An unknown run is none of this process's."""
        self._live_bytes -= len(self._live.pop(run_id.int, b""))

    def compact(self) -> None:
        """Forget stale rows, once in a while: what a dead process leaves is then little more than its runs."""
        if not self._live:
            if self._size:
                os.ftruncate(self._descriptor, 0)
                self._size = 0
        elif self._size - self._live_bytes > STALE_BYTES:
            with contextlib.suppress(OSError):  # Without room for a second file the first goes on.
                self._rewrite()

    def close(self) -> bool:
        """Whether rows are left: those of runs that still go on are for whoever adopts the file."""
        if not self._live:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
        return bool(self._live)

    def _rewrite(self) -> None:
        unnamed = self.path.with_suffix(".intents-new")
        content = b"".join(self._live.values())
        unnamed.unlink(missing_ok=True)
        descriptor = _create(unnamed)
        try:
            if os.write(descriptor, content) != len(content):
                raise OSError("the disk took a part of the rows only")
            unnamed.rename(self.path)
        except OSError:
            os.close(descriptor)
            unnamed.unlink(missing_ok=True)
            raise
        os.close(self._descriptor)
        self._descriptor, self._size = descriptor, len(content)


def _create(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)


def newest_of_each_run(content: bytes) -> bytes:
    """The rows of a dead process's file, the last of each run; a last line without its end counts as none."""
    rows: dict[bytes, bytes] = {}
    for line in content.split(b"\n")[:-1]:
        rows[line[:RUN_ID_BYTES]] = line + b"\n"
    return b"".join(rows.values())
