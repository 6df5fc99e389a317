"""Cuts a recording into MP3 pieces, one when it is asked for, at most a minute of it in memory.

Runs in the bounded process only. What a piece is depends on the plan, its own beginning and its own samples alone: it
is the same whether the pieces before it were made in the same run or not.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np

from domain.audio import AudioPiece, CutPlan
from services.audio.cutting import (
    HOP,
    Energies,
    energies,
    is_silent,
    overlap_samples,
    quietest_hop,
    search_samples,
)
from services.audio.media_contract import UnreadableAudio
from services.audio.media_decoding import DAMAGED, RATE, Samples, SampleSource

BIT_RATE = 128_000
SPEED = {"compression_level": "7"}
"""Half as fast again as LAME's own choice; at this rate the difference to what went in is as small."""
LAST_PIECE_SHARE = 1.25
"""What remains is one last piece when it is no longer than this, by the target: no crumb is left."""
_BLOCK = RATE


class Cutter:
    """Makes one piece after the other."""

    def __init__(self, source: SampleSource, plan: CutPlan) -> None:
        if source.was_empty:
            raise UnreadableAudio(DAMAGED)
        self._source = source
        self._plan = plan
        self._ordinal = plan.first_ordinal
        self._start = round(plan.start_s * RATE)
        self._overlap = round(plan.overlap_s * RATE)
        for _ in _blocks(source, self._start):
            pass

    def next_piece(self, path: Path) -> AudioPiece | None:
        """Writes it. `None` when there is none left."""
        if self._source.ended:
            return None
        limit = self._limit()
        searched = search_samples(limit)
        written = 0
        heard = []
        with _piece_writer(path) as write:
            for block in _blocks(self._source, limit - searched):
                heard.append(energies(block))
                written += len(block)
                write(block)
            tail = self._source.take(searched)
            heard.append(energies(tail))
            piece = np.concatenate(heard)
            cut, overlap = (len(tail), 0) if self._source.ended else _cut(piece, written, limit)
            write(tail[:cut])
        self._source.give_back(tail[cut - overlap :])
        return self._told(path, written + cut, overlap, is_silent(piece[: -(-(written + cut) // HOP)]))

    def _limit(self) -> int:
        """How many samples it may have at most, in whole hops."""
        plan = self._plan
        remaining_s = plan.duration_s - self._start / RATE
        is_last = remaining_s <= min(plan.max_s, LAST_PIECE_SHARE * plan.target_s)
        return int((plan.max_s if is_last else plan.target_s) * RATE) // HOP * HOP

    def _told(self, path: Path, samples: int, overlap: int, silent: bool) -> AudioPiece:
        end = self._start + samples
        piece = AudioPiece(self._ordinal, path, self._start / RATE, end / RATE, self._overlap / RATE, silent)
        self._ordinal, self._start, self._overlap = self._ordinal + 1, end - overlap, overlap
        return piece


def _cut(piece: Energies, written: int, limit: int) -> tuple[int, int]:
    """How much of what is still held belongs to the piece, and how much of that to the next one as well."""
    quietest = quietest_hop(piece, written // HOP)
    if quietest is None:
        return limit - written, overlap_samples(limit)
    return quietest * HOP - written, 0


def _blocks(source: SampleSource, count: int) -> Iterator[Samples]:
    """A second at a time, until there are `count` samples or no more."""
    while count:
        block = source.take(min(count, _BLOCK))
        if not len(block):
            return
        count -= len(block)
        yield block


@contextlib.contextmanager
def _piece_writer(path: Path) -> Iterator[Callable[[Samples], None]]:
    """The file is ours, not libav's: what the disk refuses is an `OSError` as it is."""
    with path.open("wb") as file, av.open(file, "w", format="mp3") as output:
        stream = output.add_stream("libmp3lame", rate=RATE, layout="mono", options=SPEED)
        stream.bit_rate = BIT_RATE
        written = 0

        def write(samples: Samples) -> None:
            nonlocal written
            if not len(samples):
                return
            frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, written
            written += len(samples)
            output.mux(stream.encode(frame))

        yield write
        output.mux(stream.encode(None))
