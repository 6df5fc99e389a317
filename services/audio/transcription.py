"""Transcription as callers ask for it: who hears a recording, how it is cut, and one heard within a request."""

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from config.settings import Settings
from domain.audio import CutPlan
from domain.errors import (
    BadRequest,
    InternalError,
    RouteurError,
    RunTimeout,
    ShuttingDown,
    StorageFull,
    UnsupportedMedia,
)
from domain.principals import Principal
from domain.reports import Report
from domain.runs import RunStatus
from domain.transcripts import HeardPiece, Transcript, join
from domain.usage import Call
from services.audio.accounts import Accounts, Hearing, transcript_json, transcript_metadata
from services.audio.hearing import Cut, Ears, Listening, PieceFailed, unbroken
from services.audio.media import UnreadableAudio, cut, probe
from services.audio.meeting import MeetingWriter
from services.audio.router import TranscriptionRouter
from services.audio.wishes import Wishes
from services.job_attempts import attempt_folder
from services.llm.failover import Plan

SECONDS_PER_HOUR = 3_600
MP3_BYTES_PER_S = 16_000
"""128 kbps: what the pieces are encoded with."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
PROBING_AT_ONCE = 2
"""Each is a process of its own, busy for a moment: more of them only wait for each other."""
LEAVING = "the server is shutting down; send the recording again"
SHARE_OF_LIMIT = 0.95
"""A piece stays this far below what its model takes: headers and a moment's overlap count too."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A file that was probed. `pass_fds` are what its path needs to be opened by another process."""

    path: Path
    duration_s: float
    pass_fds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Transcribed:
    """A recording that was heard; `report` is of all it took, a meeting's account included."""

    hearing: Hearing
    transcript: Transcript
    report: Report
    meeting: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """As the native doors answer."""
        metadata = transcript_metadata(self.hearing, self.report, self.transcript)
        return transcript_json(self.transcript, self.meeting, metadata)


OnHeard = Callable[[Transcript], Awaitable[None]]


async def nobody(_: Transcript) -> None:
    """Listens to what was heard so far, where nobody does."""


class Transcriptions:
    """Knows who hears what; hears a recording within a request, and leaves its row in the ledger."""

    def __init__(
        self,
        *,
        router: TranscriptionRouter,
        accounts: Accounts,
        meetings: MeetingWriter,
        settings: Settings,
        directory: Path,
    ) -> None:
        self.router = router
        self.accounts = accounts
        self.meetings = meetings
        self.directory = directory
        self._longest_s = settings.max_audio_hours * SECONDS_PER_HOUR
        self._piece_s = settings.audio_piece_s
        self._parallel = settings.audio_parallel
        self._run_timeout_s = settings.run_timeout_s
        self._probing = asyncio.Semaphore(PROBING_AT_ONCE)
        self._leaving = False
        self._going: dict[asyncio.Task[Any], bool] = {}
        """The tasks that hear a recording now; `False` for those that the server itself has ended."""
        catalogue = router.catalogue
        self._meeting_chain = [*([settings.meeting_model] if settings.meeting_model else []), *catalogue.meetings]

    def plan(self, wishes: Wishes) -> Plan:
        """Who is to hear it, in order. Raises `UnknownModel`, or `ModelUnavailable` naming the way out."""
        return self.router.plan(wishes.model, default=self._meeting_chain if wishes.is_meeting else None)

    def cut_plan(self, plan: Plan, duration_s: float) -> CutPlan:
        """Pieces that each of the plan's models takes: whoever stands in hears the same ones."""
        limits = [model.hears for model in plan.candidates]
        longest_s = min(min(limit.max_s, limit.max_bytes / MP3_BYTES_PER_S) for limit in limits) * SHARE_OF_LIMIT
        return CutPlan(duration_s=duration_s, target_s=min(self._piece_s, longest_s), max_s=longest_s)

    def listening(self, plan: Plan, wishes: Wishes) -> Listening:
        return Listening(plan, wishes.language, wishes.prompt, wishes.context, self._parallel, wishes.times)

    async def probe(self, path: Path, pass_fds: tuple[int, ...] = ()) -> Recording:
        """Raises `UnsupportedMedia` for what is no audio, `BadRequest` for what is broken or empty."""
        try:
            async with self._probing:
                found = await probe(path, pass_fds=pass_fds)
        except UnreadableAudio as error:
            raise refusal_of(error) from error
        if found.duration_s > self._longest_s:
            hours, most = found.duration_s / SECONDS_PER_HOUR, self._longest_s / SECONDS_PER_HOUR
            problem = f"the recording lasts {hours:.1f} hours, and {most:g} may be (MAX_AUDIO_HOURS)"
            raise BadRequest(f"file: {problem}: split it")
        return Recording(path, found.duration_s, pass_fds)

    def cutter(self, recording: Recording, folder: Path) -> Cut:
        """Cuts this recording into files of the folder."""
        return lambda plan: cut(recording.path, plan, folder, pass_fds=recording.pass_fds)

    async def run(
        self,
        recording: Recording,
        wishes: Wishes,
        principal: Principal,
        request_id: str,
        on_heard: OnHeard = nobody,
    ) -> Transcribed:
        """Hear it now. Its row is in the ledger, however it ends. `on_heard` is awaited with what was heard so far."""
        if self._leaving:
            raise ShuttingDown(LEAVING)
        plan = self.plan(wishes)
        hearing = Hearing(
            uuid4(), request_id, principal.subject, wishes.project_id, wishes.model, created_at=datetime.now(UTC)
        )
        started = time.perf_counter()
        calls: list[Call] = []
        status: RunStatus = "cancelled"
        error_code: str | None = None
        limit_s = self._run_timeout_s
        task = current_task()
        self._going[task] = True
        self.accounts.begin(hearing, plan.first.id)
        try:
            async with asyncio.timeout(limit_s):
                transcript = await self._hear(recording, wishes, plan, calls, on_heard)
            status = "succeeded"
        except TimeoutError as error:
            status, error_code = "failed", RunTimeout.code
            problem = f"the recording of {recording.duration_s:.0f} s was not heard in {limit_s:g} s (RUN_TIMEOUT_S)"
            raise RunTimeout(f"{problem}: send it to POST /transcription/jobs") from error
        except asyncio.CancelledError:
            if self._going.pop(task):
                raise  # The caller has gone.
            status, error_code = "failed", ShuttingDown.code
            task.uncancel()
            raise ShuttingDown(LEAVING) from None
        except RouteurError as error:
            status, error_code = "failed", error.code
            raise
        except Exception:
            status, error_code = "failed", InternalError.code
            raise
        finally:
            self._going.pop(task, None)
            # Also reached when the client hangs up: what was consumed is still counted.
            self.accounts.record(hearing, calls, status, error_code, latency_s=time.perf_counter() - started)
        meeting = None
        if wishes.is_meeting:
            written = await self.meetings.write(transcript, principal, request_id)
            meeting = written.as_json()
            calls = [*calls, *written.calls]
        report = self.accounts.report(calls, time.perf_counter() - started)
        return Transcribed(hearing, transcript, report, meeting)

    def interrupt_all(self) -> None:
        """End every hearing within a request with `ShuttingDown`: each still leaves its row."""
        self._leaving = True
        for task in self._going:
            self._going[task] = False
            task.cancel()

    async def _hear(
        self, recording: Recording, wishes: Wishes, plan: Plan, calls: list[Call], on_heard: OnHeard
    ) -> Transcript:
        heard: list[HeardPiece] = []

        async def keep(piece: HeardPiece) -> None:
            heard.append(piece)
            if on_heard is not nobody:
                await on_heard(join(unbroken(heard), duration_s=recording.duration_s))

        ears = Ears(self.router, self.listening(plan, wishes), calls.append)
        try:
            async with attempt_folder(self.directory, uuid4().hex) as folder:
                whole = self.cut_plan(plan, recording.duration_s)
                await ears.hear_all(self.cutter(recording, folder), whole, done=(), on_piece=keep)
        except PieceFailed as failure:
            raise failure.cause from failure
        except UnreadableAudio as error:
            raise refusal_of(error) from error
        except OSError as error:
            if error.errno in FULL:
                raise StorageFull("the server's disk is full: the recording could not be cut") from error
            raise
        return join(sorted(heard, key=lambda piece: piece.ordinal), duration_s=recording.duration_s)


def refusal_of(error: UnreadableAudio) -> RouteurError:
    """415 for what is no audio whatever it is called, 400 for audio that is empty or broken."""
    kind = UnsupportedMedia if error.not_audio else BadRequest
    return kind(f"file: {error.reason}")


def current_task() -> asyncio.Task[Any]:
    """The task that runs this."""
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a recording is heard in a task")
    return task
