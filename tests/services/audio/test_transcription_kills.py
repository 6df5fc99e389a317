"""kill -9 of workers at any moment: every job ends, with the text of an undisturbed run, and hardly a piece twice."""

import asyncio
import random
from collections import Counter
from pathlib import Path

from services.audio.hearing import Context
from services.audio.wishes import Wishes
from tests.house_for_tests import until
from tests.postgres_for_tests import Child
from tests.studio_for_tests import House, open_studio, speech
from tests.transcription_server import TranscriptionServer

WORKER = """
import asyncio, sys
from pathlib import Path
from tests.studio_for_tests import open_studio

async def main():
    async with open_studio(sys.argv[1], Path(sys.argv[2]), sys.argv[3], audio_piece_s=5.0) as studio:
        studio.queue.start()
        print("at work", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""
ENDS_S = 90.0


async def worker(studio: House, folder: Path, provider: TranscriptionServer) -> Child:
    child = await asyncio.to_thread(Child, WORKER, studio.url, str(folder), provider.base_url)
    assert await asyncio.to_thread(child.read_line) == "at work"
    return child


async def kill_loop(
    url: str, folder: Path, provider: TranscriptionServer, *, jobs: int, kills: int, context: Context = "chained"
) -> int:
    """Two workers share the jobs, and now and then one of them dies. How many pieces were asked more than once."""
    chance = random.Random(kills)  # noqa: S311 - when to kill
    provider.pause_s = 0.15
    async with open_studio(url, folder, provider.base_url, audio_piece_s=5.0) as studio:
        recordings = [speech(25, seed=number) for number in range(jobs)]
        sent = [await studio.send(pcm, wishes=Wishes(model="whisper-1", context=context)) for _, pcm in recordings]
        workers = [await worker(studio, folder / f"worker{number}", provider) for number in range(2)]
        try:
            for number in range(kills):
                asked = len(provider.asked)
                await until(lambda asked=asked: len(provider.asked) > asked or _all_ended(studio), ENDS_S)
                await asyncio.sleep(chance.uniform(0.0, 0.3))
                victim = chance.randrange(2)
                await asyncio.to_thread(workers[victim].kill)
                workers[victim] = await worker(studio, folder / f"again{number}", provider)
            await until(lambda: _all_ended(studio), ENDS_S)
        finally:
            for child in workers:
                await asyncio.to_thread(child.kill)
        for job, (text, _) in zip(sent, recordings, strict=True):
            ended = await studio.get(job)
            assert (ended.status, ended.error) == ("succeeded", None)
            assert ended.transcript is not None
            assert ended.transcript["text"] == text
        assert studio.rows("SELECT * FROM transcription_pieces") == []
    times = Counter(asked.text for asked in provider.asked)
    return sum(count - 1 for count in times.values())


def _all_ended(studio: House) -> bool:
    left = "SELECT count(*) AS n FROM transcription_jobs WHERE status IN ('queued', 'running')"
    return bool(studio.rows(left)[0]["n"] == 0)


async def test_killed_again_and_again_every_job_ends_whole(
    migrated_url: str, tmp_path: Path, provider: TranscriptionServer
) -> None:
    repeats = await kill_loop(migrated_url, tmp_path, provider, jobs=2, kills=3)
    assert repeats <= 3, "what a worker was waiting for when it died is asked again, and nothing else"


async def test_pieces_heard_at_once_survive_as_well(
    migrated_url: str, tmp_path: Path, provider: TranscriptionServer
) -> None:
    repeats = await kill_loop(migrated_url, tmp_path, provider, jobs=1, kills=1, context="parallel")
    assert repeats <= 4, "up to four were being heard when a worker died"
