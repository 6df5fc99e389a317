"""How long a recording is and what it is made of: counted, not believed. Runs in the bounded process only."""

import struct
from pathlib import Path
from typing import Any

import av
from av.audio.stream import AudioStream

from domain.audio import Probe
from services.audio.media_contract import UnreadableAudio
from services.audio.media_decoding import DAMAGED, RATE, Mixer, frames, open_recording, packets
from services.audio.media_promises import check_whole

TRY_S = 3.0
"""How much of the beginning is decoded, to see that it can be."""
SAME_TICKS = 2
"""A container may round its packets' durations (Matroska: to milliseconds). Their times are rounded
too, but do not drift."""
LONGEST_PACKET_S = 1.0
NOTHING = "there is no sound in the file, not a second of it: record it anew, listen to it, and send that"


def probe(path: Path) -> Probe:
    """Goes through all packets, and decodes the first ones."""
    with open_recording(path) as recording:
        stream = recording.stream
        counter = _PacketCounter()
        mixer = Mixer()
        furthest_s = 0.0
        decoded = 0
        for packet in packets(recording.container):
            if packet.stream_index == stream.index:
                counter.add(packet)
                if decoded < TRY_S * RATE:
                    decoded += _decoded(stream, packet, mixer)
            if packet.pts is not None and packet.time_base:
                furthest_s = max(furthest_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        duration_s = counter.duration_s(stream)
        check_whole(recording.promised_s, max(duration_s, furthest_s))
        if duration_s <= 0:
            raise UnreadableAudio(NOTHING)
        if not decoded and not _decoded(stream, None, mixer) and not any(map(len, mixer.rest())):
            raise UnreadableAudio(DAMAGED)
        return Probe(duration_s, recording.kind.container, stream.codec_context.codec.canonical_name)


def _decoded(stream: AudioStream, packet: "av.Packet[Any] | None", mixer: Mixer) -> int:
    """How many samples come of it in the end."""
    return sum(len(part) for frame in frames(stream, packet) for part in mixer.mix(frame))


class _PacketCounter:
    """How long packets last together. A gap between their times is none in what they hold, and does not count."""

    def __init__(self) -> None:
        self._ticks = 0
        self._skipped = 0
        self._last: tuple[int | None, int] = None, 0
        self._longest_ticks = 0

    def add(self, packet: "av.Packet[Any]") -> None:
        self._ticks += self._last_lasts(packet.pts)
        self._last = packet.pts, max(packet.duration or 0, 0)
        self._longest_ticks = int(LONGEST_PACKET_S / packet.time_base) if packet.time_base else 0
        self._skipped += _samples_to_skip(packet)

    def duration_s(self, stream: AudioStream) -> float:
        if not stream.time_base:
            return 0.0
        skipped_s = self._skipped / stream.rate if stream.rate else 0.0
        return float((self._ticks + self._last[1]) * stream.time_base) - skipped_s

    def _last_lasts(self, following_pts: int | None) -> int:
        pts, duration = self._last
        if pts is None or following_pts is None:
            return duration
        apart = following_pts - pts
        believable = abs(apart - duration) <= SAME_TICKS if duration else 0 < apart <= self._longest_ticks
        return apart if believable else duration


def _samples_to_skip(packet: "av.Packet[Any]") -> int:
    """What the encoder added at the beginning and the end to fill its blocks, as libav notes it: two u32."""
    if not packet.has_sidedata("skip_samples"):
        return 0
    noted = bytes(packet.get_sidedata("skip_samples"))
    return sum(struct.unpack("<II", noted[:8])) if len(noted) >= 8 else 0
