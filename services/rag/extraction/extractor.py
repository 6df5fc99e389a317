"""Reads a document in a process of its own: what a stranger's file does there, the server survives."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

from services.rag.extraction.contract import (
    SUPPORTED_SUFFIXES,
    ExtractedPart,
    ExtractionLimits,
    UnreadableDocument,
    needs_more_memory,
)
from services.rag.extraction.wire import MAX_LINE_BYTES, OUT_OF_MEMORY, BrokenLine, decode

__all__ = ["SUPPORTED_SUFFIXES", "ExtractedPart", "ExtractionLimits", "UnreadableDocument", "extract_passages"]

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = {"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}
"""Nothing of the server's, which holds its keys. The same file gives the same passages: no random hashes either."""
_REAP_S = 10.0

logger = logging.getLogger(__name__)


async def extract_passages(path: Path, filename: str, limits: ExtractionLimits) -> AsyncGenerator[ExtractedPart]:
    """The document's passages; `filename` tells its format. Raises `UnreadableDocument`; `OSError` where it is ours.

    Close the generator (`contextlib.aclosing`) when you leave it early: that ends the process.
    """
    suffix = Path(filename).suffix.lower().removeprefix(".")
    if suffix not in SUPPORTED_SUFFIXES:
        known = ", ".join(sorted(SUPPORTED_SUFFIXES))
        what = f"a .{suffix[:20]} file" if suffix else "a file whose name has no suffix"
        raise UnreadableDocument(f"{what} cannot be read: send one of {known}")
    await asyncio.to_thread(path.stat)  # A file that is not there is the server's fault, not the document's.
    left_s = limits.timeout_s
    passages = 0
    async with _reading_process(path, suffix, limits) as (process, said):
        while True:
            asked_at = time.monotonic()
            try:
                async with asyncio.timeout(left_s):
                    line = await said.readuntil(b"\n")
            except TimeoutError:
                raise UnreadableDocument(_too_slow(limits)) from None
            except asyncio.IncompleteReadError:
                raise UnreadableDocument(await _last_words(process, limits)) from None
            except asyncio.LimitOverrunError:
                raise UnreadableDocument(_broken("a line too long", suffix)) from None
            left_s -= time.monotonic() - asked_at
            part = _decode(line, passages, suffix)
            if part is None:
                return
            passages += len(part.passages)
            yield part


@contextlib.asynccontextmanager
async def _reading_process(
    path: Path, suffix: str, limits: ExtractionLimits
) -> AsyncIterator[tuple[Process, asyncio.StreamReader]]:
    """Its pipe is ours, not asyncio's: one with unread lines would keep asyncio's process open after its end."""
    output, input_ = os.pipe()
    pipe = os.fdopen(output, "rb", buffering=0)
    said = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    try:
        process = await asyncio.create_subprocess_exec(
            *_command(path, suffix, limits),
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=DEVNULL,
            stdout=input_,
            stderr=DEVNULL,
            start_new_session=True,
        )
    except BaseException:
        pipe.close()
        raise
    finally:
        os.close(input_)
    transport = None
    try:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(said), pipe)
        yield process, said
    finally:
        if transport:
            transport.close()
        else:
            pipe.close()
        await _end(process)


def _command(path: Path, suffix: str, limits: ExtractionLimits) -> list[str]:
    numbers = (limits.max_pages, limits.max_text_chars, limits.timeout_s, limits.memory_bytes)
    file = str(path.absolute())  # The process works in another folder.
    return [sys.executable, "-m", "services.rag.extraction.child", suffix, file, *map(str, numbers)]


async def _end(process: Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    async with asyncio.timeout(_REAP_S):  # A killed process ends at once, unless its disk hangs.
        await process.wait()


def _decode(line: bytes, next_ordinal: int, suffix: str) -> ExtractedPart | None:
    try:
        said = decode(line, next_ordinal)
    except BrokenLine as error:
        raise UnreadableDocument(_broken(str(error), suffix)) from None
    match said:
        case ExtractedPart():
            return said
        case {"unreadable": reason}:
            raise UnreadableDocument(reason)
        case {"broke": where}:
            raise UnreadableDocument(_broken(where, suffix))
    return None


async def _last_words(process: Process, limits: ExtractionLimits) -> str:
    """Why it ended without a last line."""
    async with asyncio.timeout(_REAP_S):
        status = await process.wait()
    if status == OUT_OF_MEMORY:
        return needs_more_memory(limits.memory_bytes)
    if status == -signal.SIGXCPU:
        return _too_slow(limits)
    how = f"with status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"
    logger.warning("reading a document crashed", extra={"ended": how})
    return (
        f"reading the document was ended {how}: it is damaged, or needs more memory than the "
        f"{limits.memory_bytes / 1e6:,.0f} MB allowed. Save it anew with the program that made it, or split it"
    )


def _too_slow(limits: ExtractionLimits) -> str:
    return f"reading the document took longer than the {limits.timeout_s:g} s allowed: split it and send the parts"


def _broken(where: str, suffix: str) -> str:
    logger.warning("a document could not be read", extra={"where": where, "suffix": suffix})
    return f"the .{suffix} file is damaged or unusual: open it, save it anew as .{suffix} or PDF, and send that"
