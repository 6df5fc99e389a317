"""A recording heard piece by piece: in a row or at once, taken up in the middle, given up on."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from core.jobs import TurnOver, turn_is_over
from domain.audio import AudioPiece, CutPlan, Heard, Segment
from domain.errors import BadRequest, ProviderRefused
from domain.transcripts import HeardPiece, join
from domain.usage import Call
from services.audio import hearing as hearing_module
from services.audio.hearing import Ears, Listening, PieceFailed
from services.audio.router import TranscriptionRouter
from services.audio.transcribers.transcriber import TranscriptionCall
from tests.house_for_tests import CATALOGUE, until

WAIT_S = 30.0

PIECE_S = 10.0
WHOLE = CutPlan(duration_s=60.0, target_s=PIECE_S, max_s=12.0)


@dataclass
class Listener:
    """Hears the number in a piece's file. `failing` are pieces that it refuses, `gate` holds it back."""

    name: str = "openai"
    failing: dict[int, Exception] = field(default_factory=dict)
    asked: list[tuple[int, str | None]] = field(default_factory=list)
    gate: asyncio.Event | None = None
    open_now: int = 0
    most_open: int = 0

    def unavailable_reason(self, model: object, credential: object = None) -> str | None:
        return None

    async def transcribe(self, call: TranscriptionCall) -> Heard:
        number = int(call.path.read_text())
        self.asked.append((number, call.prompt))
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if (failure := self.failing.get(number)) is not None:
                raise failure
            return Heard(f"mot{number}", "fr", (Segment(0.5, 99.0, f"mot{number}"),))
        finally:
            self.open_now -= 1


@dataclass
class Recording:
    """Six pieces of ten seconds. `made` are those that were cut, in order; the most that lay on the disk at once."""

    folder: Path
    silent: frozenset[int] = frozenset()
    pieces: int = 6
    made: list[int] = field(default_factory=list)
    most_files: int = 0

    async def cut(self, plan: CutPlan) -> AsyncGenerator[AudioPiece]:
        for ordinal in range(plan.first_ordinal, self.pieces):
            path = self.folder / f"{ordinal}-{len(self.made)}.mp3"
            path.write_text(str(ordinal))
            self.made.append(ordinal)
            self.most_files = max(self.most_files, len(list(self.folder.iterdir())))
            start_s = ordinal * PIECE_S
            yield AudioPiece(ordinal, path, start_s, start_s + PIECE_S, 0.0, ordinal in self.silent)

    def left(self) -> list[Path]:
        return list(self.folder.iterdir())


@dataclass
class Outcome:
    """What came of hearing."""

    pieces: list[HeardPiece] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    async def keep(self, piece: HeardPiece) -> None:
        self.pieces.append(piece)

    @property
    def text(self) -> str:
        return join(sorted(self.pieces, key=lambda piece: piece.ordinal), duration_s=60).text


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(tmp_path)


async def hear(
    recording: Recording,
    listener: Listener,
    *,
    done: Sequence[HeardPiece] = (),
    heard: Outcome | None = None,
    **how: object,
) -> Outcome:
    heard = heard or Outcome()
    router = TranscriptionRouter(CATALOGUE, {"openai": listener})
    listening = Listening(router.plan("whisper-1"), **{"language": None, **how})  # type: ignore[arg-type]
    await Ears(router, listening, heard.calls.append).hear_all(recording.cut, WHOLE, done, heard.keep)
    return heard


ALL = " ".join(f"mot{number}" for number in range(6))


async def test_pieces_in_a_row_know_the_end_of_what_was_said_before(recording: Recording) -> None:
    listener = Listener()
    heard = await hear(recording, listener, prompt="Ada")
    assert heard.text == ALL
    assert listener.asked[:3] == [(0, "Ada"), (1, "Ada mot0"), (2, "Ada mot0 mot1")]
    assert listener.most_open == 1
    assert recording.most_files == 1, "a piece is cut when the one before is heard"
    assert recording.left() == []


async def test_pieces_at_once_are_as_many_as_allowed_and_no_more_are_cut(recording: Recording) -> None:
    gate = asyncio.Event()
    listener = Listener(gate=gate)
    hearing = asyncio.create_task(hear(recording, listener, context="parallel", parallel=3))
    await until(lambda: listener.open_now == 3, WAIT_S)
    for _ in range(20):
        await asyncio.sleep(0)
    assert (listener.open_now, len(recording.made)) == (3, 3)
    gate.set()
    heard = await hearing
    assert heard.text == ALL
    assert listener.most_open == 3
    assert {prompt for _, prompt in listener.asked} == {None}
    assert recording.left() == []


@pytest.mark.parametrize("context", ["chained", "parallel"])
async def test_a_job_gives_way_between_pieces_and_every_piece_that_was_begun_is_kept(
    recording: Recording, monkeypatch: pytest.MonkeyPatch, context: str
) -> None:
    async def others_wait() -> bool:
        return len(recording.made) >= 3

    monkeypatch.setattr(hearing_module, "turn_is_over", others_wait)
    listener, heard = Listener(), Outcome()
    with pytest.raises(TurnOver):
        await hear(recording, listener, heard=heard, context=context, parallel=2)
    assert sorted(piece.ordinal for piece in heard.pieces) == [0, 1, 2]
    assert recording.left() == []
    monkeypatch.setattr(hearing_module, "turn_is_over", turn_is_over)
    await hear(recording, listener, done=tuple(heard.pieces), heard=heard, context=context, parallel=2)
    assert sorted(number for number, _ in listener.asked) == list(range(6)), "none is paid for twice"


async def test_times_count_from_the_beginning_and_end_with_their_piece(recording: Recording) -> None:
    heard = await hear(recording, Listener())
    assert heard.pieces[2].segments == (Segment(20.5, 30.0, "mot2"),)


@pytest.mark.parametrize("context", ["chained", "parallel"])
async def test_silence_is_not_sent_to_anybody(recording: Recording, context: str) -> None:
    recording.silent = frozenset({1, 4})
    listener = Listener()
    heard = await hear(recording, listener, context=context, parallel=2)
    assert {number for number, _ in listener.asked} == {0, 2, 3, 5}
    assert heard.text == "mot0 mot2 mot3 mot5"
    assert len(heard.calls) == 4
    assert sorted(piece.ordinal for piece in heard.pieces) == list(range(6))


async def test_what_was_heard_before_is_not_asked_again(recording: Recording) -> None:
    first = await hear(recording, Listener())
    recording.made.clear()
    listener = Listener()
    again = await hear(recording, listener, done=first.pieces[:3])
    assert [number for number, _ in listener.asked] == [3, 4, 5]
    assert listener.asked[0] == (3, "mot0 mot1 mot2")
    assert recording.made == [2, 3, 4, 5], "it is taken up at the last piece heard: its cut tells where the next begins"
    assert [piece.ordinal for piece in again.pieces] == [3, 4, 5]
    assert recording.left() == []


async def test_gaps_of_an_attempt_at_once_are_filled(recording: Recording) -> None:
    first = await hear(recording, Listener())
    listener = Listener()
    done = [first.pieces[number] for number in (0, 1, 3, 5)]
    again = await hear(recording, listener, done=done, context="parallel", parallel=2)
    assert sorted(number for number, _ in listener.asked) == [2, 4]
    assert sorted(piece.ordinal for piece in again.pieces) == [2, 4]
    assert recording.left() == []


@pytest.mark.parametrize("context", ["chained", "parallel"])
async def test_a_piece_that_cannot_be_heard_is_named(recording: Recording, context: str) -> None:
    heard = Outcome()
    with pytest.raises(PieceFailed) as failure:
        await hear(recording, Listener(failing={3: BadRequest("no")}), heard=heard, context=context, parallel=1)
    assert failure.value.where == "piece 4 (0:00:30 to 0:00:40)"
    assert isinstance(failure.value.cause, BadRequest)
    assert [piece.ordinal for piece in heard.pieces] == [0, 1, 2]
    assert heard.calls[-1].status == "failed"


async def test_a_provider_that_refuses_for_good_is_asked_once_a_piece(recording: Recording) -> None:
    refused = ProviderRefused("openai answered 400", retryable=False, upstream_status=400)
    listener = Listener(failing={0: refused})
    with pytest.raises(PieceFailed):
        await hear(recording, listener)
    assert len(listener.asked) == 1


@pytest.mark.parametrize("context", ["chained", "parallel"])
async def test_who_leaves_ends_the_hearing_and_is_counted(recording: Recording, context: str) -> None:
    listener, heard = Listener(gate=asyncio.Event()), Outcome()
    hearing = asyncio.create_task(hear(recording, listener, heard=heard, context=context, parallel=2))
    await until(lambda: listener.open_now > 0, WAIT_S)
    hearing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hearing
    assert listener.open_now == 0
    assert {call.status for call in heard.calls} == {"cancelled"}
    assert heard.calls[0].usage.audio_s == PIECE_S
    assert heard.calls[0].estimated
