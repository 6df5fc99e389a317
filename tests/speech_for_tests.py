"""Speech that the tests of sound hear: real voices, in every format that is taken. Made here, once a process."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
from py_nanotts import NanoTTS

RATE = 16_000
BYTES_A_SECOND = 2 * RATE
BIT_RATE = 96_000
FRENCH = "fr-FR"
ENGLISH = "en-GB"

FRENCH_SENTENCES = (
    "Bonjour à toutes et à tous, la réunion commence à neuf heures.",
    "Nous parlerons d'abord du budget de la bibliothèque.",
    "La nouvelle salle de lecture ouvrira ses portes au printemps.",
    "Les travaux du toit ont coûté douze mille euros.",
    "Madame Dupont présentera le projet du jardin partagé.",
    "Il faut commander trente chaises et six grandes tables.",
    "Le marché du samedi attire beaucoup de monde cette année.",
    "Personne ne souhaite changer la date de la fête du village.",
    "La pluie de cette nuit a inondé la cave de la mairie.",
    "Nous voterons la semaine prochaine, après la visite du chantier.",
    "Le train de Lyon arrive avec une heure de retard.",
    "Merci de votre attention, et bon retour à la maison.",
)
ENGLISH_SENTENCES = (
    "Good morning everyone, the meeting begins at nine o'clock.",
    "First we will talk about the budget of the library.",
    "The new reading room will open its doors in the spring.",
    "Repairing the roof has cost twelve thousand pounds.",
    "The gardener will show us the plans of the shared garden.",
    "We need to order thirty chairs and six large tables.",
    "The market on Saturday is very busy this year.",
    "Nobody wants to change the date of the village feast.",
    "The heavy rain last night has flooded the old cellar.",
    "We will vote next week, after the visit to the building site.",
    "The train from London is one hour late.",
    "Thank you for your attention, and have a safe journey home.",
)
SENTENCES = {FRENCH: FRENCH_SENTENCES, ENGLISH: ENGLISH_SENTENCES}
"""Our own. Numbers are words, as a transcriber writes what it hears."""

PROMISED_FORMATS = ("mp3", "mp4", "mpeg", "mpga", "m4a", "wav", "webm")
BROWSER_WEBM = "browser.webm"
"""As a browser's MediaRecorder writes it: neither duration nor index, for it did not know when it would be stopped."""
OTHER_FORMATS = (BROWSER_WEBM, "ogg", "flac", "aac")
FORMATS = PROMISED_FORMATS + OTHER_FORMATS

_ENCODINGS: dict[str, tuple[str, str, int, dict[str, str]]] = {
    "mp3": ("mp3", "libmp3lame", 44_100, {}),
    "mp4": ("mp4", "aac", 48_000, {}),
    "mpeg": ("mpeg", "mp2", 44_100, {}),
    "mpga": ("mp2", "mp2", 32_000, {}),
    "m4a": ("ipod", "aac", 44_100, {"movflags": "faststart"}),
    "wav": ("wav", "pcm_s16le", RATE, {}),
    "webm": ("webm", "libopus", 48_000, {}),
    BROWSER_WEBM: ("webm", "libopus", 48_000, {"live": "1"}),
    "ogg": ("ogg", "libopus", 48_000, {}),
    "flac": ("flac", "flac", RATE, {}),
    "aac": ("adts", "aac", 44_100, {}),
}
"""Container, codec, samples a second, the container's options."""


@lru_cache(maxsize=64)
def spoken(text: str, voice: str = FRENCH) -> bytes:
    """16 kHz mono s16 PCM, without the silence the voice leaves before and after."""
    samples = np.frombuffer(_voice().speak(text, voice=voice), np.int16)
    loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > 100)
    return samples[loud[0] : loud[-1] + 1].tobytes()


def silence(seconds: float) -> bytes:
    return bytes(2 * round(seconds * RATE))


def noise(seconds: float, level_db: float, *, seed: int = 1) -> bytes:
    """An even murmur with no pause to cut in; the same each time. 0 dB is the loudest a file can hold."""
    samples = np.random.default_rng(seed).normal(0, 32_768 * 10 ** (level_db / 20), round(seconds * RATE))
    return samples.clip(-32_768, 32_767).astype(np.int16).tobytes()


def long_recording(seconds: float, gap_s: float = 0.8, voice: str = FRENCH) -> Iterator[bytes]:
    """PCM of exactly `seconds`: the language's sentences again and again, and a pause after each."""
    left = 2 * round(seconds * RATE)
    for sentence in cycle(SENTENCES[voice]):
        part = (spoken(sentence, voice) + silence(gap_s))[:left]
        left -= len(part)
        yield part
        if not left:
            return


@lru_cache(maxsize=8)
def recording(seconds: float, gap_s: float = 0.8, voice: str = FRENCH) -> bytes:
    """The same in one, for what is not long."""
    return b"".join(long_recording(seconds, gap_s, voice))


def pauses(pcm: bytes, at_least_s: float = 0.3) -> list[tuple[float, float]]:
    """When nothing at all is to be heard: beginnings and ends, in seconds."""
    heard = np.flatnonzero(np.frombuffer(pcm, np.int16))
    edges = np.concatenate(([-1], heard, [len(pcm) // 2]))
    long = np.flatnonzero(np.diff(edges) > at_least_s * RATE)
    return [((edges[at] + 1) / RATE, edges[at + 1] / RATE) for at in long]


def wav(pcm: bytes) -> bytes:
    return encoded(pcm, "wav")


@lru_cache(maxsize=64)
def encoded(pcm: bytes, kind: str) -> bytes:
    """A file of one of the `FORMATS`."""
    container, codec, rate, options = _ENCODINGS[kind]
    return encoded_as(pcm, container, codec, rate, options)


def encoded_as(
    pcm: bytes,
    container: str,
    codec: str,
    rate: int,
    options: dict[str, str] | None = None,
    *,
    layout: str = "mono",
) -> bytes:
    """A file of any container and codec that the library writes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "encoded"  # Not in memory: some options make the library open the file anew.
        with av.open(path, "w", format=container, options=options or {}) as output:
            stream = output.add_stream(codec, rate=rate, layout=layout)
            stream.bit_rate = BIT_RATE
            resampler = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate)
            for resampled in (part for frame in _frames(pcm) for part in resampler.resample(frame)):
                output.mux(stream.encode(resampled))
            output.mux(stream.encode(None))
        return path.read_bytes()


def _frames(pcm: bytes) -> Iterator[av.AudioFrame | None]:
    """A second each, and the `None` that says it is the end."""
    samples = np.frombuffer(pcm, np.int16)
    for first in range(0, len(samples), RATE):
        frame = av.AudioFrame.from_ndarray(samples[None, first : first + RATE], format="s16", layout="mono")
        frame.sample_rate, frame.pts = RATE, first
        yield frame
    yield None


@lru_cache(maxsize=1)
def _voice() -> NanoTTS:
    return NanoTTS()
