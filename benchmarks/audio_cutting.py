"""A recording of two hours, cut: how much faster than it is spoken, and how much memory that takes.

python -m benchmarks.audio_cutting
"""

import asyncio
import contextlib
import io
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import psutil
from py_nanotts import NanoTTS

from benchmarks.measuring import Row
from domain.audio import CutPlan
from services.audio.media import cut, probe

HOURS = 2
TARGET_S, MAX_S = 540.0, 1_400.0
RATE = 16_000
PAUSE_S = 0.7
TEXT = (
    "Good morning everyone, the meeting begins at nine o'clock.",
    "First we will talk about the budget of the library.",
    "The new reading room will open its doors in the spring.",
    "Repairing the roof has cost twelve thousand pounds.",
    "We need to order thirty chairs and six large tables.",
    "Thank you for your attention, and have a safe journey home.",
)
"""Said again and again."""


def measure_cutting() -> list[Row]:
    """The rows."""
    with tempfile.TemporaryDirectory(prefix="routeur-bench-") as folder:
        path = Path(folder) / "recording.mp3"
        path.write_bytes(_a_minute() * 60 * HOURS)
        return asyncio.run(_measure(path))


async def _measure(path: Path) -> list[Row]:
    started = time.perf_counter()
    found = await probe(path)
    probed_s = time.perf_counter() - started
    others = {child.pid for child in psutil.Process().children()}
    pieces, peak_bytes, cpu_s = 0, 0, 0.0
    plan = CutPlan(found.duration_s, TARGET_S, MAX_S)
    async with contextlib.aclosing(cut(path, plan, path.parent)) as cutting:
        async for piece in cutting:
            piece.path.unlink()
            pieces += 1
            (reader,) = [child for child in psutil.Process().children() if child.pid not in others]
            peak_bytes = _peak_bytes(reader.pid)
            cpu_s = sum(reader.cpu_times()[:2])
    took_s = time.perf_counter() - started - probed_s
    return [
        Row(
            f"{found.duration_s / 3_600:.1f} h of speech cut into {pieces} pieces, a core",
            plan.duration_s / cpu_s,
            "x",
            at_least=100,
        ),
        Row("  as long as the clock says, on this machine now", plan.duration_s / took_s, "x"),
        Row("  how long it is, found out", probed_s, "s"),
        # It is a process of its own: when nothing is cut, there is none.
        Row("  the most memory of the process that cuts", peak_bytes / 1e6, "MB", 150),
    ]


def _peak_bytes(process: int) -> int:
    told = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return int(told.partition("VmHWM:")[2].split()[0]) * 1_024


def _a_minute() -> bytes:
    """As MP3 frames and nothing else: one minute after the other is a longer recording."""
    voice = NanoTTS()
    pause = np.zeros(round(PAUSE_S * RATE), np.int16)
    spoken = [np.frombuffer(voice.speak(sentence, voice="en-GB"), np.int16) for sentence in TEXT]
    said = np.concatenate([part for samples in spoken for part in (samples, pause)])
    minute = np.resize(said, 60 * RATE)
    file = io.BytesIO()
    with av.open(file, "w", format="mp3", options={"write_xing": "0", "id3v2_version": "0"}) as output:
        stream = output.add_stream("libmp3lame", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(minute[np.newaxis], format="s16", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


if __name__ == "__main__":
    print("\n".join(row.text() for row in measure_cutting()))
