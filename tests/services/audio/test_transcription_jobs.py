"""A recording's job: heard piece by piece, stored as it goes, its owner's alone, and what is left when it fails."""

from pathlib import Path

import pytest

from core.jobs import RetryLater, TakenAway
from domain.errors import NotFound, TooManyJobs, UnknownModel
from services.audio.job_store import JobStore
from services.audio.wishes import Wishes
from tests.house_for_tests import until
from tests.studio_for_tests import ALICE, BOB, House, open_studio, speech
from tests.transcription_server import Cut, Said, Status, TranscriptionServer

WHISPER = Wishes(model="whisper-1")


async def done(studio: House, **how: object):
    """A job of some words, done here and now: its text, and what became of it."""
    text, pcm = speech(40)
    job = await studio.send(pcm, **how)
    await studio.work.perform(str(job.job_id))
    return text, await studio.get(job)


async def test_every_word_of_a_long_recording_comes_back_once(studio: House, provider: TranscriptionServer) -> None:
    text, job = await done(studio, wishes=WHISPER)
    assert (job.status, job.progress_percent, job.error) == ("succeeded", 100, None)
    assert job.transcript is not None
    assert job.transcript["text"] == text
    assert " ".join(segment["text"] for segment in job.transcript["segments"]) == text
    assert (job.transcript["language"], job.transcript["model"]) == ("fr", "whisper-1")
    assert len(provider.asked) > 2, "it was cut"
    assert all(asked.audio_s <= 10.5 for asked in provider.asked)


async def test_each_piece_is_asked_with_the_end_of_what_was_said(studio: House, provider: TranscriptionServer) -> None:
    await done(studio, wishes=Wishes(model="whisper-1", prompt="Ada Lovelace", language="fr"))
    first, second, third, *_ = provider.asked
    assert first.fields["prompt"] == "Ada Lovelace"
    assert second.fields["prompt"] == f"Ada Lovelace {first.text}"
    assert third.fields["prompt"] == f"Ada Lovelace {first.text} {second.text}"
    assert {asked.fields["language"] for asked in provider.asked} == {"fr"}


@pytest.mark.parametrize("context", ["chained", "parallel"])
async def test_speech_without_a_pause_is_whole_too(studio: House, provider: TranscriptionServer, context: str) -> None:
    text, pcm = speech(70, pause_s=0.0, long_pause_every=0)
    job = await studio.send(pcm, wishes=Wishes(model="whisper-1", context=context))  # type: ignore[arg-type]
    await studio.work.perform(str(job.job_id))
    ended = await studio.get(job)
    assert ended.transcript is not None
    assert ended.transcript["text"] == text
    assert len(provider.asked) > 3


async def test_pieces_are_heard_at_once_when_asked(studio: House, provider: TranscriptionServer) -> None:
    provider.pause_s = 0.3
    text, job = await done(studio, wishes=Wishes(model="whisper-1", context="parallel"))
    assert job.transcript is not None
    assert job.transcript["text"] == text
    assert provider.most_open > 1
    assert all("prompt" not in asked.fields for asked in provider.asked)


async def test_one_row_says_what_it_cost(studio: House, provider: TranscriptionServer) -> None:
    _, job = await done(studio, wishes=Wishes(model="whisper-1", project_id="p"))
    (row,) = studio.ledger.rows
    seconds = sum(round(asked.audio_s) for asked in provider.asked)
    assert (row.run_id, row.subject, row.model, row.status, row.agent) == (
        job.job_id,
        "alice",
        "whisper-1",
        "succeeded",
        None,
    )
    assert row.project_id == "p"
    assert row.audio_s == pytest.approx(seconds)
    assert row.cost_eur is not None
    assert job.transcript is not None
    metadata = job.transcript["metadata"]
    assert metadata["pricing"]["total_cost"] == pytest.approx(row.cost_eur)
    assert metadata["pricing"]["by_model"]["whisper-1"]["total"] == pytest.approx(
        seconds / 60 * 0.006 * metadata["pricing"]["rate"]["usd_eur"]
    )
    assert metadata["emissions_kgCO2eq"] is None, "nobody publishes what it emits"
    assert metadata["impact"]["unaccounted_models"] == ["whisper-1"]
    assert metadata["usage_by_model"]["whisper-1"]["audio_s"] == pytest.approx(seconds)


async def test_the_recording_goes_with_the_end_of_its_job(studio: House) -> None:
    _, pcm = speech(10)
    job = await studio.send(pcm)
    assert studio.rows("SELECT count(*) AS n FROM transcription_files")[0]["n"] > 0
    await studio.work.perform(str(job.job_id))
    for table in ("transcription_files", "transcription_pieces"):
        assert studio.rows(f"SELECT count(*) AS n FROM {table}") == [{"n": 0}]  # noqa: S608 - a name of ours
    assert list(studio.transcriptions.directory.iterdir()) == []


async def test_a_piece_that_cannot_be_heard_fails_the_job_by_name_and_keeps_what_was_heard(
    studio: House, provider: TranscriptionServer
) -> None:
    _, pcm = speech(40)
    provider.play(Said({"text": "un deux", "language": "french", "segments": []}), Status(400))
    job = await studio.send(pcm)
    await studio.work.perform(str(job.job_id))
    ended = await studio.get(job)
    assert ended.status == "failed"
    assert ended.error is not None
    assert ended.error.startswith("piece 2 (0:00:")
    assert "scripted 400" in ended.error
    assert ended.transcript is not None
    assert ended.transcript["text"] == "un deux"
    assert 0 < ended.progress_percent < 100
    assert [row.status for row in studio.ledger.rows] == ["failed", "failed"], "the job's, and the refused call's"


async def test_what_may_pass_is_waited_for_and_no_piece_is_asked_twice(
    studio: House, provider: TranscriptionServer
) -> None:
    text, pcm = speech(40)
    job = await studio.send(pcm)
    provider.play(Said({"text": "zero", "language": "french", "segments": []}), *[Status(503)] * 3)
    with pytest.raises(RetryLater):
        await studio.work.perform(str(job.job_id))
    waiting = await studio.get(job)
    assert waiting.status == "queued"
    assert waiting.error is not None
    assert "piece 2" in waiting.error
    asked_before = len(provider.asked)
    await studio.work.perform(str(job.job_id))
    ended = await studio.get(job)
    assert ended.status == "succeeded"
    assert ended.transcript is not None
    assert ended.transcript["text"].startswith("zero ")
    first = provider.asked[0].text
    assert ended.transcript["text"] == text.replace(first, "zero", 1)
    assert first not in [asked.text for asked in provider.asked[asked_before:]]


async def test_a_cut_answer_is_asked_again_and_counted(studio: House, provider: TranscriptionServer) -> None:
    provider.play(Cut())
    text, job = await done(studio, wishes=WHISPER)
    assert job.transcript is not None
    assert job.transcript["text"] == text
    (row,) = studio.ledger.rows
    assert row.estimated
    statuses = {call["status"] for call in row.calls}
    assert statuses == {"failed", "succeeded"}


async def test_a_provider_that_is_down_is_replaced_and_named(studio: House, provider: TranscriptionServer) -> None:
    provider.play(Status(429, headers=(("Retry-After", "30"),)))
    text, pcm = speech(8)
    job = await studio.send(pcm, wishes=Wishes())
    await studio.work.perform(str(job.job_id))
    ended = await studio.get(job)
    assert ended.transcript is not None
    assert (ended.transcript["text"], ended.transcript["model"]) == (text, "voxtral-mini-latest")
    (hop,) = ended.transcript["metadata"]["fallbacks"]
    assert hop["model"] == "whisper-1"
    assert "429" in hop["reason"]


async def test_a_meeting_has_its_account(studio: House) -> None:
    text, pcm = speech(12)
    job = await studio.send(pcm, wishes=Wishes("transcription_meeting", "gpt-4o-transcribe"))
    await studio.work.perform(str(job.job_id))
    ended = await studio.get(job)
    assert ended.transcript is not None
    assert (ended.transcript["text"], ended.transcript["segments"]) == (text, None)
    assert ended.transcript["meeting"]["summary"] == "12 mots, alice"


async def test_nobody_else_sees_a_job(studio: House) -> None:
    _, pcm = speech(5)
    job = await studio.send(pcm)
    for ask in (studio.jobs.get_or_raise, studio.jobs.end):
        with pytest.raises(NotFound):
            await ask(BOB, str(job.job_id))
    assert await studio.jobs.find(BOB, limit=10, offset=0) == ([], 0)
    found, total = await studio.jobs.find(ALICE, limit=10, offset=0)
    assert ([one.job_id for one in found], total) == ([job.job_id], 1)
    assert await studio.jobs.find(ALICE, limit=10, offset=5) == ([], 1)


@pytest.mark.parametrize("job_id", ["", "x", "00000000-0000-4000-8000-000000000000", "\x00"])
async def test_a_job_that_does_not_exist_is_not_found(studio: House, job_id: str) -> None:
    with pytest.raises(NotFound):
        await studio.jobs.get_or_raise(ALICE, job_id)


async def test_a_cancelled_job_stops_and_leaves_its_account(studio: House, provider: TranscriptionServer) -> None:
    _, pcm = speech(40)
    provider.pause_s = 0.2
    job = await studio.send(pcm)
    studio.queue.start()
    await studio.until(job, "running")
    await until(lambda: len(studio.pieces(job)) >= 1)
    cancelled = await studio.jobs.end(ALICE, str(job.job_id))
    assert cancelled is not None
    assert cancelled.status == "cancelled"
    await until(lambda: provider.open_now == 0)
    await until(lambda: studio.rows("SELECT * FROM procrastinate_jobs") == [])
    assert (await studio.get(job)).status == "cancelled"
    assert studio.rows("SELECT count(*) AS n FROM transcription_files") == [{"n": 0}]
    assert {row.status for row in studio.ledger.rows} == {"cancelled"}
    assert studio.ledger.rows[0].run_id == job.job_id
    assert await studio.jobs.end(ALICE, str(job.job_id)) is None, "then it is deleted"
    with pytest.raises(NotFound):
        await studio.get(job)


async def test_who_lost_the_job_writes_nothing_any_more(studio: House) -> None:
    _, pcm = speech(20)
    job = await studio.send(pcm)
    store = JobStore(studio.database)
    slow, quick = await store.take(job.job_id), await store.take(job.job_id)
    assert slow is not None
    assert quick is not None
    for write in (store.succeed(slow, {}), store.fail(slow, "no", None), store.postpone(slow, "later")):
        with pytest.raises(TakenAway):
            await write
    await store.succeed(quick, {"text": "mine"})
    assert (await studio.get(job)).transcript == {"text": "mine"}
    assert await store.take(job.job_id) is None


async def test_a_caller_has_so_many_unfinished_jobs_and_no_more(
    migrated_url: str, tmp_path: Path, provider: TranscriptionServer
) -> None:
    async with open_studio(migrated_url, tmp_path, provider.base_url, audio_jobs_per_caller=2) as studio:
        _, pcm = speech(3)
        first = await studio.send(pcm)
        await studio.send(pcm)
        with pytest.raises(TooManyJobs, match="AUDIO_JOBS_PER_CALLER"):
            await studio.send(pcm)
        with pytest.raises(TooManyJobs):
            await studio.jobs.check_room(ALICE)
        await studio.send(pcm, principal=BOB)
        await studio.work.perform(str(first.job_id))
        await studio.send(pcm)


async def test_old_jobs_are_forgotten_and_others_stay(studio: House) -> None:
    _, pcm = speech(3)
    old, new, waiting = [await studio.send(pcm) for _ in range(3)]
    for job in (old, new):
        await studio.work.perform(str(job.job_id))
    studio.rows(
        "UPDATE transcription_jobs SET finished_at = now() - interval '31 days' WHERE job_id = %s RETURNING 1",
        old.job_id,
    )
    assert await studio.jobs.forget_old() == 1
    found, _ = await studio.jobs.find(ALICE, limit=10, offset=0)
    assert {job.job_id for job in found} == {new.job_id, waiting.job_id}


async def test_a_model_that_does_not_exist_is_refused_before_anything_is_stored(studio: House) -> None:
    _, pcm = speech(3)
    with pytest.raises(UnknownModel, match="whisper-9"):
        await studio.send(pcm, wishes=Wishes(model="whisper-9"))
    assert studio.rows("SELECT * FROM transcription_jobs") == []


async def test_silence_is_a_transcript_of_nothing_for_nothing(studio: House, provider: TranscriptionServer) -> None:
    job = await studio.send(b"\x00\x00" * 16_000 * 4)
    await studio.work.perform(str(job.job_id))
    ended = await studio.get(job)
    assert ended.status == "succeeded"
    assert ended.transcript is not None
    assert (ended.transcript["text"], ended.transcript["segments"], ended.transcript["model"]) == ("", [], None)
    assert ended.transcript["metadata"]["pricing"]["total_cost"] == 0
    assert provider.asked == []
    assert studio.ledger.rows == []
