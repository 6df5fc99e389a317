"""Starting the process that owns the model, once for all workers, and knowing how it ended."""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from core.private_files import make_private_folder, open_private
from domain.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
MAX_SOCKET_PATH_BYTES = 103
"""The shortest limit of the systems we run on: 104 bytes with the final zero on macOS, 108 on Linux."""
_POLL_S = 0.02
_LOG_END_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class ChildPlan:
    """What the process is to serve, and where it is found."""

    model: str
    weights: Path
    context_tokens: int
    parallel: int
    socket: Path
    lock: Path
    log: Path

    @property
    def command(self) -> list[str]:
        wanted = {
            "--socket": self.socket,
            "--weights": self.weights.resolve(),
            "--model": self.model,
            "--context": self.context_tokens,
            "--parallel": self.parallel,
        }
        arguments = [str(part) for option in wanted.items() for part in option]
        return [sys.executable, "-m", "services.local_models.child", *arguments]


def start_child(plan: ChildPlan) -> "Child | None":
    """The process, started; `None` when another worker's already lives. A few milliseconds, once."""
    for folder in (plan.lock.parent, plan.log.parent):
        make_private_folder(folder)
    lock = os.open(plan.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with open_private(plan.log) as log:
            # The child inherits the locked file and so holds the lock for as long as it lives, whoever started it.
            # Its own session: Ctrl-C in the terminal is for the server, which then takes leave of it properly.
            process = subprocess.Popen(
                plan.command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock],
                start_new_session=True,
            )
    except BlockingIOError:
        return None
    finally:
        os.close(lock)
    return Child(process, plan.log)


class Child:
    """A process this worker started and must reap."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    async def wait(self, timeout_s: float) -> bool:
        """Whether it ended in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self.has_ended:  # noqa: ASYNC110 — nothing announces the end of a process on every system.
                    await asyncio.sleep(_POLL_S)
        return self.has_ended

    async def end(self) -> None:
        """By force: it did not answer."""
        self._process.kill()
        await self.wait(1.0)

    def release(self) -> None:
        """It goes on for other workers, or ends on its own once it notices that it is alone."""
        if self._process.poll() is None:
            self._process.returncode = 0  # Popen would otherwise warn that we forgot it. We are leaving too.

    def last_words(self) -> str:
        """How it ended, and the first error in its log."""
        code = self._process.wait()
        if code >= 0:
            how = f"it ended with status {code}"
        else:
            out_of_memory = " (out of memory?)" if -code == signal.SIGKILL else ""
            how = f"it was ended by {signal.Signals(-code).name}{out_of_memory}"
        error = first_error(self._log)
        return f"{how}: {error}" if error else how


def first_error(log: Path) -> str | None:
    """The line that tells most, without llama.cpp's clock and level."""
    with log.open("rb") as file:
        lines = file.read(_LOG_END_BYTES).decode("utf-8", errors="replace").splitlines()
    errors = [line.split(" E ", 1)[1] for line in lines if " E " in line]
    if errors:
        return errors[0]
    return lines[-1] if lines else None


def socket_path(run_directory: Path, model: str) -> Path:
    """Unix sockets have short names: a deep DATA_DIR moves it to a private folder under the temporary directory."""
    name = f"local-{file_name(model)}.sock"
    path = run_directory.resolve() / name
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        return path
    mark = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return _private_directory(Path(tempfile.gettempdir()) / f"routeur-{os.getuid()}") / f"{mark}.sock"


def file_name(model: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", model)


def _private_directory(path: Path) -> Path:
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigurationError(f"{str(path)!r} must be a directory only you can read: remove it, or shorten DATA_DIR")
    return path
