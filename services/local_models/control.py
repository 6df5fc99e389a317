"""A worker's connection to the process that owns the model: its presence there, and the metering of its calls."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

from domain.usage import LocalWork

ANSWER_TIMEOUT_S = 2.0
"""The process answers in well under a millisecond, unless every core is taken."""
GOODBYE_TIMEOUT_S = 1.0


class ControlClosed(Exception):
    """The process ended, or never answered."""


class ControlConnection:
    """Open from the first connect to `close`; `closed` is set as soon as the process is gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.closed = asyncio.Event()
        self._reader = reader
        self._writer = writer
        self._next_call = 0
        self._work: dict[int, asyncio.Future[LocalWork | None]] = {}
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read(), name="local-model-control")

    @classmethod
    async def open(cls, path: Path) -> "ControlConnection":
        """Raises `FileNotFoundError` or `ConnectionRefusedError` when no process listens there."""
        reader, writer = await asyncio.open_unix_connection(str(path))
        return cls(reader, writer)

    async def hello(self, timeout_s: float) -> dict[str, Any]:
        """What the process says once it has loaded its model. Raises `ControlClosed`."""
        return await self._ask({"hello": True}, timeout_s)

    async def goodbye(self) -> bool:
        """Take leave; `True` when the process stays for other workers, or is too busy loading to say."""
        try:
            answer = await self._ask({"goodbye": True}, GOODBYE_TIMEOUT_S)
        except ControlClosed:
            return not self.closed.is_set()
        return bool(answer.get("stays"))

    def begin(self) -> int:
        """A call begins. Nothing is awaited: the order of messages is enough."""
        self._next_call += 1
        self._send({"begin": self._next_call})
        return self._next_call

    async def end(self, call: int) -> LocalWork | None:
        """What the call consumed; `None` when the process died meanwhile."""
        if self.closed.is_set():
            return None
        work: asyncio.Future[LocalWork | None] = asyncio.get_running_loop().create_future()
        self._work[call] = work
        self._send({"end": call})
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await work
        except TimeoutError:
            return None
        finally:
            self._work.pop(call, None)

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.wait([self._reading])
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _ask(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        self._send(message)
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._answers.get()
        except TimeoutError as error:
            raise ControlClosed(f"no answer in {timeout_s:g} s") from error
        if not answer:
            raise ControlClosed("it ended")
        return answer

    def _send(self, message: dict[str, Any]) -> None:
        # The process may have died a moment ago, before the reader noticed: uvloop then refuses to write.
        if not self.closed.is_set() and not self._writer.transport.is_closing():
            with contextlib.suppress(RuntimeError):
                self._writer.write(json.dumps(message).encode() + b"\n")

    async def _read(self) -> None:
        try:
            while line := await self._reader.readline():
                answer: dict[str, Any] = json.loads(line)
                if "end" in answer:
                    self._settle(answer)
                else:
                    self._answers.put_nowait(answer)
        except (OSError, ValueError):
            pass  # Reset, or cut in the middle of a line: the same as an end.
        finally:
            self.closed.set()
            self._answers.put_nowait({})
            for work in self._work.values():
                if not work.done():
                    work.set_result(None)

    def _settle(self, answer: dict[str, Any]) -> None:
        work = self._work.get(answer["end"])
        if work is None or work.done():
            return
        known = answer["cpu_s"] is not None
        work.set_result(LocalWork(cpu_s=answer["cpu_s"], ram_gb_s=answer["ram_gb_s"]) if known else None)
