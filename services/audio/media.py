"""Reads a recording in a process of its own: how long it is, and its pieces. No sound is decoded in the server."""

import asyncio
import contextlib
import logging
import math
import os
import secrets
import stat
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

from core.bounded_child import BoundedChild, Bounds, ChildEnded, LineTooLong, bounded_command, run_bounded
from domain.audio import AudioPiece, CutPlan, Probe
from services.audio.media_contract import MediaLimits, UnreadableAudio, needs_more_memory
from services.audio.media_wire import (
    MAX_LINE_BYTES,
    Broke,
    BrokenLine,
    Expected,
    Said,
    SystemFailed,
    Unreadable,
    decode,
)

__all__ = ["MediaLimits", "UnreadableAudio", "cut", "probe"]

CHILD = "services.audio.media_child"
SHORTEST_TARGET_S = 1.0
COMPILED_BYTES = 4_000_000
"""The process also writes Python's own cache of compiled modules."""
PIECE_BYTES_A_S = 32_000
"""Twice what 128 kbit/s take."""

logger = logging.getLogger(__name__)


async def probe(path: Path, limits: MediaLimits | None = None, *, pass_fds: tuple[int, ...] = ()) -> Probe:
    """What the file holds. Raises `UnreadableAudio`; `OSError` where it is ours.

    A file without a name is given as `/dev/fd/N`, with N in `pass_fds`.
    """
    limits = limits or MediaLimits()
    await asyncio.to_thread(path.stat)  # A file that is not there is the server's fault, not the recording's.
    async with run_bounded(_probe_command(path, limits), max_line_bytes=MAX_LINE_BYTES, pass_fds=pass_fds) as child:
        said = await _hear(child, limits)
    if isinstance(said, Probe):
        return said
    raise UnreadableAudio(_broken("no answer to a probe"))


async def cut(
    path: Path,
    plan: CutPlan,
    directory: Path,
    limits: MediaLimits | None = None,
    *,
    pass_fds: tuple[int, ...] = (),
) -> AsyncGenerator[AudioPiece]:
    """The recording's pieces, each made when it is asked for and the consumer's to delete. Raises as `probe` does.

    Close the generator (`contextlib.aclosing`) when you leave it early: that ends the process.
    """
    _check(plan)
    limits = limits or MediaLimits()
    await asyncio.to_thread(path.stat)
    expected = Expected(plan)
    # Taken up late, all that comes before is decoded on the way to the first piece.
    patience = replace(limits, timeout_s=limits.timeout_s * (1 + plan.start_s / plan.target_s))
    command = _cut_command(path, plan, directory, limits)
    unfinished = None
    try:
        async with run_bounded(command, max_line_bytes=MAX_LINE_BYTES, asked=True, pass_fds=pass_fds) as child:
            while True:
                unfinished = directory / _piece_name()
                child.ask(f"{unfinished.name}\n".encode())
                said = await _hear(child, patience, expected)
                patience = limits
                if not isinstance(said, AudioPiece):
                    return
                piece = await asyncio.to_thread(_written, said, unfinished)
                unfinished = None
                yield piece
    finally:
        if unfinished:
            await asyncio.to_thread(_remove, unfinished)


def _check(plan: CutPlan) -> None:
    numbers = (plan.duration_s, plan.target_s, plan.max_s, plan.start_s, plan.overlap_s)
    known = all(math.isfinite(number) and number >= 0 for number in numbers) and plan.first_ordinal >= 0
    if not known or not SHORTEST_TARGET_S <= plan.target_s <= plan.max_s:
        raise ValueError(f"no recording can be cut by {plan!r}")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # It was not begun, or its disk is gone: what happened before is told.
        path.unlink()


def _piece_name() -> str:
    return f"{secrets.token_hex(16)}.mp3"


def _probe_command(path: Path, limits: MediaLimits) -> list[str]:
    bounds = Bounds(int(limits.timeout_s) + 1, limits.memory_bytes, COMPILED_BYTES)
    return bounded_command(CHILD, bounds, "probe", path.absolute())


def _cut_command(path: Path, plan: CutPlan, directory: Path, limits: MediaLimits) -> list[str]:
    pieces = 2 + 4 * plan.duration_s / plan.target_s  # More than there can be, and the way to the first.
    file_bytes = COMPILED_BYTES + int(plan.max_s * PIECE_BYTES_A_S)
    bounds = Bounds(int(limits.timeout_s * pieces) + 1, limits.memory_bytes, file_bytes)
    numbers = (plan.duration_s, plan.target_s, plan.max_s, plan.start_s, plan.overlap_s, plan.first_ordinal)
    return bounded_command(CHILD, bounds, "cut", path.absolute(), directory.absolute(), *numbers)


def _written(piece: AudioPiece, path: Path) -> AudioPiece:
    """The piece, if its file is there."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise UnreadableAudio(_broken("a piece without a file")) from None
    if not stat.S_ISREG(found.st_mode) or not found.st_size:
        raise UnreadableAudio(_broken("a piece that is no file"))
    return replace(piece, path=path)


async def _hear(child: BoundedChild, limits: MediaLimits, expected: Expected | None = None) -> Said:
    """What it says next, if that is good."""
    try:
        said = decode(await child.read_line(limits.timeout_s), expected)
    except TimeoutError:
        raise UnreadableAudio(_too_slow(limits)) from None
    except ChildEnded as ended:
        raise UnreadableAudio(_last_words(ended, limits)) from None
    except (BrokenLine, LineTooLong) as error:
        raise UnreadableAudio(_broken(str(error) or "a line too long")) from None
    match said:
        case Unreadable(reason, not_audio):
            raise UnreadableAudio(reason, not_audio=not_audio)
        case SystemFailed(number):
            raise OSError(number, os.strerror(number))
        case Broke(where):
            raise UnreadableAudio(_broken(where))
    return said


def _last_words(ended: ChildEnded, limits: MediaLimits) -> str:
    """Why it ended without a last line."""
    if ended.out_of_memory:
        return needs_more_memory(limits.memory_bytes)
    if ended.out_of_time:
        return _too_slow(limits)
    logger.warning("reading a recording crashed", extra={"ended": ended.how})
    return (
        f"reading the recording was ended {ended.how}: it is damaged, or needs more memory than the "
        f"{limits.memory_bytes / 1e6:,.0f} MB allowed. Save it anew as mp3 or wav and send that"
    )


def _too_slow(limits: MediaLimits) -> str:
    return f"reading the recording took longer than the {limits.timeout_s:g} s allowed: split it and send the parts"


def _broken(where: str) -> str:
    logger.warning("a recording could not be read", extra={"where": where})
    return "the recording is damaged or unusual: open it, save it anew as mp3 or wav, and send that"
