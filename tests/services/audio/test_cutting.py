"""Where a recording is cut, decided by how loud it is: quiet enough, long enough, as late as it may be."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.audio.cutting import (
    HOP,
    WINDOW_HOPS,
    Energies,
    energies,
    is_silent,
    overlap_samples,
    quietest_hop,
    search_samples,
)
from tests.speech_for_tests import RATE, noise

SPEECH_DB, MURMUR_DB, ROOM_DB = -15, -28, -45


def heard(*stretches: tuple[float, float]) -> Energies:
    """Energies of noises of (seconds, dB)."""
    pcm = b"".join(noise(seconds, level_db) for seconds, level_db in stretches)
    return energies(np.frombuffer(pcm, np.int16))


def test_a_cut_falls_into_the_middle_of_the_pause() -> None:
    assert quietest_hop(heard((3, SPEECH_DB), (0.3, ROOM_DB), (2, SPEECH_DB)), 0) == 300 + WINDOW_HOPS // 2


def test_the_quieter_of_two_pauses_is_taken() -> None:
    piece = heard((3, SPEECH_DB), (0.5, -65), (2, SPEECH_DB), (0.5, ROOM_DB), (2, SPEECH_DB))
    assert 300 <= (quietest_hop(piece, 0) or 0) <= 350


def test_of_pauses_equally_quiet_the_last_is_taken() -> None:
    piece = heard((1, SPEECH_DB), (0.4, -100), (1, SPEECH_DB), (0.4, -120), (1, SPEECH_DB))
    assert quietest_hop(piece, 0) == 280 - WINDOW_HOPS // 2


def test_a_pause_before_the_search_begins_is_left_alone() -> None:
    piece = heard((1, SPEECH_DB), (0.5, ROOM_DB), (3, SPEECH_DB))
    assert quietest_hop(piece, 0) is not None
    assert quietest_hop(piece, 160) is None


def test_a_pause_shorter_than_300_ms_is_none() -> None:
    assert quietest_hop(heard((3, SPEECH_DB), (0.15, ROOM_DB), (3, SPEECH_DB)), 0) is None


def test_what_is_only_a_little_softer_is_no_pause() -> None:
    assert quietest_hop(heard((3, SPEECH_DB), (1, MURMUR_DB), (3, SPEECH_DB)), 0) is None


def test_what_is_quiet_depends_on_how_loud_the_rest_is() -> None:
    assert quietest_hop(heard((3, SPEECH_DB), (1, ROOM_DB), (3, SPEECH_DB)), 0) is not None
    assert quietest_hop(heard((3, -35), (1, ROOM_DB), (3, -35)), 0) is None
    assert quietest_hop(heard((3, -35), (1, -52), (3, -35)), 0) is not None, "quiet anywhere"


def test_the_level_of_a_few_words_counts_where_most_is_a_noisy_room() -> None:
    assert quietest_hop(heard((2, SPEECH_DB), (50, ROOM_DB)), 2_000) is not None


def test_a_piece_shorter_than_a_pause_is_not_cut() -> None:
    assert quietest_hop(heard((0.2, -90)), 0) is None
    assert quietest_hop(heard((1, SPEECH_DB)), 90) is None


def test_a_pause_is_looked_for_during_a_minute_and_in_the_last_half_of_a_short_piece() -> None:
    assert search_samples(600 * RATE) == 60 * RATE
    assert search_samples(20 * RATE) == 10 * RATE
    assert search_samples(RATE + HOP) % HOP == 0


def test_pieces_overlap_by_two_and_a_half_seconds_and_very_short_ones_by_a_quarter() -> None:
    assert overlap_samples(600 * RATE) == 2.5 * RATE
    assert overlap_samples(2 * RATE) == 0.5 * RATE


def test_silent_is_what_has_no_300_ms_above_a_quiet_room() -> None:
    assert is_silent(heard((10, -60)))
    assert is_silent(heard((0.1, -60)))
    assert is_silent(energies(np.empty(0, np.int16)))
    assert not is_silent(heard((10, -60), (0.4, -50), (10, -60)))
    assert not is_silent(heard((0.1, -50)))


@given(
    st.lists(st.integers(-32_768, 32_767), min_size=1, max_size=HOP - 1),
    st.integers(0, 60 * RATE // HOP),
    st.integers(0, 1_000),
)
def test_the_place_depends_on_nothing_before_the_piece_and_not_on_how_it_is_split(
    samples: list[int], hops: int, search_from: int
) -> None:
    rest = np.random.default_rng(hops).integers(-3_000, 3_000, hops * HOP).astype(np.int16)
    whole = np.concatenate((rest, np.array(samples, np.int16)))
    at = hops // 3 * HOP
    parts = np.concatenate((energies(whole[:at]), energies(whole[at:])))
    assert np.array_equal(parts, energies(whole))
    assert quietest_hop(parts, search_from) == quietest_hop(energies(whole), search_from)
