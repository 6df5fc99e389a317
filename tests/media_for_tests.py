"""What the tests of reading recordings share: a probe and the pieces of some bytes, and what a piece holds."""

import contextlib
import io
import itertools
import struct
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from domain.audio import AudioPiece, CutPlan, Probe
from services.audio.media import MediaLimits, UnreadableAudio, cut, probe
from tests.speech_for_tests import RATE, recording

LIMITS = MediaLimits(timeout_s=100)


def written(folder: Path, content: bytes, name: str = "recording") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


async def refusal_of(path: Path, limits: MediaLimits = LIMITS) -> UnreadableAudio:
    """What a probe is refused with."""
    try:
        found = await probe(path, limits)
    except UnreadableAudio as error:
        return error
    raise AssertionError(f"it was read: {found}")


async def pieces_of(path: Path, folder: Path, plan: CutPlan | None = None, **changes: float) -> list[AudioPiece]:
    """All of them; without a plan cut at 20 s."""
    plan = plan or plan_for(await probe(path, LIMITS), **changes)
    async with contextlib.aclosing(cut(path, plan, folder, LIMITS)) as pieces:
        return [piece async for piece in pieces]


def plan_for(found: Probe, target_s: float = 20, max_s: float = 30) -> CutPlan:
    return CutPlan(found.duration_s, target_s, max_s)


def cover(pieces: list[AudioPiece]) -> tuple[float, float]:
    """From when to when they go. Fails where one does not go on exactly where the one before it ended."""
    for before, after in itertools.pairwise(pieces):
        assert after.ordinal == before.ordinal + 1
        assert round((after.start_s + after.overlap_s) * RATE) == round(before.end_s * RATE)
    return pieces[0].start_s, pieces[-1].end_s


def samples_of(path: Path) -> NDArray[np.int16]:
    """What an MP3 piece holds, at its own rate."""
    with av.open(path) as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.name, stream.rate, stream.channels) == ("mp3float", 16_000, 1)
        parts = [frame.to_ndarray()[0] for frame in container.decode(stream)]
    return (np.concatenate(parts) * 32_768).clip(-32_768, 32_767).astype(np.int16)


def extensible_wav(pcm: bytes, channels: int, mask: int) -> bytes:
    """WAVE_FORMAT_EXTENSIBLE, the same in all channels."""
    samples = np.repeat(np.frombuffer(pcm, np.int16), channels).tobytes()
    form = struct.pack("<HHIIHHHHI", 0xFFFE, channels, RATE, RATE * channels * 2, channels * 2, 16, 22, 16, mask)
    form += bytes.fromhex("0100000000001000800000aa00389b71")
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", len(body)) + body


def film(*, with_sound: bool) -> bytes:
    """Two seconds of grey."""
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as output:
        pictures = output.add_stream("mpeg4", rate=10)
        pictures.width = pictures.height = 64
        sound = output.add_stream("aac", rate=RATE, layout="mono") if with_sound else None
        for at in range(20):
            picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 99, np.uint8), format="rgb24")
            picture.pts = at
            output.mux(pictures.encode(picture))
        output.mux(pictures.encode(None))
        if sound:
            samples = np.frombuffer(recording(2), np.int16).astype(np.float32) / 32_768
            frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            output.mux(sound.encode(frame))
            output.mux(sound.encode(None))
    return content.getvalue()
