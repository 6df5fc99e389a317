"""A few spoken words as the MP3 file that a transcriber is given."""

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from py_nanotts import NanoTTS

RATE = 16_000


def speech(*sentences: str, voice: str = "fr-FR") -> NDArray[np.int16]:
    """16 kHz mono, half a second of silence after each sentence."""
    pause = np.zeros(RATE // 2, np.int16)
    spoken = [np.frombuffer(NanoTTS().speak(sentence, voice=voice), np.int16) for sentence in sentences]
    return np.concatenate([piece for sound in spoken for piece in (sound, pause)])


def write_mp3(path: Path, sound: NDArray[np.int16], bit_rate: int = 64_000) -> Path:
    with av.open(path, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=RATE, layout="mono")
        stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(sound[None, :], format="s16", layout="mono")
        frame.sample_rate = RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return path
