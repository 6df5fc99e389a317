"""Reads a document in a process of its own: what a stranger's file does there, the server survives."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from pathlib import Path

from core.bounded_child import (
    ENVIRONMENT,
    ROOT,
    Bounds,
    ChildEnded,
    LineTooLong,
    bounded_command,
    run_bounded,
)
from services.rag.extraction.contract import (
    SUPPORTED_SUFFIXES,
    ExtractedPart,
    ExtractionLimits,
    UnreadableDocument,
    needs_more_memory,
)
from services.rag.extraction.wire import MAX_LINE_BYTES, BrokenLine, decode

__all__ = [
    "ENVIRONMENT",
    "ROOT",
    "SUPPORTED_SUFFIXES",
    "ExtractedPart",
    "ExtractionLimits",
    "UnreadableDocument",
    "extract_passages",
]

MAX_FILE_BYTES = 4_000_000
"""The process writes no file but Python's own cache of compiled modules."""

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
    async with run_bounded(_command(path, suffix, limits), max_line_bytes=MAX_LINE_BYTES) as child:
        while True:
            asked_at = time.monotonic()
            try:
                line = await child.read_line(left_s)
            except TimeoutError:
                raise UnreadableDocument(_too_slow(limits)) from None
            except ChildEnded as ended:
                raise UnreadableDocument(_last_words(ended, limits)) from None
            except LineTooLong:
                raise UnreadableDocument(_broken("a line too long", suffix)) from None
            left_s -= time.monotonic() - asked_at
            part = _decode(line, passages, suffix)
            if part is None:
                return
            passages += len(part.passages)
            yield part


def _command(path: Path, suffix: str, limits: ExtractionLimits) -> list[str]:
    bounds = Bounds(int(limits.timeout_s) + 1, limits.memory_bytes, MAX_FILE_BYTES)
    numbers = (limits.max_pages, limits.max_text_chars, limits.timeout_s, limits.memory_bytes)
    return bounded_command("services.rag.extraction.child", bounds, suffix, path.absolute(), *numbers)


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


def _last_words(ended: ChildEnded, limits: ExtractionLimits) -> str:
    """Why it ended without a last line."""
    if ended.out_of_memory:
        return needs_more_memory(limits.memory_bytes)
    if ended.out_of_time:
        return _too_slow(limits)
    logger.warning("reading a document crashed", extra={"ended": ended.how})
    return (
        f"reading the document was ended {ended.how}: it is damaged, or needs more memory than the "
        f"{limits.memory_bytes / 1e6:,.0f} MB allowed. Save it anew with the program that made it, or split it"
    )


def _too_slow(limits: ExtractionLimits) -> str:
    return f"reading the document took longer than the {limits.timeout_s:g} s allowed: split it and send the parts"


def _broken(where: str, suffix: str) -> str:
    logger.warning("a document could not be read", extra={"where": where, "suffix": suffix})
    return f"the .{suffix} file is damaged or unusual: open it, save it anew as .{suffix} or PDF, and send that"
