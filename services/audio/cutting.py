"""Where a recording is cut: the quietest moment near where a cut is wanted. Pure, and the same each time.

Runs in the bounded process only. Levels are dBFS: 0 is the loudest a file can hold.
"""

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
HOP = 160
"""Samples: energies are counted by the hundredth of a second."""
WINDOW_HOPS = 30
"""A pause has to last 300 ms: shorter ones are inside of words."""
SEARCH_S = 60.0
OVERLAP_S = 2.5
SILENT_DB = -55.0
"""Nothing above it: a quiet room before a microphone that is on."""
QUIET_DB = -50.0
"""Always quiet enough to cut in."""
BELOW_SPEECH_DB = 20.0
"""Quiet enough below the loudest: a room's noise is, a speaker's softest 300 ms are not."""
SPEECH_PERCENTILE = 98
_FLOOR_DB = -80.0
"""Below, all is equally still, whatever a codec makes of it."""

Energies = NDArray[np.int64]


def energies(samples: NDArray[np.int16]) -> Energies:
    """A sum of squares a hop, of a last one cut short too. Whole numbers: no order of adding matters."""
    squares = samples.astype(np.int64) ** 2
    squares = np.pad(squares, (0, -len(squares) % HOP))
    return np.asarray(squares.reshape(-1, HOP).sum(axis=1))


def search_samples(target: int) -> int:
    """How long before the target a pause is looked for: a minute, of a short piece its last half. Whole hops."""
    return min(round(SEARCH_S * RATE), target // 2) // HOP * HOP


def overlap_samples(target: int) -> int:
    """How much two pieces share where there is no pause. Of a very short piece a quarter, so that the next gets on."""
    return min(round(OVERLAP_S * RATE), target // 4)


def quietest_hop(piece: Energies, search_from: int) -> int | None:
    """The middle of the quietest 300 ms from the hop `search_from` on, the last of equals; `None` where none is quiet.

    What is quiet depends on how loud the whole piece is.
    """
    levels = _levels(piece)
    searched = levels[search_from:]
    if len(piece) < WINDOW_HOPS or not len(searched):
        return None
    quiet_db = max(QUIET_DB, float(np.percentile(levels, SPEECH_PERCENTILE)) - BELOW_SPEECH_DB)
    last_lowest = len(searched) - 1 - int(np.argmin(searched[::-1]))
    if searched[last_lowest] > quiet_db:
        return None
    return search_from + last_lowest + WINDOW_HOPS // 2


def is_silent(piece: Energies) -> bool:
    return not len(piece) or float(_levels(piece).max()) <= SILENT_DB


def _levels(piece: Energies) -> NDArray[np.float64]:
    """Of each 300 ms, a hop apart; of the whole where it is shorter."""
    window = min(WINDOW_HOPS, len(piece))
    sums = np.concatenate(([0], np.cumsum(piece)))
    power = (sums[window:] - sums[:-window]) / (window * HOP * 32_768.0**2)
    return np.asarray(10 * np.log10(np.maximum(power, 10 ** (_FLOOR_DB / 10))))
