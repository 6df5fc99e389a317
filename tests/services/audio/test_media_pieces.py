"""The pieces of a recording: cut in its pauses, never too long, and the same whenever they are made."""

import contextlib
import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.audio import AudioPiece, CutPlan
from services.audio.media import MediaLimits, cut, probe
from services.audio.media_decoding import Samples, SampleSource
from services.audio.media_pieces import Cutter
from tests.media_for_tests import LIMITS, cover, pieces_of, plan_for, samples_of, written
from tests.speech_for_tests import (
    ENGLISH,
    FRENCH,
    RATE,
    encoded,
    long_recording,
    noise,
    pauses,
    recording,
    silence,
    wav,
)

MAX_CHILD_BYTES = 150_000_000
"""What a piece's limit in the house is for: whatever the length, no more."""


@pytest.mark.parametrize(("kind", "voice"), [("wav", FRENCH), ("mp3", ENGLISH)])
async def test_cuts_fall_into_the_pauses(kind: str, voice: str, tmp_path: Path) -> None:
    pcm = recording(50, 0.6, voice)
    pieces = await pieces_of(written(tmp_path, encoded(pcm, kind)), tmp_path, target_s=12, max_s=20)
    cover(pieces)
    assert len(pieces) >= 4
    for piece in pieces[:-1]:
        assert 6 <= piece.duration_s <= 12
        assert any(begin < piece.end_s < end for begin, end in pauses(pcm)), piece


async def test_where_nothing_is_quiet_a_piece_is_as_long_as_wanted_and_the_next_begins_earlier(tmp_path: Path) -> None:
    pieces = await pieces_of(written(tmp_path, wav(noise(70, -20))), tmp_path)
    assert cover(pieces) == (0, 70)
    assert [piece.duration_s for piece in pieces] == [20, 20, 20, 17.5]
    assert [piece.overlap_s for piece in pieces] == [0, 2.5, 2.5, 2.5]
    first, second = (samples_of(piece.path).astype(float) for piece in pieces[:2])
    shared = first[-2 * RATE :], second[RATE // 2 : 5 * RATE // 2]
    assert np.corrcoef(*shared)[0, 1] > 0.98, "both hold the same"


@pytest.mark.parametrize(("seconds", "lengths"), [(25, [25]), (25.02, [20, 7.52]), (19, [19]), (0.02, [0.02])])
async def test_what_remains_is_no_crumb(seconds: float, lengths: list[float], tmp_path: Path) -> None:
    pieces = await pieces_of(written(tmp_path, wav(noise(seconds, -20))), tmp_path, target_s=20, max_s=30)
    assert [piece.duration_s for piece in pieces] == lengths


async def test_no_piece_is_longer_than_the_longest_that_may_be(tmp_path: Path) -> None:
    pieces = await pieces_of(written(tmp_path, wav(noise(47, -20))), tmp_path, target_s=20, max_s=21)
    assert [piece.duration_s for piece in pieces] == [20, 20, 12]
    assert cover(pieces) == (0, 47)


@pytest.mark.parametrize("told_s", [10.0, 200.0])
async def test_a_recording_longer_or_shorter_than_was_thought_is_cut_all_the_same(
    told_s: float, tmp_path: Path
) -> None:
    plan = CutPlan(told_s, 20, 22)
    pieces = await pieces_of(written(tmp_path, wav(noise(50, -20))), tmp_path, plan)
    assert cover(pieces) == (0, 50)
    assert max(piece.duration_s for piece in pieces) <= 22


async def test_a_piece_in_which_nothing_is_said_is_silent(tmp_path: Path) -> None:
    pcm = recording(10) + silence(25) + recording(10)
    pieces = await pieces_of(written(tmp_path, wav(pcm)), tmp_path, target_s=11, max_s=15)
    assert [piece.silent for piece in pieces] == [False, True, True, False]


@pytest.mark.parametrize("kind", ["mp3", "browser.webm"])
async def test_a_recording_taken_up_again_goes_on_with_the_very_same_pieces(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, encoded(recording(12) + noise(12, -15) + recording(9, voice=ENGLISH), kind))
    plan = plan_for(await probe(path, LIMITS), 9, 12)
    pieces = await pieces_of(path, tmp_path, plan)
    assert any(piece.overlap_s for piece in pieces)
    assert not all(piece.overlap_s for piece in pieces[1:])
    for at in (1, len(pieces) - 2):
        again = await pieces_of(path, tmp_path, taken_up(plan, pieces[at]))
        assert [_told(piece) for piece in again] == [_told(piece) for piece in pieces[at:]]


stretches = st.lists(
    st.tuples(st.floats(0.05, 2), st.sampled_from([-100, -70, -52, -40, -25, -12])), min_size=1, max_size=10
)


@settings(max_examples=8)
@given(stretches, st.integers(100, 400), st.floats(1, 1.5), st.integers(200, 5_000), st.integers(-20, 20))
def test_any_recording_is_covered_and_taken_up_anywhere_with_the_same_pieces(
    parts: list[tuple[float, int]], target: int, longest: float, block: int, wrong_s: int
) -> None:
    samples = np.frombuffer(b"".join(noise(seconds, level) for seconds, level in parts), np.int16)
    duration_s = max(len(samples) / RATE + (wrong_s if abs(wrong_s) > 15 else 0), 0)
    plan = CutPlan(duration_s, target / 100, target / 100 * longest)
    with tempfile.TemporaryDirectory() as folder:
        pieces = _cut(samples, plan, block, Path(folder))
        assert cover(pieces) == (0, len(samples) / RATE)
        assert max(piece.duration_s for piece in pieces) <= plan.max_s + 1e-9
        for before, piece in itertools.pairwise(pieces):
            assert not piece.overlap_s or before.duration_s > plan.target_s - 0.02, "cut in a pause, and overlapping"
        for at in range(1, len(pieces), 3):
            again = _cut(samples, taken_up(plan, pieces[at]), block + 7, Path(folder))
            assert [_told(piece) for piece in again] == [_told(piece) for piece in pieces[at:]]


async def test_the_next_piece_is_made_when_it_is_asked_for(tmp_path: Path) -> None:
    path, folder = written(tmp_path, wav(recording(40))), tmp_path / "pieces"
    folder.mkdir()
    async with contextlib.aclosing(cut(path, CutPlan(40, 5, 8), folder, LIMITS)) as pieces:
        async for piece in pieces:
            assert list(folder.iterdir()) == [piece.path]
            assert piece.path.stat().st_mode & 0o077 == 0
            piece.path.unlink()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc")
async def test_half_an_hour_takes_no_more_memory_than_a_minute(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    with path.open("wb") as file:
        file.write(wav(silence(1_800))[: -len(silence(1_800))])
        file.writelines(long_recording(1_800))
    assert (await probe(path, MediaLimits(memory_bytes=MAX_CHILD_BYTES))).duration_s == pytest.approx(1_800)
    # Begun near the end: all is decoded on the way there, and the test need not wait for three pieces to be encoded.
    plan = CutPlan(1_800, 600, 1_400, start_s=1_500)
    async with contextlib.aclosing(cut(path, plan, tmp_path, MediaLimits(memory_bytes=MAX_CHILD_BYTES))) as pieces:
        piece = await anext(pieces)
        assert piece.end_s == 1_800
        (child,) = [each for each in psutil.Process().children() if "services.audio.media_child" in each.cmdline()]
        assert _peak_bytes(child.pid) < MAX_CHILD_BYTES


def _peak_bytes(process: int) -> int:
    told = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return int(told.partition("VmHWM:")[2].split()[0]) * 1_024


def taken_up(plan: CutPlan, piece: AudioPiece) -> CutPlan:
    return replace(plan, start_s=piece.start_s, overlap_s=piece.overlap_s, first_ordinal=piece.ordinal)


def _told(piece: AudioPiece) -> tuple[AudioPiece, bytes]:
    """All that is said of it, and what it holds."""
    return replace(piece, path=Path()), piece.path.read_bytes()


def _cut(samples: Samples, plan: CutPlan, block: int, folder: Path) -> list[AudioPiece]:
    blocks: Iterator[Samples] = (samples[at : at + block] for at in range(0, len(samples), block))
    cutter = Cutter(SampleSource(blocks), plan)
    names = (folder / f"{plan.first_ordinal}-{number}.mp3" for number in itertools.count())
    return list(iter(lambda: cutter.next_piece(next(names)), None))
