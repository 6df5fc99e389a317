"""A process of ours that handles what we do not trust: started bare and bounded, heard line by line, always ended."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.child_bounds import OUT_OF_MEMORY

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {
    "PATH": os.defpath,
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""Nothing of the server's, which holds its keys. The same file gives the same answer: no random hashes either. A thread
of numpy's for every core would only take up address space."""
_REAP_S = 10.0


def signal_name(number: int) -> str:
    """For a message."""
    try:
        return signal.Signals(number).name
    except ValueError:  # Most of the real-time signals have no name.
        return f"signal {number}"


class ChildEnded(Exception):
    """The process ended and has said all; `how` is safe to show."""

    def __init__(self, status: int) -> None:
        self.out_of_memory = status == OUT_OF_MEMORY
        self.out_of_time = status == -signal.SIGXCPU
        self.how = f"with status {status}" if status >= 0 else f"by {signal_name(-status)}"
        super().__init__(self.how)


class LineTooLong(Exception):
    """The process said more at once than it should."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the process may take in all: processor time, resident memory, and the size of a file it writes."""

    cpu_s: int
    memory_bytes: int
    max_file_bytes: int


def bounded_command(module: str, bounds: Bounds, *arguments: object) -> list[str]:
    """Runs the module's `main`, within the bounds. `arguments` are its own: it works in another folder."""
    numbers = (os.getpid(), bounds.cpu_s, bounds.memory_bytes, bounds.max_file_bytes)
    return [sys.executable, "-m", "core.child_bounds", module, *map(str, (*numbers, *arguments))]


class BoundedChild:
    """The process at work: what it says, and what it is asked for."""

    def __init__(self, process: Process, said: asyncio.StreamReader, asked: int | None) -> None:
        self._process = process
        self._said = said
        self._asked = asked

    async def read_line(self, within_s: float) -> bytes:
        """What it says next. Raises `TimeoutError`, `LineTooLong`, or `ChildEnded` when there is no more."""
        try:
            async with asyncio.timeout(within_s):
                return await self._said.readuntil(b"\n")
        except asyncio.LimitOverrunError:
            raise LineTooLong from None
        except asyncio.IncompleteReadError:
            async with asyncio.timeout(_REAP_S):
                raise ChildEnded(await self._process.wait()) from None

    def ask(self, line: bytes) -> None:
        """A short line on its standard input, once it has answered the one before: the pipe has room for it."""
        if self._asked is None:
            raise RuntimeError("the process was started without a pipe to ask it by")
        with contextlib.suppress(BrokenPipeError):  # It ended: reading will tell.
            os.write(self._asked, line)


@contextlib.asynccontextmanager
async def run_bounded(
    command: Sequence[str], *, max_line_bytes: int, asked: bool = False, pass_fds: tuple[int, ...] = ()
) -> AsyncIterator[BoundedChild]:
    """The process, in a session of its own, which is killed at the end of the block.

    Its pipes are ours, not asyncio's: one with unread lines would keep asyncio's process open after its end.
    """
    said = asyncio.StreamReader(limit=max_line_bytes)
    with contextlib.ExitStack() as pipes:
        process, pipe, question = await _start(command, pipes, asked=asked, pass_fds=pass_fds)
        transport = None
        try:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_connection(lambda: asyncio.StreamReaderProtocol(said), sock=pipe)
            yield BoundedChild(process, said, question)
        finally:
            try:
                if transport:
                    transport.close()
                else:
                    pipe.close()  # A socket may be closed twice: the loop does so as well when it is cancelled.
            finally:
                await _end(process)


async def _start(
    command: Sequence[str], pipes: contextlib.ExitStack, *, asked: bool, pass_fds: tuple[int, ...]
) -> tuple[Process, socket.socket, int | None]:
    """The process, our end of the pipe it speaks into, and our end of the pipe it is asked by, which `pipes` closes."""
    # Not a pipe: uvloop closes the number of one a second time, which may be another file's by then.
    pipe, its_output = socket.socketpair()
    pipe.setblocking(False)
    its_input, question = DEVNULL, None
    with contextlib.ExitStack() as its:
        its.callback(its_output.close)
        if asked:
            its_input, question = os.pipe()
            its.callback(os.close, its_input)
            pipes.callback(os.close, question)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=ROOT,
                env=ENVIRONMENT,
                stdin=its_input,
                stdout=its_output.fileno(),
                stderr=DEVNULL,
                pass_fds=pass_fds,
                start_new_session=True,
            )
        except BaseException:
            pipe.close()
            raise
    return process, pipe, question


async def _end(process: Process) -> None:
    if process.returncode is None:
        # PermissionError: what macOS says of a group of which a zombie alone is left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    async with asyncio.timeout(_REAP_S):  # A killed process ends at once, unless its disk hangs.
        await process.wait()
