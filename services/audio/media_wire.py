"""What the process that reads a recording is asked, and what it answers: one line each.

It is asked for a piece by the name of the file to write, and answers with one JSON object:

    {"probe": [duration_s, container, codec]}                the only line of a probe
    {"piece": [ordinal, start_s, end_s, overlap_s, silent]}  the piece has been written
    {"end": true}                                            there are no more
    {"unreadable": reason, "not_audio": false}               a last line, as the next two
    {"errno": 28}                                            the system failed, as it does when a disk is full
    {"broke": where}                                         our code met what it did not expect; never content

The process has handled a stranger's file: what it says is checked, never trusted.
"""

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from domain.audio import AudioPiece, CutPlan, Probe

MAX_LINE_BYTES = 8_192
MAX_REASON_CHARS = 1_000
MAX_NAME_CHARS = 40
LONGEST_S = 1e9
"""Thirty years: no recording, and all sums of seconds are exact far beyond."""
SAMPLE_S = 1 / 16_000
"""Times may be off by less than this: they are counted in samples."""


class BrokenLine(ValueError):
    """The line is not of this protocol."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The recording cannot be read."""

    reason: str
    not_audio: bool


@dataclass(frozen=True, slots=True)
class Broke:
    """Our code met what it did not expect, here."""

    where: str


@dataclass(frozen=True, slots=True)
class SystemFailed:
    """The system refused what any recording needs."""

    errno: int


@dataclass(frozen=True, slots=True)
class End:
    """There are no more pieces."""


Said = Probe | AudioPiece | Unreadable | Broke | SystemFailed | End


def encode(**said: object) -> bytes:
    return orjson.dumps(said, option=orjson.OPT_APPEND_NEWLINE)


def encode_probe(probe: Probe) -> bytes:
    return encode(probe=(probe.duration_s, probe.container, probe.codec))


def encode_piece(piece: AudioPiece) -> bytes:
    return encode(piece=(piece.ordinal, piece.start_s, piece.end_s, piece.overlap_s, piece.silent))


def decode(line: bytes, expected: "Expected | None" = None) -> Said:
    """`expected` is what a piece must agree with; without it there can be none."""
    try:
        said = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BrokenLine("not JSON") from error
    match said:
        case {"probe": [duration, str(container), str(codec)]} if expected is None:
            if max(len(container), len(codec)) <= MAX_NAME_CHARS and container.isprintable() and codec.isprintable():
                return Probe(_seconds(duration), container, codec)
        case {"piece": [*numbers]} if expected is not None:
            return expected.piece(numbers)
        case {"unreadable": str(reason), "not_audio": bool(not_audio)} if len(reason) <= MAX_REASON_CHARS:
            return Unreadable(reason, not_audio)
        case {"errno": int(number)} if number in errno.errorcode:
            return SystemFailed(number)
        case {"broke": str(where)}:
            return Broke(where[:MAX_REASON_CHARS])
        case {"end": True} if expected is not None:
            return End()
    raise BrokenLine("no known answer")


class Expected:
    """What the next piece of a plan must be, by the plan and by the pieces before it."""

    def __init__(self, plan: CutPlan) -> None:
        self._max_s = plan.max_s
        self._ordinal = plan.first_ordinal
        self._overlap_s: float | None = plan.overlap_s
        """Known of the first only; where it begins tells it of the others."""
        self._done_s = plan.start_s + plan.overlap_s

    def piece(self, numbers: list[Any]) -> AudioPiece:
        """It has no path yet: its name was given, not told."""
        match numbers:
            case [int(ordinal), start, end, overlap, bool(silent)] if ordinal == self._ordinal:
                piece = AudioPiece(ordinal, Path(), _seconds(start), _seconds(end), _seconds(overlap), silent)
                if self._follows(piece):
                    self._ordinal, self._overlap_s, self._done_s = ordinal + 1, None, piece.end_s
                    return piece
        raise BrokenLine("a piece")

    def _follows(self, piece: AudioPiece) -> bool:
        if self._overlap_s is not None and piece.overlap_s != self._overlap_s:
            return False
        begins_well = abs(piece.start_s + piece.overlap_s - self._done_s) <= SAMPLE_S
        return begins_well and piece.end_s > self._done_s and piece.duration_s <= self._max_s + SAMPLE_S


def _seconds(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LONGEST_S:
        return float(value)
    raise BrokenLine("a time")
