"""The lines between the server and the process that reads a recording: each is checked against the plan."""

import errno
from pathlib import Path

import pytest

from domain.audio import AudioPiece, CutPlan, Probe
from services.audio.media_wire import (
    Broke,
    BrokenLine,
    End,
    Expected,
    SystemFailed,
    Unreadable,
    decode,
    encode,
    encode_piece,
    encode_probe,
)

PLAN = CutPlan(100, 20, 30, start_s=40, overlap_s=2.5, first_ordinal=2)


def piece(ordinal: int, start_s: float, end_s: float, overlap_s: float = 0.0) -> AudioPiece:
    return AudioPiece(ordinal, Path(), start_s, end_s, overlap_s, silent=False)


def test_what_is_said_is_understood() -> None:
    assert decode(encode_probe(Probe(12.5, "wav", "pcm_s16le"))) == Probe(12.5, "wav", "pcm_s16le")
    assert decode(encode(unreadable="why", not_audio=True)) == Unreadable("why", not_audio=True)
    assert decode(encode(broke="here")) == Broke("here")
    assert decode(encode(errno=errno.ENOSPC)) == SystemFailed(errno.ENOSPC)
    assert decode(encode(end=True), Expected(PLAN)) == End()


def test_pieces_follow_each_other() -> None:
    expected = Expected(PLAN)
    for said in (piece(2, 40, 60, 2.5), piece(3, 60, 80), piece(4, 77.5, 100, 2.5)):
        assert decode(encode_piece(said), expected) == said


@pytest.mark.parametrize(
    "said",
    [
        piece(3, 40, 60, 2.5),
        piece(2, 40, 60),
        piece(2, 41, 60, 2.5),
        piece(2, 40, 71, 2.5),
        piece(2, 40, 40, 2.5),
        piece(2, 40, 39, 2.5),
    ],
)
def test_a_first_piece_that_is_not_the_plan_s_is_refused(said: AudioPiece) -> None:
    with pytest.raises(BrokenLine):
        decode(encode_piece(said), Expected(PLAN))


@pytest.mark.parametrize(
    "said", [piece(2, 60, 80), piece(3, 61, 80), piece(3, 59, 80), piece(3, 60, 80, 2.5), piece(3, 40, 60, 20)]
)
def test_a_piece_that_leaves_a_gap_or_goes_back_is_refused(said: AudioPiece) -> None:
    expected = Expected(PLAN)
    decode(encode_piece(piece(2, 40, 60, 2.5)), expected)
    with pytest.raises(BrokenLine):
        decode(encode_piece(said), expected)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]\n",
        b'{"probe":[-1,"a","b"]}',
        b'{"probe":[1e300,"a","b"]}',
        b'{"probe":[true,"a","b"]}',
        b'{"probe":["1","a","b"]}',
        b'{"probe":[1,"a"]}',
        b'{"probe":[1,"a\\n","b"]}',
        b'{"probe":[1,"' + b"a" * 99 + b'","b"]}',
        b'{"piece":[0,0,1,0,false]}',
        b'{"end":true}',
        b'{"end":1}',
        b'{"errno":99999}',
        b'{"errno":"ENOSPC"}',
        b'{"unreadable":"why"}',
        b'{"unreadable":"' + b"a" * 2_000 + b'","not_audio":false}',
    ],
)
def test_what_is_no_answer_to_a_probe_is_refused(line: bytes) -> None:
    with pytest.raises(BrokenLine):
        decode(line)


@pytest.mark.parametrize(
    "numbers", ["0,0,1,0", '"0",0,1,0,false', "0,0,1,0,0", "0,null,1,0,false", "0,0,1,0,false,1", "0,0,1e99,0,false"]
)
def test_a_piece_of_other_kinds_is_refused(numbers: str) -> None:
    with pytest.raises(BrokenLine):
        decode(b'{"piece":[%s]}' % numbers.encode(), Expected(CutPlan(100, 20, 30)))
