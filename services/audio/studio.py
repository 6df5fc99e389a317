"""The studio: transcription, its jobs and their queue, built and connected."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from config.settings import Settings
from core.database import Database
from core.jobs import Jobs
from domain.runs import RecordsRuns
from services.accounting.accountant import Accountant
from services.audio.accounts import Accounts
from services.audio.job_store import JobStore
from services.audio.job_work import JOB, TranscriptionWork
from services.audio.jobs import TranscriptionJobs
from services.audio.meeting import MeetingWriter
from services.audio.router import TranscriptionRouter
from services.audio.transcription import Transcriptions
from services.job_attempts import remove_left_files


@dataclass(frozen=True, slots=True)
class Studio:
    """`files` is where uploads, the copies that jobs read from, and pieces lie for a while."""

    router: TranscriptionRouter
    transcriptions: Transcriptions
    jobs: TranscriptionJobs
    queue: Jobs
    files: Path

    async def tidy(self) -> None:
        """Remove what killed processes left, of jobs and of requests."""
        await asyncio.to_thread(remove_left_files, self.files)

    async def start_jobs(self) -> None:
        """Begin to do the jobs of the queue in this process, and to forget old ones."""
        await self.tidy()
        self.queue.start()
        self.jobs.start()

    async def stop_jobs(self) -> None:
        """What is at work is interrupted, and goes on elsewhere or at the next start."""
        await self.queue.stop()
        await self.jobs.stop()


def create_studio(
    settings: Settings,
    database: Database,
    router: TranscriptionRouter,
    accountant: Accountant,
    ledger: RecordsRuns,
    meetings: MeetingWriter,
) -> Studio:
    """Not yet started: a server whose jobs are done elsewhere never starts them.

    The queue is its own, beside the documents': a recording of hours keeps no document waiting.
    """
    files = settings.data_dir / "audio"
    accounts = Accounts(accountant, ledger)
    transcriptions = Transcriptions(
        router=router, accounts=accounts, meetings=meetings, settings=settings, directory=files
    )
    queue = Jobs(database, concurrency=settings.audio_job_concurrency)
    queue.register(JOB, TranscriptionWork(JobStore(database), transcriptions).perform)
    return Studio(
        router=router,
        transcriptions=transcriptions,
        jobs=TranscriptionJobs(database, queue, transcriptions, accounts, settings),
        queue=queue,
        files=files,
    )
