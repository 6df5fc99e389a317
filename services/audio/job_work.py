"""A recording's way from its bytes to a transcript, as a job: piece by piece, each stored as soon as it is heard.

It may be cut off at any moment and begun again elsewhere: no piece that was stored is asked again.
"""

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import psycopg

from core.jobs import RetryLater, TakenAway
from domain.audio import CutPlan
from domain.errors import BadRequest, DatabaseUnavailable, InternalError, RouteurError, ShuttingDown
from domain.principals import Principal
from domain.runs import RunStatus
from domain.transcripts import HeardPiece, Transcript, join
from domain.usage import Call
from services.accounting.totals import add_calls, as_calls
from services.audio.accounts import Hearing, transcript_json, transcript_metadata
from services.audio.hearing import Ears, PieceFailed
from services.audio.job import Taken
from services.audio.job_store import JobStore
from services.audio.media import UnreadableAudio
from services.audio.transcription import Recording, Transcriptions, refusal_of
from services.audio.wishes import Wishes
from services.job_attempts import FIRST_WAIT_S, MAX_ATTEMPTS, attempt_folder, may_pass, reason_of, wait_before_next_s

logger = logging.getLogger("routeur.audio")

JOB = "transcribe_recording"
ALMOST = 99.0
ACCOUNT_ATTEMPTS = 3
WRITE_S = 10.0


@dataclass(slots=True)
class _Attempt:
    """What one attempt has under way. `calls` are those whose piece is not stored yet, `totals` all others."""

    taken: Taken
    totals: list[dict[str, Any]]
    heard: list[HeardPiece]
    calls: list[Call] = field(default_factory=list)
    stored: int = 0
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def transcript(self) -> Transcript:
        ordered = sorted(self.heard, key=lambda piece: piece.ordinal)
        return join(ordered, duration_s=self.taken.duration_s)


class TranscriptionWork:
    """Does the jobs. `files` is where an attempt's copy of the bytes lies for a while."""

    def __init__(self, store: JobStore, transcriptions: Transcriptions, *, first_wait_s: float = FIRST_WAIT_S) -> None:
        self._store = store
        self._transcriptions = transcriptions
        self._first_wait_s = first_wait_s

    async def perform(self, job_id: str) -> None:
        """Raises `RetryLater` when what hinders it may pass."""
        taken = await self._store.take(UUID(job_id))
        if taken is None:
            return
        attempt = _Attempt(taken, add_calls(taken.calls, ()), await self._store.find_pieces(taken.job_id))
        status: RunStatus = "cancelled"
        try:
            await self._attempt(attempt)
            status = "succeeded"
        except TakenAway:
            logger.info("a transcription job was taken away", extra={"job_id": job_id})
        except (PieceFailed, UnreadableAudio, RouteurError, OSError) as error:
            status = "failed"
            await self._hindered(attempt, error)
        except (RetryLater, asyncio.CancelledError, psycopg.OperationalError):
            raise
        except Exception:
            # Nobody else would end it: the queue forgets a job that failed.
            status = "failed"
            logger.exception("a transcription job failed", extra={"job_id": job_id})
            await self._fail(attempt, "the server failed; its log says why", InternalError.code)
        finally:
            # Also reached when the server stops: what was consumed is still counted.
            self._record_unstored(attempt, status)

    async def _attempt(self, attempt: _Attempt) -> None:
        taken = attempt.taken
        if taken.attempts > MAX_ATTEMPTS:
            raise BadRequest(f"it was tried {MAX_ATTEMPTS} times in vain: {taken.error or 'each ended abruptly'}")
        wishes = _wishes(taken)
        plan = self._transcriptions.plan(wishes)
        ears = Ears(self._transcriptions.router, self._transcriptions.listening(plan, wishes), attempt.calls.append)

        async def store(piece: HeardPiece) -> None:
            await self._keep(attempt, piece)

        async with attempt_folder(self._transcriptions.directory, f"{taken.job_id}-{taken.claim}") as folder:
            path = folder / "recording"
            await self._store.write_file(taken.job_id, path)
            cutter = self._transcriptions.cutter(Recording(path, taken.duration_s), folder)
            whole = CutPlan(duration_s=taken.duration_s, target_s=taken.target_s, max_s=taken.max_s)
            await ears.hear_all(cutter, whole, tuple(attempt.heard), store)
        await self._finish(attempt, wishes)

    async def _keep(self, attempt: _Attempt, piece: HeardPiece) -> None:
        """Store a piece with what was consumed up to it. Who is ended meanwhile waits for it: it is paid for."""
        writing = asyncio.create_task(self._write(attempt, piece), name="a piece is stored")
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait({writing}, timeout=WRITE_S)
            if not writing.done():
                writing.cancel()
                await asyncio.wait({writing})
            if not writing.cancelled():
                writing.exception()  # Seen: the next attempt tells.
            raise

    async def _write(self, attempt: _Attempt, piece: HeardPiece) -> None:
        """One at a time: the totals are of all before."""
        async with attempt.writing:
            consumed = list(attempt.calls)
            totals = add_calls(attempt.totals, consumed)
            heard = [*attempt.heard, piece]
            await self._store.add(attempt.taken, piece, percent=_percent(heard, attempt.taken), calls=totals)
            attempt.heard, attempt.totals = heard, totals
            del attempt.calls[: len(consumed)]
            attempt.stored += 1

    async def _finish(self, attempt: _Attempt, wishes: Wishes) -> None:
        """The transcript, and a meeting's account. Cut off here, only the account is written again."""
        taken, transcript = attempt.taken, attempt.transcript
        calls = as_calls(attempt.totals)
        meeting = None
        if wishes.is_meeting:
            principal = Principal(taken.owner)
            written = await self._transcriptions.meetings.write(transcript, principal, taken.request_id)
            if written.error is not None and _is_tried_again(written.error, taken):
                raise written.error
            meeting = written.as_json()
            calls += written.calls
        # Before the end is written: should this process die between the two, the next attempt's row is this same one.
        self._record(attempt, "succeeded", None)
        await self._store.succeed(taken, self._as_json(attempt, transcript, meeting, calls))

    def _as_json(
        self, attempt: _Attempt, transcript: Transcript, meeting: dict[str, Any] | None, calls: list[Call]
    ) -> dict[str, Any]:
        latency_s = max(0.0, time.time() - attempt.taken.created_at.timestamp())
        report = self._transcriptions.accounts.report(calls, latency_s)
        metadata = transcript_metadata(_hearing(attempt.taken), report, transcript)
        return transcript_json(transcript, meeting, metadata)

    async def _hindered(self, attempt: _Attempt, error: PieceFailed | UnreadableAudio | RouteurError | OSError) -> None:
        taken, cause = attempt.taken, _cause(error)
        reason = reason_of(cause)
        if isinstance(error, PieceFailed):
            reason = f"{error.where}: {reason}"
        if not may_pass(cause):
            await self._fail(attempt, reason, cause.code if isinstance(cause, RouteurError) else None)
            return
        # The attempts before this one brought nothing: with progress, the count begins anew.
        tries = 1 if attempt.stored else taken.attempts
        if tries >= MAX_ATTEMPTS:
            await self._fail(attempt, f"it was tried {tries} times in vain: {reason}", None)
            return
        wait_s = wait_before_next_s(tries, cause, self._first_wait_s)
        logger.warning("a recording has to wait", extra={"reason": reason, "wait_s": wait_s})
        if not isinstance(cause, DatabaseUnavailable):
            with contextlib.suppress(TakenAway):
                await self._store.postpone(taken, reason)
        raise RetryLater(wait_s) from error

    async def _fail(self, attempt: _Attempt, reason: str, error_code: str | None) -> None:
        logger.info("a recording cannot be transcribed", extra={"reason": reason})
        kept = self._as_json(attempt, attempt.transcript, None, as_calls(attempt.totals)) if attempt.heard else None
        with contextlib.suppress(TakenAway):
            await self._store.fail(attempt.taken, reason, kept)
            # Not before: a job whose end could not be written goes on, and has another row in the end.
            self._record(attempt, "failed", error_code)

    def _record(self, attempt: _Attempt, status: RunStatus, error_code: str | None) -> None:
        """The job's row in the ledger, under its id: however often it is written, it stays one."""
        calls = as_calls(attempt.totals)
        latency_s = sum(call.latency_s for call in calls)
        hearing = _hearing(attempt.taken)
        self._transcriptions.accounts.record(hearing, calls, status, error_code, latency_s=latency_s)

    def _record_unstored(self, attempt: _Attempt, status: RunStatus) -> None:
        """Calls that brought nothing which was kept: a row of their own, for they are in no job's account."""
        latency_s = sum(call.latency_s for call in attempt.calls)
        hearing = _hearing(attempt.taken, own_row=True)
        self._transcriptions.accounts.record(hearing, attempt.calls, status, None, latency_s=latency_s)


def _percent(heard: list[HeardPiece], taken: Taken) -> float:
    return min(ALMOST, 100 * sum(piece.new_s for piece in heard) / taken.duration_s)


def _wishes(taken: Taken) -> Wishes:
    return Wishes(taken.job_type, taken.requested_model, taken.language, taken.prompt, taken.context, taken.project_id)


def _is_tried_again(error: RouteurError, taken: Taken) -> bool:
    """Whether an account that failed is worth another attempt: not for ever, for the transcript waits for it."""
    return isinstance(error, ShuttingDown) or (may_pass(error) and taken.attempts < ACCOUNT_ATTEMPTS)


def _hearing(taken: Taken, *, own_row: bool = False) -> Hearing:
    return Hearing(
        run_id=uuid4() if own_row else taken.job_id,
        request_id=taken.request_id,
        subject=taken.owner,
        project_id=taken.project_id,
        requested_model=taken.requested_model,
        created_at=taken.created_at,
    )


def _cause(error: PieceFailed | UnreadableAudio | RouteurError | OSError) -> RouteurError | OSError:
    match error:
        case PieceFailed(cause=cause):
            return cause
        case UnreadableAudio():
            return refusal_of(error)
        case _:
            return error
