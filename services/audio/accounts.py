"""What hearing a recording consumed: its report, its row in the ledger, and both as JSON beside the transcript."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from domain.reports import Report
from domain.runs import RecordsRuns, RunRecord, RunStatus
from domain.transcripts import Transcript
from domain.usage import Call
from services.accounting.accountant import Accountant
from services.accounting.metadata import lost_figures, record_figures, report_metadata, usage_by_model, usage_tokens


@dataclass(frozen=True, slots=True)
class Hearing:
    """Who had what heard. `run_id` is the job's id where there is one: however often its row is written, it is one."""

    run_id: UUID
    request_id: str
    subject: str
    project_id: str | None
    requested_model: str | None
    created_at: datetime


class Accounts:
    """Reports what calls consumed, and leaves their row."""

    def __init__(self, accountant: Accountant, ledger: RecordsRuns) -> None:
        self._accountant = accountant
        self._ledger = ledger

    def report(self, calls: Sequence[Call], latency_s: float) -> Report:
        """Also of calls that are in other rows: of the agent that wrote a meeting's account."""
        return self._accountant.report(calls, latency_s=latency_s, time_to_first_token_s=None)

    def begin(self, hearing: Hearing, model: str) -> None:
        """Keep the row that stands if this process dies while the request is served."""
        self._ledger.begin(_row(hearing, model, "lost", None, lost_figures(model, None), latency_s=None))

    def record(
        self, hearing: Hearing, calls: Sequence[Call], status: RunStatus, error_code: str | None, *, latency_s: float
    ) -> None:
        """Leave the row of these calls; of none, none."""
        if not calls:
            self._ledger.abandon(hearing.run_id)
            return
        figures = record_figures(self.report(calls, latency_s))
        self._ledger.record(_row(hearing, calls[-1].model, status, error_code, figures, latency_s=latency_s))


def _row(
    hearing: Hearing,
    model: str,
    status: RunStatus,
    error_code: str | None,
    figures: Mapping[str, Any],
    *,
    latency_s: float | None,
) -> RunRecord:
    return RunRecord(
        run_id=hearing.run_id,
        created_at=hearing.created_at,
        request_id=hearing.request_id,
        subject=hearing.subject,
        project_id=hearing.project_id,
        agent=None,
        requested_model=hearing.requested_model,
        model=model,
        stream=False,
        status=status,
        error_code=error_code,
        message_count=0,
        latency_s=latency_s,
        time_to_first_token_s=None,
        **figures,
    )


def transcript_json(
    transcript: Transcript, meeting: Mapping[str, Any] | None, metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """A transcript as callers get it (`API.md` §5). Times in seconds; `segments` is null where no model gave times."""
    segments = transcript.segments
    return {
        "text": transcript.text,
        "language": transcript.language,
        "duration": transcript.duration_s,
        "model": transcript.model,
        "segments": None
        if segments is None
        else [{"start": round(s.start_s, 2), "end": round(s.end_s, 2), "text": s.text} for s in segments],
        "meeting": meeting,
        "metadata": dict(metadata),
    }


def transcript_metadata(hearing: Hearing, report: Report, transcript: Transcript) -> dict[str, Any]:
    """What the transcript cost, took and emitted, and who was asked in vain."""
    heard_by_model = {
        model: {**tokens, "audio_s": report.usage_by_model[model].audio_s}
        for model, tokens in usage_by_model(report).items()
    }
    return {
        "run_id": str(hearing.run_id),
        "request_id": hearing.request_id,
        "requested_model": hearing.requested_model,
        "fallbacks": [asdict(hop) for hop in transcript.hops],
        "usage": {**usage_tokens(report.usage), "audio_s": report.usage.audio_s},
        "usage_by_model": heard_by_model,
        **report_metadata(report),
    }
