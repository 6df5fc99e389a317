"""The server's side of the process that owns Whisper: started bare, asked one file at a time, always ended."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path
from typing import Any

from core.bounded_child import signal_name
from domain.usage import LocalWork

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = {
    "PATH": os.defpath,
    "LANG": "C.UTF-8",
    "PYTHONUTF8": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_WAIT_POLICY": "passive",
}
"""Nothing of the server's, which holds its keys. Threads that wait for each other sleep: others want the cores."""
MAX_LINE_BYTES = 16 << 20
"""An hour of speech with its segments is a tenth of a megabyte."""
LOAD_TIMEOUT_S = 120.0
"""From a slow disk; a second or two otherwise."""
_END_S = 2.0
_REAP_S = 10.0


class ProcessGone(Exception):
    """It ended, or was ended; the message says how."""


class CannotLoad(Exception):
    """The model's files, or the libraries that read them, are no good. The message is for the log."""


class WhisperProcess:
    """One process with its model loaded, and what it is hearing. One question at a time."""

    def __init__(self, process: Process, model: str) -> None:
        self.model = model
        self.work: LocalWork | None = None
        """What the last question cost, or costs so far."""
        self._process = process
        self._call = 0
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._is_ready = self._is_asked = self._is_gone = False
        self._reading = asyncio.create_task(self._read(), name="whisper-process")

    @classmethod
    async def start(cls, model: str, folder: Path) -> "WhisperProcess":
        """A few milliseconds; the model is loaded once it is `ready`."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.audio.transcribers.whisper_child",
            str(folder),
            str(os.getpid()),
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            limit=MAX_LINE_BYTES,
            start_new_session=True,  # Ctrl-C in the terminal is for the server, which then ends it.
        )
        return cls(process, model)

    async def ready(self) -> None:
        """Returns once the model is loaded. Raises `CannotLoad`, `ProcessGone` or `TimeoutError`."""
        if self._is_ready:
            return
        async with asyncio.timeout(LOAD_TIMEOUT_S):
            said = await self._answer()
        if "cannot_load" in said:
            self.kill()
            raise CannotLoad(said["cannot_load"])
        self._is_ready = True

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def can_be_asked(self) -> bool:
        """Whether it lives, and owes no answer."""
        return not self._is_gone and not self._is_asked

    async def hear(self, path: Path, language: str | None, prompt: str | None) -> dict[str, Any]:
        """Its answer. Raises `ProcessGone`. Who gives up calls `let_go` or `kill` before the next question."""
        self._call += 1
        self.work, self._is_asked = None, True
        self._ask({"hear": self._call, "path": _absolute(path), "language": language, "prompt": prompt})
        answer = await self._answer()
        self._is_asked = False
        return answer

    async def let_go(self, grace_s: float) -> None:
        """Have it stop hearing: between two windows of half a minute, or else by force."""
        self._ask({"cancel": self._call})
        try:
            async with asyncio.timeout(grace_s):
                await self._answer()
            self._is_asked = False
        except (TimeoutError, ProcessGone):
            pass
        finally:
            if self._is_asked:
                self.kill()

    def kill(self) -> None:
        """At once; `end` waits for it."""
        self._is_gone = True
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                # Not asyncio's own `kill`: of a process that has just ended it takes the status from asyncio's watcher.
                os.kill(self._process.pid, signal.SIGKILL)

    async def end(self) -> None:
        """It is told that no question follows, and killed where that is not enough."""
        self._is_gone = True
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(_END_S):
                await self._process.wait()
        except TimeoutError:
            pass
        finally:
            self.kill()
        async with asyncio.timeout(_REAP_S):  # A killed process ends at once, unless its disk hangs.
            await asyncio.wait([self._reading])
            await self._process.wait()

    def _ask(self, message: dict[str, Any]) -> None:
        if self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def _answer(self) -> dict[str, Any]:
        answer = await self._answers.get()
        if not answer:
            raise ProcessGone(await self._how_it_ended())
        return answer

    async def _how_it_ended(self) -> str:
        try:
            async with asyncio.timeout(_REAP_S):
                status = await self._process.wait()
        except TimeoutError:
            return "it does not answer"
        if status >= 0:
            return f"it ended with status {status}"
        out_of_memory = " (out of memory?)" if -status == signal.SIGKILL else ""
        return f"it was ended by {signal_name(-status)}{out_of_memory}"

    async def _read(self) -> None:
        said = self._process.stdout
        try:
            while said is not None and (line := await said.readline()):
                message: dict[str, Any] = json.loads(line)
                if "cpu_s" in message:
                    self.work = LocalWork(cpu_s=message["cpu_s"], ram_gb_s=message["ram_gb_s"])
                if message.keys() - {"hear", "cpu_s", "ram_gb_s"}:
                    self._answers.put_nowait(message)
        except (OSError, ValueError, AttributeError, KeyError):
            self.kill()  # Cut in the middle of a line, or a line too long: the same as an end.
        finally:
            self._is_gone = True
            self._answers.put_nowait({})


def _absolute(path: Path) -> str:
    """The process works in another folder."""
    return str(path.absolute())
