"""What a file's header promises, to be held against what is there: is the recording whole?"""

import math
import os
from collections.abc import Iterator

from av.audio.stream import AudioStream
from av.container import InputContainer

from services.audio.media_contract import UnreadableAudio
from services.audio.media_sniffing import Kind

MISSING_SHARE = 0.1
MISSING_S = 1.0
"""A header may round, or be off by an encoder's delay. Both must be exceeded for a recording to count as cut short."""
STREAMED_BYTES = 0x7FFF0000
"""A program that writes a WAV into a pipe puts this size or a larger one into the header, or zero: it knows none."""
MAX_ATOMS = 10_000
_DURATION_WITHIN_BYTES = 65_536
_DURATION = (b"\x44\x89\x84", b"\x44\x89\x88")
"""Matroska's element Duration (RFC 9559, 5.1.2.10), a number of four or eight bytes."""


def check_index(file: int, kind: Kind, size: int) -> None:
    """An mp4 can only be read by its index, `moov`, which is often its end. Raises `UnreadableAudio` without it."""
    if kind.demuxer != "mov":
        return
    promised = size
    for name, begins_at, length in _atoms(file, size):
        if name == b"moov":
            return
        promised = max(promised, begins_at + length)
    if promised > size:
        told, found = f"announces {promised / 1e6:,.3f} MB", f"{size / 1e6:,.3f} MB are there"
        raise UnreadableAudio(f"the file was cut short on its way: it {told} and {found}. Send the whole file")
    raise UnreadableAudio(
        f"the file has no index in its {size / 1e6:,.3f} MB: the recording was interrupted before it was written. "
        "Repair it with the program that recorded it, or save it anew as mp3 or wav"
    )


def check_whole(promised_s: float | None, found_s: float) -> None:
    if promised_s is None or not math.isfinite(promised_s):
        return
    missing_s = promised_s - found_s
    if missing_s > MISSING_S and missing_s > MISSING_SHARE * promised_s:
        raise UnreadableAudio(
            f"the recording was cut short on its way, or is damaged: it announces {promised_s:,.1f} s "
            f"and {found_s:,.1f} s are there. Send the whole file"
        )


def promised_s(file: int, kind: Kind, size: int, container: InputContainer, stream: AudioStream) -> float | None:
    """The duration that the header tells; `None` where it tells none. libav itself would also guess by the size."""
    match kind.demuxer:
        case "wav":
            return _wav_s(file, kind.begins_at, size)
        case "mp3" if not _counts_frames(file, kind.begins_at):
            return None
        case "mp3" | "mov" | "flac" if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        case "matroska" if container.duration and _has_duration(file):
            return container.duration / 1e6
    return None


def _wav_s(file: int, at: int, size: int) -> float | None:
    bytes_a_s = data_bytes = 0
    for name, begins_at, length in _chunks(file, at + 12, size):
        if name == b"ds64":
            data_bytes = int.from_bytes(os.pread(file, 8, begins_at + 8), "little")
        elif name == b"fmt ":
            bytes_a_s = int.from_bytes(os.pread(file, 4, begins_at + 8), "little")
        elif name == b"data":
            known = data_bytes or (length if 0 < length < STREAMED_BYTES else 0)
            return known / bytes_a_s if known and bytes_a_s else None
    return None


def _chunks(file: int, at: int, size: int) -> Iterator[tuple[bytes, int, int]]:
    for _ in range(MAX_ATOMS):
        head = os.pread(file, 8, at)
        if len(head) < 8:
            return
        length = int.from_bytes(head[4:], "little")
        yield head[:4], at + 8, length
        at += 8 + length + length % 2


def _atoms(file: int, size: int) -> Iterator[tuple[bytes, int, int]]:
    at = 0
    for _ in range(MAX_ATOMS):
        head = os.pread(file, 16, at)
        if len(head) < 8:
            return
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if length < 8:  # Zero: to the end of the file.
            return
        yield head[4:8], at, length
        at += length


def _counts_frames(file: int, at: int) -> bool:
    """The first frame of an MP3 may be a note of how many follow ("Xing", or "Info" where all are of one size)."""
    head = os.pread(file, 64, at)
    for name in (b"Xing", b"Info"):
        where = head.find(name)
        if where >= 0:
            return len(head) > where + 7 and bool(head[where + 7] & 1)
    return False


def _has_duration(file: int) -> bool:
    head = os.pread(file, _DURATION_WITHIN_BYTES, 0)
    return any(element in head for element in _DURATION)
