"""A recording's samples, whatever its format: 16 kHz, one channel, in order. Runs in the bounded process only."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from services.audio.media_contract import ACCEPTED_FORMATS, UnreadableAudio
from services.audio.media_promises import check_index, promised_s
from services.audio.media_sniffing import Kind, sniff

RATE = 16_000
Samples = NDArray[np.int16]
DAMAGED = "the file is damaged: nothing in it can be decoded. Save the recording anew as mp3 or wav and send that"

MIN_RATE, MAX_RATE = 4_000, 384_000
"""Samples a second. Outside of them a few bytes would become gigabytes."""
MAX_FAILURES = 64
"""Of the demuxer, in a row: behind them is no more than noise."""
_CODECS = (
    *("aac", "ac3", "alac", "amrnb", "amrwb", "eac3", "flac", "libopus", "opus", "vorbis"),
    *("mp1", "mp1float", "mp2", "mp2float", "mp3", "mp3float", "adpcm_ima_qt", "adpcm_ima_wav", "adpcm_ms", "gsm_ms"),
    *("pcm_alaw", "pcm_mulaw", "pcm_f32be", "pcm_f32le", "pcm_f64be", "pcm_f64le", "pcm_s16be", "pcm_s16le"),
    *("pcm_s24be", "pcm_s24le", "pcm_s32be", "pcm_s32le", "pcm_s8", "pcm_u8"),
)
"""libav decodes hundreds, and pictures too; a stranger's file may use those that recordings are made with."""


@dataclass(frozen=True, slots=True)
class OpenRecording:
    """A file of a kind that is taken, and its best audio stream."""

    kind: Kind
    container: InputContainer
    stream: AudioStream
    promised_s: float | None


@contextlib.contextmanager
def open_recording(path: Path) -> Iterator[OpenRecording]:
    """libav reads the one open file, by the demuxer that its first bytes call for: it may open nothing itself."""
    with path.open("rb", buffering=0) as file:
        number, size = file.fileno(), os.fstat(file.fileno()).st_size
        file.seek(0)  # On macOS /dev/fd/N is the server's own descriptor, which stands where it wrote last.
        kind = sniff(number)
        check_index(number, kind, size)
        with _open(file, kind.demuxer) as container:
            stream = _best_audio(container)
            yield OpenRecording(kind, container, stream, promised_s(number, kind, size, container, stream))


def packets(container: InputContainer, *streams: AudioStream) -> "Iterator[av.Packet[Any]]":
    """Of these streams, or of all. A damaged place is read over where the demuxer finds on behind it."""
    failures = 0
    while failures < MAX_FAILURES:
        try:
            for packet in container.demux(*streams):
                if packet.size:  # The others are PyAV's own, to empty the decoders with.
                    failures = 0
                    yield packet
            return
        except MemoryError:
            raise
        except av.FFmpegError:
            failures += 1


def frames(stream: AudioStream, packet: "av.Packet[Any] | None") -> list[AudioFrame]:
    """What the packet holds, nothing where it is damaged; `None` for what the decoder has kept back."""
    try:
        return stream.codec_context.decode(packet)
    except MemoryError:
        raise
    except av.FFmpegError:
        return []


def decoded(recording: OpenRecording) -> Iterator[Samples]:
    """All of it, some milliseconds at a time. What cannot be decoded is left out."""
    mixer = Mixer()
    for packet in packets(recording.container, recording.stream):
        for frame in frames(recording.stream, packet):
            yield from mixer.mix(frame)
    for frame in frames(recording.stream, None):
        yield from mixer.mix(frame)
    yield from mixer.rest()


class SampleSource:
    """Samples as they are asked for; what was taken can be given back."""

    def __init__(self, arrays: Iterator[Samples]) -> None:
        self._arrays = arrays
        self._held = np.empty(0, np.int16)
        self.was_empty = self.ended

    @property
    def ended(self) -> bool:
        while not len(self._held):
            following = next(self._arrays, None)
            if following is None:
                return True
            self._held = following
        return False

    def take(self, count: int) -> Samples:
        """Fewer only at the end."""
        parts: list[Samples] = []
        while count and not self.ended:
            part, self._held = self._held[:count], self._held[count:]
            parts.append(part)
            count -= len(part)
        return np.concatenate(parts) if parts else np.empty(0, np.int16)

    def give_back(self, samples: Samples) -> None:
        self._held = np.concatenate((samples, self._held))


class Mixer:
    """One channel of 16 kHz out of frames that may change their shape on the way.

    Samples follow each other as they are: the frames' times, which may leap, are not looked at.
    """

    def __init__(self) -> None:
        self._shape: tuple[str, str, int] | None = None
        self._resampler: av.AudioResampler | None = None

    def mix(self, frame: AudioFrame) -> Iterator[Samples]:
        if not MIN_RATE <= frame.sample_rate <= MAX_RATE:
            return
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if shape != self._shape:
            yield from self.rest()
            self._shape, self._resampler = shape, av.AudioResampler(format="s16", layout="mono", rate=RATE)
        yield from self._push(frame)

    def rest(self) -> Iterator[Samples]:
        yield from self._push(None)

    def _push(self, frame: AudioFrame | None) -> Iterator[Samples]:
        if self._resampler is None:
            return
        try:
            mixed = self._resampler.resample(frame)
        except MemoryError:
            raise
        except av.FFmpegError as error:
            _, layout, rate = self._shape or ("", "its channels", 0)
            reason = f"{layout} of {rate} samples a second cannot be mixed: save the recording with one channel"
            raise UnreadableAudio(reason) from error
        for part in mixed:
            if part is not None:  # Of frames that are as wanted, the resampler gives the end itself back.
                yield part.to_ndarray()[0]


def _open(file: RawIOBase, demuxer: str) -> InputContainer:
    options = {"protocol_whitelist": "file", "format_whitelist": demuxer, "codec_whitelist": ",".join(_CODECS)}
    try:
        return av.open(file, "r", format=demuxer, options=options, io_open=_refuse)
    except MemoryError:
        raise
    except av.FFmpegError as error:
        raise UnreadableAudio(DAMAGED) from error


def _best_audio(container: InputContainer) -> AudioStream:
    found = list(container.streams.audio)
    if not found:
        if not len(container.streams):
            raise UnreadableAudio(DAMAGED)
        raise UnreadableAudio(
            f"there is no sound in the file, only pictures: send a recording as {ACCEPTED_FORMATS}", not_audio=True
        )
    best = container.streams.best("audio")
    for stream in sorted(found, key=lambda stream: stream is not best):
        if _can_be_decoded(stream):
            stream.codec_context.thread_count = 1
            return stream
    raise UnreadableAudio(
        f"the sound in the file is coded in a way that is not read here: send it as {ACCEPTED_FORMATS}", not_audio=True
    )


def _can_be_decoded(stream: AudioStream) -> bool:
    context = stream.codec_context
    return context is not None and context.name in _CODECS and MIN_RATE <= context.sample_rate <= MAX_RATE


def _refuse(url: str, flags: int, options: dict[str, Any]) -> None:
    raise UnreadableAudio("the file names another one that holds the sound: send that one", not_audio=True)
