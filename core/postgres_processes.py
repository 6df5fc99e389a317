"""Which processes run or use the embedded PostgreSQL of a folder, and the lock that lets one of them act at a time."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.private_files import open_private

CLOCK_SLACK_S = 2.0  # psutil derives a process's start from a boot time in whole seconds.


class EmbeddedPostgresError(Exception):
    """The embedded server cannot run; the message says why and what would help."""


@dataclass(frozen=True, slots=True)
class Postmaster:
    """The running server, as its `postmaster.pid` tells it."""

    pid: int
    socket_dir: Path


def find_postmaster(directory: Path) -> Postmaster | None:
    """The live server of this folder. A pid file whose process is gone, a zombie or another program does not count."""
    try:
        lines = (directory / "postmaster.pid").read_text().splitlines()
        pid, socket_dir = int(lines[0]), Path(lines[4])
    except (FileNotFoundError, IndexError, ValueError):
        return None
    return Postmaster(pid, socket_dir) if _serves(pid, directory) else None


def wait_for_orphans(directory: Path, timeout_s: float) -> None:
    """A killed postmaster's children end by themselves, within a moment; until then no new one may start."""
    import psutil

    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        named = [process.pid for process in psutil.process_iter() if _serves(process.pid, directory, unknown=False)]
        if not named:
            return
        time.sleep(0.02)


def living_pids(directory: Path, *, include_self: bool = False) -> list[int]:
    """The processes on the wheel's list (one JSON array) that still live.

    A process killed with -9 stays listed. One younger than the list has only inherited a pid.
    """
    path = _pids_path(directory)
    try:
        listed = json.loads(path.read_text() or "[]")
        written_at = path.stat().st_mtime
    except (FileNotFoundError, ValueError):
        return []
    mine = os.getpid()
    return [
        pid
        for pid in listed
        if (pid == mine and include_self) or (pid != mine and _lives_since(pid, written_at + CLOCK_SLACK_S))
    ]


def write_pids(directory: Path, pids: list[int]) -> None:
    """Replace the wheel's list. The caller holds the lock."""
    path = _pids_path(directory)
    with open_private(path) as file:
        file.write(json.dumps(pids).encode())
    if os.geteuid() == 0:
        owner = directory.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


@contextlib.contextmanager
def locked(directory: Path, timeout_s: float) -> Iterator[None]:
    """One process (or thread) at a time. The lock is on the data folder itself, which other users cannot open."""
    deadline = time.monotonic() + timeout_s
    while True:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if _try_lock(descriptor) and _is_at(descriptor, directory):
                yield
                return
        finally:
            os.close(descriptor)
        if time.monotonic() > deadline:
            raise EmbeddedPostgresError(f"another process has held {directory} for {timeout_s:.0f} s")
        time.sleep(0.02)  # In a thread; flock itself has no timeout.


def _pids_path(directory: Path) -> Path:
    return directory / ".handle_pids.json"


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """False when the folder we locked was replaced (by the cluster just made) while we waited."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _serves(pid: int, directory: Path, *, unknown: bool = True) -> bool:
    import psutil  # See above.

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE or not process.name().startswith("postgres"):
            return False
        # The postmaster works in its data folder; another PostgreSQL may have inherited the pid.
        return Path(process.cwd()).samefile(directory)
    except (psutil.AccessDenied, FileNotFoundError):
        return unknown  # Its folder cannot be read; starting beside a live server would be worse than waiting.
    except psutil.Error:
        return False


def _lives_since(pid: int, moment: float) -> bool:
    import psutil  # See above.

    try:
        process = psutil.Process(pid)
        return bool(process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= moment)
    except psutil.Error:
        return False
