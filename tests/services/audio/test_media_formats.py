"""Every promised format is read: how long it is, and cut into pieces that are the whole of it."""

import io
import tempfile
from pathlib import Path

import av
import numpy as np
import pytest

from services.audio.media import MediaLimits, cut, probe
from tests.media_for_tests import LIMITS, cover, extensible_wav, film, pieces_of, plan_for, samples_of, written
from tests.speech_for_tests import FORMATS, RATE, encoded, encoded_as, noise, recording, silence

SECONDS = 20.0
MP3_FRAME_S = 0.036
TOLERANCE_S = 0.15
"""What encoders add at the beginning and the end, where a container has no place to say so."""


SAID = {
    "mp3": ("mp3", "mp3"),
    "mp4": ("mp4", "aac"),
    "mpeg": ("mpeg", "mp2"),
    "mpga": ("mp3", "mp2"),
    "m4a": ("mp4", "aac"),
    "wav": ("wav", "pcm_s16le"),
    "webm": ("webm", "opus"),
    "browser.webm": ("webm", "opus"),
    "ogg": ("ogg", "opus"),
    "flac": ("flac", "flac"),
    "aac": ("aac", "aac"),
}
"""Container and codec, as a probe names them."""


@pytest.mark.parametrize("kind", FORMATS)
async def test_a_recording_is_as_long_as_it_is_and_its_pieces_are_all_of_it(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, encoded(recording(SECONDS), kind), "named.txt")
    found = await probe(path, LIMITS)
    assert (found.container, found.codec) == SAID[kind]
    assert found.duration_s == pytest.approx(SECONDS, abs=TOLERANCE_S)
    pieces = await pieces_of(path, tmp_path, plan_for(found, 10, 14))
    assert len(pieces) >= 2
    begin, end = cover(pieces)
    assert begin == 0
    assert end == pytest.approx(SECONDS, abs=TOLERANCE_S)
    assert not any(piece.silent or piece.overlap_s for piece in pieces)
    for piece in pieces:
        assert len(samples_of(piece.path)) / RATE == pytest.approx(piece.duration_s, abs=MP3_FRAME_S)


async def test_the_pieces_hold_what_the_recording_held(tmp_path: Path) -> None:
    pcm = recording(SECONDS)
    pieces = await pieces_of(written(tmp_path, encoded(pcm, "wav")), tmp_path)
    held = [samples_of(piece.path)[: round(piece.duration_s * RATE)] for piece in pieces]
    heard = np.concatenate(held).astype(float)
    said = np.frombuffer(pcm, np.int16).astype(float)
    assert len(heard) == len(said)
    assert np.square(heard - said).sum() < np.square(said).sum() / 100


async def test_an_index_at_the_end_and_one_at_the_beginning_are_both_found() -> None:
    assert encoded(recording(2), "mp4").index(b"moov") > encoded(recording(2), "mp4").index(b"mdat")
    assert encoded(recording(2), "m4a").index(b"moov") < encoded(recording(2), "m4a").index(b"mdat")


async def test_an_mp3_without_tags_behind_junk_or_behind_a_large_title_is_an_mp3(tmp_path: Path) -> None:
    bare = encoded_as(recording(5), "mp3", "libmp3lame", 22_050, {"id3v2_version": "0", "write_xing": "0"})
    assert bare[0] == 0xFF
    picture = b"ID3\x04\x00\x00\x00\x10\x00\x00" + bytes(1 << 18)
    for name, content in {"bare": bare, "junk": bytes(3_000) + bare, "picture": picture + bare}.items():
        found = await probe(written(tmp_path, content, name), LIMITS)
        assert found.duration_s == pytest.approx(5, abs=TOLERANCE_S), name
        assert found.codec == "mp3"


@pytest.mark.parametrize(("channels", "mask"), [(1, 4), (2, 3), (4, 0), (6, 0x3F)])
async def test_an_extensible_wav_of_any_number_of_channels_is_mixed_to_one(
    channels: int, mask: int, tmp_path: Path
) -> None:
    path = written(tmp_path, extensible_wav(recording(4), channels, mask))
    (piece,) = await pieces_of(path, tmp_path)
    assert piece.duration_s == pytest.approx(4, abs=0.001)
    assert not piece.silent


async def test_a_wav_with_sizes_of_64_bits_and_one_that_was_piped_are_read(tmp_path: Path) -> None:
    long = encoded_as(recording(3), "wav", "pcm_s16le", RATE, {"rf64": "always"})
    assert long.startswith(b"RF64")
    piped = bytearray(encoded(recording(3), "wav"))
    at = piped.index(b"data")
    piped[at + 4 : at + 8] = b"\xff\xff\xff\xff"
    for name, content in {"rf64": long, "piped": bytes(piped)}.items():
        assert (await probe(written(tmp_path, content, name), LIMITS)).duration_s == pytest.approx(3), name


async def test_a_stereo_recording_at_another_rate_keeps_its_length(tmp_path: Path) -> None:
    path = written(tmp_path, encoded_as(recording(30), "flac", "flac", 44_100, layout="stereo"))
    (piece,) = await pieces_of(path, tmp_path, target_s=25)
    assert piece.duration_s == pytest.approx(30, abs=0.001)


async def test_a_film_with_sound_is_heard(tmp_path: Path) -> None:
    path = written(tmp_path, film(with_sound=True))
    assert (await probe(path, LIMITS)).duration_s == pytest.approx(2, abs=TOLERANCE_S)
    (piece,) = await pieces_of(path, tmp_path)
    assert not piece.silent


async def test_a_rate_that_changes_on_the_way_changes_nothing(tmp_path: Path) -> None:
    options = {"id3v2_version": "0", "write_xing": "0"}
    parts = [encoded_as(recording(10), "mp3", "libmp3lame", rate, options) for rate in (44_100, 16_000, 44_100)]
    pieces = await pieces_of(written(tmp_path, b"".join(parts)), tmp_path)
    assert cover(pieces) == (0, pytest.approx(30, abs=3 * TOLERANCE_S))


async def test_times_that_leap_do_not_make_a_recording_longer(tmp_path: Path) -> None:
    path = written(tmp_path, with_a_leap(encoded(recording(12), "webm"), 500))
    assert (await probe(path, LIMITS)).duration_s == pytest.approx(12, abs=TOLERANCE_S)
    (piece,) = await pieces_of(path, tmp_path)
    assert piece.duration_s == pytest.approx(12, abs=TOLERANCE_S)


async def test_times_that_begin_anew_do_not_make_a_recording_shorter(tmp_path: Path) -> None:
    path = written(tmp_path, encoded(recording(6), "ogg") + encoded(recording(8), "ogg"))
    assert (await probe(path, LIMITS)).duration_s == pytest.approx(14, abs=TOLERANCE_S)
    (piece,) = await pieces_of(path, tmp_path)
    assert piece.duration_s == pytest.approx(14, abs=TOLERANCE_S)


@pytest.mark.parametrize("kind", ["mp3", "webm", "aac", "mpeg"])
async def test_garbage_in_the_middle_is_read_over(kind: str, tmp_path: Path) -> None:
    """Some seconds may go (a webm goes on at its next cluster, after up to five), not the ten that follow."""
    content = bytearray(encoded(recording(20), kind))
    middle = len(content) // 2
    content[middle : middle + 2_000] = noise(0.0625, -5)
    (piece,) = await pieces_of(written(tmp_path, bytes(content)), tmp_path)
    assert piece.duration_s == pytest.approx(20, abs=6)


async def test_a_file_without_a_name_is_read_by_its_descriptor_whose_place_stays(tmp_path: Path) -> None:
    with tempfile.TemporaryFile(dir=tmp_path) as file:
        file.write(encoded(recording(3), "m4a"))
        file.flush()
        file.seek(7)
        path, number = Path(f"/dev/fd/{file.fileno()}"), file.fileno()
        found = await probe(path, LIMITS, pass_fds=(number,))
        assert found.duration_s == pytest.approx(3, abs=TOLERANCE_S)
        pieces = [p async for p in cut(path, plan_for(found), tmp_path, LIMITS, pass_fds=(number,))]
        assert [piece.silent for piece in pieces] == [False]
        assert file.tell() == 7


async def test_an_hour_of_silence_in_a_few_bytes_is_an_hour(tmp_path: Path) -> None:
    path = written(tmp_path, encoded_as(silence(3_600), "flac", "flac", RATE))
    assert path.stat().st_size < 1_000_000
    assert (await probe(path, MediaLimits(memory_bytes=150_000_000))).duration_s == pytest.approx(3_600)


def with_a_leap(content: bytes, leap_s: int) -> bytes:
    """The second half's times are moved."""
    moved = io.BytesIO()
    with av.open(io.BytesIO(content)) as source, av.open(moved, "w", format="matroska") as output:
        stream = output.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.size:
                if packet.pts * packet.time_base > 6:
                    packet.pts += int(leap_s / packet.time_base)
                    packet.dts = packet.pts
                packet.stream = stream
                output.mux(packet)
    return moved.getvalue()
