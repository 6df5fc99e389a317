"""What goes wrong around a transcription job: it always ends, and what was heard is counted once."""

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from core.jobs import RetryLater
from domain.audio import AudioPiece
from domain.errors import DatabaseUnavailable, ShuttingDown, StorageFull
from domain.usage import Call, TokenUsage
from services.audio import jobs as jobs_module
from services.audio import transcription
from services.audio.job_store import JobStore
from services.audio.transcription import Recording
from services.audio.wishes import Wishes
from tests.house_for_tests import until
from tests.postgres_for_tests import WAIT_S
from tests.studio_for_tests import BOB, House, speech
from tests.transcription_server import Said, Status, TranscriptionServer

MEETING = Wishes("transcription_meeting", "whisper-1")


def heard_s(rows: list[Any]) -> float:
    return sum(row.audio_s or 0 for row in rows)


@pytest.mark.parametrize(
    "answer",
    [
        {"text": "zero\u0000 un", "language": "french", "segments": [{"start": 0, "end": 1, "text": "a\u0000"}]},
        {"text": "zero", "usage": {"type": "duration", "seconds": 1e308}},
        {"text": "zero", "usage": {"type": "tokens", "input_tokens": 1e30, "output_tokens": 1}},
    ],
    ids=["NUL", "endless seconds", "endless tokens"],
)
async def test_a_lying_provider_keeps_no_job_from_its_end(
    studio: House, provider: TranscriptionServer, answer: dict[str, Any]
) -> None:
    _, pcm = speech(40)
    provider.play(Said(answer))
    job = await studio.send(pcm)
    await studio.work.perform(str(job.job_id))
    ended = await studio.get(job)
    assert ended.status == "succeeded"
    assert ended.transcript is not None
    assert ended.transcript["text"].startswith("zero")


async def test_a_reason_that_cannot_be_stored_is_stored_without(studio: House, provider: TranscriptionServer) -> None:
    _, pcm = speech(5)
    provider.play(Status(429, {"error": {"message": "no\u0000"}}, (("Retry-After", "60"),)))
    job = await studio.send(pcm, wishes=Wishes())
    await studio.work.perform(str(job.job_id))
    ended = await studio.get(job)
    assert ended.transcript is not None
    assert "429" in ended.transcript["metadata"]["fallbacks"][0]["reason"]


async def test_a_fault_of_our_own_ends_the_job_too(studio: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise KeyError("oops")

    monkeypatch.setattr(JobStore, "succeed", broken)
    _, pcm = speech(5)
    job = await studio.send(pcm)
    await studio.work.perform(str(job.job_id))
    ended = await studio.get(job)
    assert (ended.status, ended.error) == ("failed", "the server failed; its log says why")


async def test_an_account_that_the_shutdown_cut_off_is_written_at_the_next_attempt(
    studio: House, provider: TranscriptionServer
) -> None:
    studio.minutes.failures.append(ShuttingDown("the server is shutting down"))
    _, pcm = speech(5)
    job = await studio.send(pcm, wishes=MEETING)
    with pytest.raises(RetryLater):
        await studio.work.perform(str(job.job_id))
    asked = len(provider.asked)
    await studio.work.perform(str(job.job_id))
    ended = await studio.get(job)
    assert ended.transcript is not None
    assert ended.transcript["meeting"]["summary"] == "5 mots, alice"
    assert len(provider.asked) == asked, "nothing is heard again for it"


async def test_an_account_that_keeps_failing_costs_the_transcript_nothing(studio: House) -> None:
    studio.minutes.failures += [DatabaseUnavailable("the model is down")] * 9
    _, pcm = speech(5)
    job = await studio.send(pcm, wishes=MEETING)
    for _ in range(3):
        with pytest.raises(RetryLater):
            await studio.work.perform(str(job.job_id))
    await studio.work.perform(str(job.job_id))
    ended = await studio.get(job)
    assert ended.status == "succeeded"
    assert ended.transcript is not None
    assert ended.transcript["meeting"]["error"] == "the model is down"


async def test_what_an_account_took_is_in_the_jobs_report_and_not_in_its_row(studio: House) -> None:
    studio.minutes.calls.append(Call("gpt-4o-mini", "openai", TokenUsage(200, 40), False, "succeeded", 1.0))
    _, pcm = speech(5)
    job = await studio.send(pcm, wishes=MEETING)
    await studio.work.perform(str(job.job_id))
    ended = await studio.get(job)
    assert ended.transcript is not None
    assert ended.transcript["metadata"]["usage_by_model"].keys() == {"whisper-1", "gpt-4o-mini"}
    (row,) = studio.ledger.rows
    assert [call["model"] for call in row.calls] == ["whisper-1"], "the agent's run has a row of its own"


async def test_an_end_that_could_not_be_written_is_in_no_row(
    studio: House, provider: TranscriptionServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail = JobStore.fail

    async def away(*_: Any) -> None:
        monkeypatch.setattr(JobStore, "fail", fail)
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(JobStore, "fail", away)
    _, pcm = speech(40)
    job = await studio.send(pcm)
    provider.play(Said({"text": "zero"}), Status(400))
    with pytest.raises(DatabaseUnavailable):
        await studio.work.perform(str(job.job_id))
    await studio.work.perform(str(job.job_id))
    assert (await studio.get(job)).status == "succeeded"
    (row,) = [row for row in studio.ledger.rows if row.run_id == job.job_id]
    assert row.audio_s == pytest.approx(job.duration_s, rel=0.15)
    assert row.status == "succeeded"


async def test_who_is_ended_while_a_piece_is_stored_counts_it_once(
    studio: House, provider: TranscriptionServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, stored, go_on = JobStore.add, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any, **more: Any) -> None:
        await add(*args, **more)
        stored.set()
        await go_on.wait()

    monkeypatch.setattr(JobStore, "add", slow)
    _, pcm = speech(40)
    job = await studio.send(pcm)
    work = asyncio.create_task(studio.work.perform(str(job.job_id)))
    await asyncio.wait_for(stored.wait(), WAIT_S)
    work.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await work
    (row,) = studio.rows("SELECT calls FROM transcription_jobs")
    assert row["calls"][0]["audio_s"] == round(provider.asked[0].audio_s)
    assert heard_s(studio.ledger.rows) == 0, "it is in the job's account, and in no other"


async def test_many_uploads_of_one_caller_leave_others_their_connections(
    studio: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, storing = asyncio.Event(), 0

    async def slow(*_: Any) -> None:
        nonlocal storing
        storing += 1
        await go_on.wait()

    monkeypatch.setattr(jobs_module.FILES, "store", slow)
    _, pcm = speech(2)
    sending = [asyncio.create_task(studio.send(pcm)) for _ in range(12)]
    await until(lambda: storing >= 1, WAIT_S)
    for _ in range(50):
        await asyncio.sleep(0)
    assert await asyncio.wait_for(studio.jobs.find(BOB, limit=1, offset=0), WAIT_S / 2) == ([], 0)
    go_on.set()
    assert len(await asyncio.gather(*sending)) == 12


async def test_each_attempt_that_hears_something_has_all_its_tries_again(
    studio: House, provider: TranscriptionServer
) -> None:
    _, pcm = speech(40)
    job = await studio.send(pcm)
    provider.play(*[Status(503)] * 3)
    with pytest.raises(RetryLater):
        await studio.work.perform(str(job.job_id))
    assert studio.rows("SELECT attempts FROM transcription_jobs") == [{"attempts": 1}]
    provider.play(Said({"text": "zero"}), *[Status(503)] * 3)
    with pytest.raises(RetryLater) as later:
        await studio.work.perform(str(job.job_id))
    assert later.value.wait_s == pytest.approx(0.05), "the shortest wait again"
    assert studio.rows("SELECT attempts FROM transcription_jobs") == [{"attempts": 0}]
    unstored = [row for row in studio.ledger.rows if row.run_id != job.job_id]
    assert len(unstored) == 2, "what brought nothing has rows of its own"


async def test_a_disk_that_fills_is_told_at_once_and_waited_for_by_a_job(
    studio: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def full(*_: Any, **__: Any) -> AsyncIterator[AudioPiece]:
        raise OSError(errno.ENOSPC, "No space left on device")
        yield

    monkeypatch.setattr(transcription, "cut", full)
    with pytest.raises(StorageFull):
        await studio.transcriptions.run(Recording(tmp_path / "a.wav", 5.0), Wishes(model="whisper-1"), BOB, "r")
    _, pcm = speech(3)
    job = await studio.send(pcm)
    with pytest.raises(RetryLater):
        await studio.work.perform(str(job.job_id))
    waiting = await studio.get(job)
    assert waiting.status == "queued"
    assert "No space left" in (waiting.error or "")
