"""A language of tones, heard exactly: each word is a pitch. What a transcript lost or doubled shows word for word.

`spoken` makes the sound of words, with or without pauses between them; `heard` is a transcriber that never errs.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import av
import numpy as np

RATE = 16_000
ALPHABET = """
    alpha bravo charlie delta echo foxtrot golfe hotel india juliette kilo lima mike novembre oscar papa quebec romeo
    sierra tango uniforme victor whisky xavier
"""
WORDS = tuple(ALPHABET.split())
FIRST_HZ, STEP_HZ = 400.0, 100.0
WORD_S = 0.6
FADE_S = 0.02
FRAME = 800
"""Fifty milliseconds: a pitch is told from its neighbours, and a word lasts for twelve of them."""
LOUD = 400.0
LEAST_FRAMES = 4
"""A shorter remainder of a word, at a cut, is not understood."""


@dataclass(frozen=True, slots=True)
class Word:
    text: str
    start_s: float
    end_s: float


def words_in_turn(count: int, seed: int = 7) -> list[str]:
    """So many words, no two alike after each other."""
    random = np.random.default_rng(seed)
    chosen: list[int] = []
    while len(chosen) < count:
        number = int(random.integers(len(WORDS)))
        if not chosen or chosen[-1] != number:
            chosen.append(number)
    return [WORDS[number] for number in chosen]


def spoken(
    words: Sequence[str], *, pause_s: float = 0.15, long_pause_every: int = 0, long_pause_s: float = 0.6
) -> bytes:
    """16 kHz mono 16 bit: each word its tone, then its pause; a longer one after every so many."""
    silence = np.zeros(int(pause_s * RATE), np.int16)
    longer = np.zeros(int(long_pause_s * RATE), np.int16)
    parts = []
    for place, word in enumerate(words, 1):
        parts += [_tone(WORDS.index(word)), longer if long_pause_every and place % long_pause_every == 0 else silence]
    return np.concatenate(parts).tobytes() if parts else b""


def heard(file: bytes) -> list[Word]:
    """The words of a sound file, with their times."""
    samples = _decoded(file)
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    numbers = [_pitch(frame) for frame in frames]
    words: list[Word] = []
    start = 0
    for place in range(1, len(numbers) + 1):
        if place < len(numbers) and numbers[place] == numbers[start]:
            continue
        if numbers[start] is not None and place - start >= LEAST_FRAMES:
            words.append(Word(WORDS[numbers[start]], start * FRAME / RATE, place * FRAME / RATE))
        start = place
    return words


def _tone(number: int) -> "np.ndarray[tuple[int], np.dtype[np.int16]]":
    times = np.arange(int(WORD_S * RATE)) / RATE
    fade = np.minimum(1, np.minimum(times, times[::-1]) / FADE_S)
    sound = 12_000 * fade * np.sin(2 * np.pi * (FIRST_HZ + STEP_HZ * number) * times)
    return sound.astype(np.int16)


def _pitch(frame: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> int | None:
    if np.sqrt(np.mean(frame.astype(np.float64) ** 2)) < LOUD:
        return None
    spectrum = np.abs(np.fft.rfft(frame * np.hanning(FRAME)))
    loudest_hz = float(np.argmax(spectrum)) * RATE / FRAME
    number = round((loudest_hz - FIRST_HZ) / STEP_HZ)
    return number if 0 <= number < len(WORDS) else None


def _decoded(file: bytes) -> "np.ndarray[tuple[int], np.dtype[np.int16]]":
    parts = []
    with av.open(io.BytesIO(file)) as container:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
        for frame in container.decode(audio=0):
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
        parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
    return np.concatenate(parts) if parts else np.zeros(0, np.int16)
