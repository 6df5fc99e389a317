"""Transcription jobs on a real PostgreSQL, with recordings really cut and a strict provider that hears tones."""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row
from pydantic import SecretStr

from core.database import Database
from core.http_client import HttpClient
from core.jobs import Jobs
from domain.errors import RouteurError
from domain.principals import Principal
from domain.transcripts import Transcript
from domain.usage import Call
from services.audio.accounts import Accounts
from services.audio.job import Job
from services.audio.job_store import JobStore
from services.audio.job_work import JOB, TranscriptionWork
from services.audio.jobs import Sent, TranscriptionJobs
from services.audio.meeting import Account, Written
from services.audio.router import TranscriptionRouter
from services.audio.transcribers.api import ApiTranscriber
from services.audio.transcription import Transcriptions
from services.audio.wishes import Wishes
from tests.house_for_tests import CATALOGUE, RecordingLedger, the_accountant
from tests.postgres_for_tests import WAIT_S, settings_for
from tests.scripted_provider import API_KEY
from tests.speech_for_tests import RATE, wav
from tests.tone_language import spoken, words_in_turn

ALICE, BOB = Principal("alice"), Principal("bob")
PIECE_S = 10.0
FIRST_WAIT_S = 0.05


@dataclass
class Minutes:
    """Stands in for the agent that writes a meeting's account."""

    asked: int = 0
    failures: list[RouteurError] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    async def write(self, transcript: Transcript, principal: Principal, request_id: str) -> Written:
        self.asked += 1
        if self.failures:
            error = self.failures.pop(0)
            return Written(error=error, problem=error.message)
        account = Account(summary=f"{len(transcript.text.split())} mots, {principal.subject}")
        return Written(account, calls=self.calls)


@dataclass
class House:
    """Everything between a job's owner and its transcriber."""

    url: str
    database: Database
    queue: Jobs
    jobs: TranscriptionJobs
    work: TranscriptionWork
    transcriptions: Transcriptions
    ledger: RecordingLedger
    minutes: Minutes

    async def send(
        self, pcm: bytes, *, principal: Principal = ALICE, wishes: Wishes | None = None, name: str = "a.wav"
    ) -> Job:
        content = wav(pcm)
        sent = Sent(name, len(content), len(pcm) / 2 / RATE, io.BytesIO(content))
        return await self.jobs.add(sent, wishes or Wishes(model="whisper-1"), principal, "req-1")

    async def get(self, job: Job, principal: Principal = ALICE) -> Job:
        return await self.jobs.get_or_raise(principal, str(job.job_id))

    async def until(self, job: Job, *statuses: str) -> Job:
        async with asyncio.timeout(WAIT_S):
            while (now := await self.get(job)).status not in statuses:  # noqa: ASYNC110 - another task's doing
                await asyncio.sleep(0.02)
        return now

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        with psycopg.connect(self.url, row_factory=dict_row, autocommit=True) as connection:
            return connection.execute(query, values).fetchall()

    def pieces(self, job: Job) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM transcription_pieces WHERE job_id = %s ORDER BY ordinal", job.job_id)


def speech(words: int, *, seed: int = 7, **how: Any) -> tuple[str, bytes]:
    """The words as text, and their sound: a pause long enough to cut in after every fifth."""
    said = words_in_turn(words, seed)
    return " ".join(said), spoken(said, **{"long_pause_every": 5, **how})


@asynccontextmanager
async def open_studio(
    url: str, directory: Path, base_url: str, *, ledger: Any = None, timeout_s: float = 30.0, **settings: Any
) -> AsyncIterator[House]:
    """The queue is not started: a test does the jobs, or starts it."""
    chosen = settings_for(directory, url, **{"audio_piece_s": PIECE_S, **settings})
    database = Database(chosen)
    http = HttpClient(10.0)
    openai = ApiTranscriber("openai", http, base_url, SecretStr(API_KEY), timeout_s, "OPENAI_API_KEY")
    mistral = ApiTranscriber("mistral", http, base_url, SecretStr(API_KEY), timeout_s, "MISTRALAI_API_KEY", True)
    router = TranscriptionRouter(CATALOGUE, {"openai": openai, "mistral": mistral})
    ledger = ledger or RecordingLedger()
    accounts = Accounts(the_accountant(), ledger)
    minutes = Minutes()
    transcriptions = Transcriptions(
        router=router,
        accounts=accounts,
        meetings=minutes,  # type: ignore[arg-type]  # It writes.
        settings=chosen,
        directory=directory / "audio",
    )
    queue = Jobs(database, concurrency=chosen.audio_job_concurrency)
    work = TranscriptionWork(JobStore(database), transcriptions, first_wait_s=FIRST_WAIT_S)
    queue.register(JOB, work.perform)
    jobs = TranscriptionJobs(database, queue, transcriptions, accounts, chosen)
    house = House(url, database, queue, jobs, work, transcriptions, ledger, minutes)
    await http.open()
    await database.open()
    try:
        assert await database.wait_ready(WAIT_S)
        yield house
    finally:
        await jobs.stop()
        await queue.stop()
        await database.close()
        await http.close()
