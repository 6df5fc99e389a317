"""What is no recording is refused as such, whatever its name; one that is damaged says so. Nothing is ever fetched."""

import asyncio
import contextlib
import re
import struct
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.audio.media import MediaLimits, UnreadableAudio, probe
from services.audio.media_sniffing import sniff
from tests.media_for_tests import LIMITS, extensible_wav, film, pieces_of, refusal_of, written
from tests.speech_for_tests import encoded, encoded_as, noise, recording, wav

HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n"
PLAYLISTS = {
    "hls": HLS,
    "m3u": "{url}\n",
    "pls": "[playlist]\nFile1={url}\nNumberOfEntries=1\n",
    "asx": '<asx version="3.0"><entry><ref href="{url}"/></entry></asx>',
    "dash": '<?xml version="1.0"?>\n<MPD><Period><BaseURL>{url}</BaseURL></Period></MPD>',
    "concat": "ffconcat version 1.0\nfile {url}\n",
    "script": "file '{url}'\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n",
}
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(64)


NOT_AUDIO = {
    "a PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
    "a PNG image": PNG,
    "a JPEG image": b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(64),
    "a WebP image": b"RIFF\x40\x00\x00\x00WEBPVP8 " + bytes(64),
    "an AVI film": b"RIFF\x40\x00\x00\x00AVI LIST" + bytes(64),
    "an AIFF sound": b"FORM\x00\x00\x00\x40AIFFCOMM" + bytes(64),
    "a ZIP archive": b"PK\x03\x04" + bytes(64),
    "a gzip archive": b"\x1f\x8b\x08" + bytes(64),
    "text": "Bonjour à tous, ceci n'est pas un enregistrement.\n".encode() * 40,
    "text, in 16 bits": "Bonjour à tous.".encode("utf-16"),
    "no recording of a format known here": bytes(5_000),
}


@pytest.mark.parametrize("what", list(NOT_AUDIO))
def test_what_is_no_recording_is_named_and_what_would_be_taken(what: str) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(NOT_AUDIO[what])
        file.flush()
        with pytest.raises(UnreadableAudio) as caught:
            sniff(file.fileno())
    assert caught.value.not_audio
    assert f"is {what.partition(',')[0]}" in caught.value.reason
    assert "mp3, mp4, mpeg, mpga, m4a, wav or webm" in caught.value.reason


@pytest.mark.parametrize("kind", list(PLAYLISTS))
async def test_a_playlist_named_mp3_is_refused_and_nothing_is_fetched(kind: str, tmp_path: Path) -> None:
    async with _listening() as (port, connections):
        content = PLAYLISTS[kind].format(url=f"http://127.0.0.1:{port}/a.mp3")
        error = await refusal_of(written(tmp_path, content.encode(), "speech.mp3"))
    assert connections == []
    assert error.not_audio
    assert "a playlist" in error.reason


async def test_a_playlist_in_disguise_is_not_followed_either(tmp_path: Path) -> None:
    async with _listening() as (port, connections):
        url = f"http://127.0.0.1:{port}/a.aac"
        playlist = HLS.format(url=url).encode()
        disguises = {
            "none.m3u8": playlist,
            "title.m3u8": b"ID3\x04\x00\x00\x00\x00\x00\x00" + playlist,
            "wave.m3u8": b"RIFF\xff\xff\x00\x00WAVE" + playlist,
            "ogg.m3u8": b"OggS" + playlist,
            "film.m3u8": b"\x00\x00\x00\x10ftypm4a " + playlist,
            "reference.mp4": with_a_reference(url),
            "wide.m3u8": HLS.format(url=url).encode("utf-16"),
        }
        for name, content in disguises.items():
            with contextlib.suppress(UnreadableAudio):
                await probe(written(tmp_path, content, name), LIMITS)
    assert connections == []


@contextlib.asynccontextmanager
async def _listening() -> AsyncIterator[tuple[int, list[str]]]:
    connections: list[str] = []

    async def _connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append("connected")
        writer.close()

    server = await asyncio.start_server(_connected, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], connections


def with_a_reference(url: str) -> bytes:
    """An mp4 whose sound is said to be elsewhere: its `dref` holds an `url ` that is not in this file."""
    whole = encoded(recording(2), "mp4")
    at = whole.index(b"url \x00\x00\x00\x01")
    return whole[: at + 4] + b"\x00\x00\x00\x00" + whole[at + 8 :] + url.encode()


async def test_a_film_without_sound_is_no_recording(tmp_path: Path) -> None:
    error = await refusal_of(written(tmp_path, film(with_sound=False)))
    assert error.not_audio
    assert "only pictures" in error.reason


@pytest.mark.parametrize("kind", ["wav", "mp3", "m4a", "webm", "flac"])
async def test_a_recording_cut_short_tells_what_it_announced_and_what_is_there(kind: str, tmp_path: Path) -> None:
    content = encoded(recording(10), kind)
    error = await refusal_of(written(tmp_path, content[: len(content) // 2]))
    assert not error.not_audio
    announced, there = map(float, re.findall(r"([\d.]+) s ", error.reason))
    assert announced == pytest.approx(10, abs=0.1)
    assert there == pytest.approx(5, abs=1.5)
    assert "Send the whole file" in error.reason


async def test_an_mp4_cut_short_of_its_index_tells_its_sizes(tmp_path: Path) -> None:
    content = encoded(recording(10), "mp4")
    error = await refusal_of(written(tmp_path, content[: len(content) // 2]))
    assert not error.not_audio
    announced, there = map(float, re.findall(r"([\d.]+) MB", error.reason))
    assert announced == pytest.approx(len(content) / 1e6, rel=0.1)
    assert there == pytest.approx(len(content) / 2e6, abs=0.001)


@pytest.mark.parametrize("kind", ["browser.webm", "ogg", "aac", "mpga"])
async def test_a_recording_that_announces_nothing_is_read_as_far_as_it_goes(kind: str, tmp_path: Path) -> None:
    content = encoded(recording(10), kind)
    found = await probe(written(tmp_path, content[: len(content) // 2]), LIMITS)
    assert 3 < found.duration_s < 7


async def test_a_little_that_is_missing_does_no_harm(tmp_path: Path) -> None:
    content = wav(recording(10))
    assert (await probe(written(tmp_path, content[:-30_000]), LIMITS)).duration_s == pytest.approx(9.06, abs=0.01)


def interrupted_mp4() -> bytes:
    whole = encoded(recording(2), "mp4")
    return whole[: whole.index(b"moov") - 4]


EMPTY_OR_DAMAGED = {
    "nothing": (lambda: b"", "empty"),
    "a title only": (lambda: b"ID3\x04\x00\x00\x00\x00\x00\x40" + bytes(64), "no sound after it"),
    "a header only": (lambda: extensible_wav(recording(2), 1, 4)[:68], "cut short"),
    "no samples": (lambda: extensible_wav(b"", 1, 4), "no sound"),
    "an index that was never written": (interrupted_mp4, "no index in its 0.0"),
    "an mp4's beginning": (lambda: b"\x00\x00\x00\x10ftypM4A \x00\x00\x02\x00" + noise(1, -5), "Send the whole file"),
    "a webm's beginning": (lambda: encoded(recording(2), "webm")[:40] + noise(1, -5), "damaged"),
    "an ogg's beginning": (lambda: b"OggS\x00\x02" + noise(1, -5), "damaged"),
}


@pytest.mark.parametrize("what", list(EMPTY_OR_DAMAGED))
async def test_what_is_empty_or_damaged_says_so(what: str, tmp_path: Path) -> None:
    content, said = EMPTY_OR_DAMAGED[what]
    error = await refusal_of(written(tmp_path, content(), "speech.mp3"))
    assert said in error.reason
    assert not error.not_audio


def absurd_wav(channels: int, rate: int) -> bytes:
    content = bytearray(wav(recording(2)))
    content[22:28] = struct.pack("<HI", channels, rate)
    content[28:34] = struct.pack("<IH", min(rate * channels * 2, 2**32 - 1), min(channels * 2, 65_535))
    return bytes(content)


@pytest.mark.parametrize(("channels", "rate"), [(1, 1), (1, 4_000_000_000), (65_535, 8_000), (60, 8_000)])
async def test_headers_that_would_blow_up_memory_are_refused_within_little(
    channels: int, rate: int, tmp_path: Path
) -> None:
    path = written(tmp_path, absurd_wav(channels, rate))
    assert "memory" not in (await refusal_of(path, MediaLimits(memory_bytes=150_000_000))).reason


async def test_an_index_that_announces_billions_of_samples_is_survived(tmp_path: Path) -> None:
    content = bytearray(encoded(recording(2), "m4a"))
    at = content.index(b"stsz")
    content[at + 8 : at + 16] = struct.pack(">II", 1, 0xFFFFFFFF)
    with contextlib.suppress(UnreadableAudio):
        await probe(written(tmp_path, bytes(content)), MediaLimits(memory_bytes=150_000_000, timeout_s=100))


async def test_channels_that_cannot_be_mixed_are_named(tmp_path: Path) -> None:
    error = await refusal_of(written(tmp_path, extensible_wav(recording(1), 20, 0)))
    assert re.search("20 channels.*one channel", error.reason)


async def test_a_codec_that_recordings_are_not_made_with_is_not_decoded(tmp_path: Path) -> None:
    error = await refusal_of(written(tmp_path, encoded_as(recording(2), "matroska", "tta", 16_000)))
    assert error.not_audio
    assert "coded in a way that is not read here" in error.reason


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"ID3\x04\x00\x00\x00\x00\x00\x00", b"\xff\xfb\x90\x64", b"RIFF"])
)
def test_any_bytes_are_of_a_kind_or_refused(content: bytes, start: bytes) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(start + content)
        file.flush()
        with contextlib.suppress(UnreadableAudio):
            sniff(file.fileno())


@settings(max_examples=6)
@given(
    st.sampled_from(["mp3", "m4a", "wav", "webm", "mpeg", "ogg"]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=40)), min_size=1, max_size=20),
)
def test_a_damaged_recording_is_read_or_refused_and_nothing_else(kind: str, damages: list[tuple[float, bytes]]) -> None:
    content = bytearray(encoded(recording(4), kind))
    for where, damage in damages:
        at = int(where * len(content))
        content[at : at + len(damage)] = damage
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(UnreadableAudio):
        asyncio.run(pieces_of(written(Path(folder), bytes(content)), Path(folder)))
