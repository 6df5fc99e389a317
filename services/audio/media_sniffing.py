"""What a file is, by its first bytes and never by its name: which demuxer is to read it, or what it is instead."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from services.audio.media_contract import ACCEPTED_FORMATS, UnreadableAudio

HEAD_BYTES = 4_096
SYNC_WITHIN_BYTES = 65_536
"""How much junk libav's own MP3 demuxer reads over before the first frame."""
FRAMES_IN_A_ROW = 3
"""Their lengths lead from one to the next, and their kinds agree: noise does not do that."""
MAX_TAGS = 8
MAX_CONTROL_SHARE = 0.1

_OTHER = (
    (b"%PDF-", "a PDF"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF87a", "a GIF image"),
    (b"GIF89a", "a GIF image"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"PK\x03\x04", "a ZIP archive or an Office document"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!\x1a", "a RAR archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document"),
    (b"\x7fELF", "a program"),
    (b"caff\x00", "a CAF sound"),
    (b"#!AMR", "an AMR sound"),
    (b"MThd", "MIDI notes"),
    (b".snd", "an AU sound"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media (wma, wmv) file"),
    (b"FLV\x01", "a Flash film"),
    (b"\x00\x00\x01\xb3", "an MPEG film without sound"),
)
_PLAYLISTS = (
    b"#extm3u",
    b"[playlist]",
    b"<asx",
    b"<mpd",
    b"<smil",
    b"ffconcat",
    b"file ",
    b"v=0",
    b"http://",
    b"https://",
)
_MOV_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")

# ISO/IEC 11172-3 and 13818-3: kbit/s by MPEG version (1, or 2 and 2.5) and layer.
_KBITS_1 = {
    1: (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    2: (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
}
_LOW = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_KBITS_2 = {1: (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256), 2: _LOW, 3: _LOW}
_RATES = (44_100, 48_000, 32_000)


FrameReader = Callable[[bytes], tuple[bytes, int] | None]


@dataclass(frozen=True, slots=True)
class Kind:
    """A container that is taken, libav's name of what reads it, and where its own bytes begin (after a tag)."""

    container: str
    demuxer: str
    begins_at: int = 0


def sniff(file: int) -> Kind:
    """Of an open file. Raises `UnreadableAudio` for what is not taken."""
    begins_at = _after_tags(file)
    head = os.pread(file, SYNC_WITHIN_BYTES + HEAD_BYTES, begins_at)
    if not head and not begins_at:
        raise UnreadableAudio("the file is empty: send the recording anew")
    if known := _by_signature(head):
        return Kind(*known, begins_at)
    if other := _other(head):
        raise UnreadableAudio(_refusal(other), not_audio=True)
    if found := _by_frames(head, begins_at, ends_here=len(head) < SYNC_WITHIN_BYTES + HEAD_BYTES):
        return found
    if begins_at:
        raise UnreadableAudio("the file has the title of an mp3, but no sound after it: send the whole file")
    raise UnreadableAudio(_refusal(_text(head) or "no recording of a format known here"), not_audio=True)


def _refusal(what: str) -> str:
    return f"by its content the file is {what}: send a recording as {ACCEPTED_FORMATS}"


def _after_tags(file: int) -> int:
    """Where the ID3v2 tags end: size as four times seven bits, without the ten bytes of header (and of footer)."""
    at = 0
    for _ in range(MAX_TAGS):
        head = os.pread(file, 10, at)
        if len(head) < 10 or not head.startswith(b"ID3") or max(head[6:]) > 127:
            break
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        at += 10 + size + (10 if head[5] & 0x10 else 0)
    return at


def _by_signature(head: bytes) -> tuple[str, str] | None:
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return "wav", "wav"
    if head[4:8] in _MOV_ATOMS:
        return "mp4", "mov"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "webm" if b"webm" in head[:64] else "matroska", "matroska"
    for magic, name in ((b"OggS", "ogg"), (b"fLaC", "flac"), (b"\x00\x00\x01\xba", "mpeg")):
        if head.startswith(magic):
            return name, name
    return None


def _other(head: bytes) -> str | None:
    if head.startswith(b"RIFF"):
        return {b"WEBP": "a WebP image", b"AVI ": "an AVI film"}.get(head[8:12], "neither sound nor film")
    if head.startswith(b"FORM") and head[8:11] == b"AIF":
        return "an AIFF sound"
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")):
        return _playlist(head) or "text"
    return next((name for magic, name in _OTHER if head.startswith(magic)), None)


def _text(head: bytes) -> str | None:
    head = head[:HEAD_BYTES]
    control = sum(byte < 9 or 13 < byte < 32 for byte in head)
    if control > MAX_CONTROL_SHARE * len(head) or 0 in head:
        return None
    return _playlist(head) or "text"


def _playlist(head: bytes) -> str | None:
    start = head[:HEAD_BYTES].replace(b"\x00", b"").lstrip(b"\xff\xfe\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<?xml"):
        start = start.partition(b"?>")[2].lstrip()
    return "a playlist, which names recordings and holds none" if start.startswith(_PLAYLISTS) else None


def _by_frames(head: bytes, begins_at: int, *, ends_here: bool) -> Kind | None:
    """MP3, MP2 and ADTS have no signature, only frames."""
    at = head.find(b"\xff")
    while 0 <= at < SYNC_WITHIN_BYTES:
        for container, frame in (("mp3", _mpeg_frame), ("aac", _adts_frame)):
            if _in_a_row(head, at, frame, may_end=ends_here and at == 0):
                return Kind(container, container, begins_at + at)
        at = head.find(b"\xff", at + 1)
    return None


def _in_a_row(head: bytes, at: int, frame: FrameReader, *, may_end: bool) -> bool:
    kinds: set[bytes] = set()
    for _ in range(FRAMES_IN_A_ROW):
        found = frame(head[at : at + 6])
        if not found:
            return may_end and bool(kinds) and at >= len(head)
        kinds.add(found[0])
        at += found[1]
    return len(kinds) == 1


def _mpeg_frame(header: bytes) -> tuple[bytes, int] | None:
    """What stays the same from frame to frame (version, layer, samples a second), and the frame's length."""
    if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    kbits, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or kbits in (0, 15) or rate == 3:
        return None
    bits = 1_000 * (_KBITS_1 if version == 3 else _KBITS_2)[layer][kbits - 1]
    rate_hz = _RATES[rate] >> {3: 0, 2: 1, 0: 2}[version]
    if layer == 1:
        length = (12 * bits // rate_hz + padding) * 4
    else:
        length = (72 if layer == 3 and version != 3 else 144) * bits // rate_hz + padding
    return bytes((header[1] & 0xFE, rate)), length


def _adts_frame(header: bytes) -> tuple[bytes, int] | None:
    if len(header) < 6 or header[0] != 0xFF or header[1] & 0xF6 != 0xF0 or header[2] >> 2 & 15 > 12:
        return None
    length = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    return (bytes((header[1], header[2] & 0xFC)), length) if length > 7 else None
