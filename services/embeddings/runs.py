"""One request for embeddings as a run of the ledger: vectors, and a report of what they consumed."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from config.catalogue import ModelEntry
from domain.errors import RouteurError, RunTimeout
from domain.principals import Principal
from domain.reports import Report
from domain.runs import RecordsRuns, RunRecord, RunStatus
from domain.usage import Call
from services.accounting.accountant import Accountant
from services.accounting.metadata import lost_figures, record_figures
from services.embeddings.service import EmbeddingAnswer, EmbeddingRequest, EmbeddingService
from services.llm.call_meter import CHARS_PER_TOKEN


@dataclass(frozen=True, slots=True)
class EmbeddingRun:
    """What was asked for, and what it took."""

    run_id: UUID
    answer: EmbeddingAnswer
    report: Report


@dataclass(slots=True, kw_only=True)
class EmbeddingsDone:
    """What a row of the ledger says of embeddings, besides what the accountant makes of their calls."""

    request_id: str
    subject: str
    requested_model: str
    model: str
    texts: int
    project_id: str | None = None
    run_id: UUID = field(default_factory=uuid4)
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    latency_s: float = 0.0
    calls: list[Call] = field(default_factory=list)


class EmbeddingRuns:
    """Asks for embeddings, and leaves a row of it: also of what failed or was abandoned, once it has called."""

    def __init__(
        self, embeddings: EmbeddingService, accountant: Accountant, ledger: RecordsRuns, *, run_timeout_s: float
    ) -> None:
        self._embeddings = embeddings
        self._accountant = accountant
        self._ledger = ledger
        self._run_timeout_s = run_timeout_s

    def unavailable_reason(self, model: ModelEntry) -> str | None:
        """Why nothing can serve this model now; `None` when something can."""
        return self._embeddings.unavailable_reason(model)

    async def run(self, request: EmbeddingRequest, *, principal: Principal, request_id: str) -> EmbeddingRun:
        """The vectors, their row already in the ledger."""
        model = self._embeddings.resolve(request.model).id
        run = EmbeddingsDone(
            request_id=request_id,
            subject=principal.subject,
            requested_model=request.model,
            model=model,
            texts=len(request.texts),
        )
        started = time.perf_counter()
        status: RunStatus = "cancelled"
        error_code: str | None = None
        self._ledger.begin(_lost_row(run, request))
        try:
            async with asyncio.timeout(self._run_timeout_s):
                answer = await self._embeddings.embed(request, run.calls.append)
            status = "succeeded"
        except TimeoutError as error:
            status, error_code = "failed", RunTimeout.code
            limit_s = self._run_timeout_s
            raise RunTimeout(f"the run took longer than {limit_s:g} s (RUN_TIMEOUT_S) and was ended") from error
        except RouteurError as error:
            status, error_code = "failed", error.code
            raise
        finally:
            run.latency_s = time.perf_counter() - started
            # What was refused before any call has consumed nothing, and is no run.
            if status != "succeeded":
                if run.calls:
                    self.record(run, status, error_code)
                else:
                    self._ledger.abandon(run.run_id)
        return EmbeddingRun(run.run_id, answer, self.record(run, status, error_code))

    def record(self, run: EmbeddingsDone, status: RunStatus = "succeeded", error_code: str | None = None) -> Report:
        """Leave the row of embeddings that were asked for elsewhere: of a document's passages, of a search."""
        report = self._accountant.report(run.calls, latency_s=run.latency_s, time_to_first_token_s=None)
        self._ledger.record(_row(run, status, error_code, record_figures(report), latency_s=run.latency_s))
        return report


def _lost_row(run: EmbeddingsDone, request: EmbeddingRequest) -> RunRecord:
    """The row that stands if this process dies before the embeddings are there."""
    figures = lost_figures(run.model, sum(max(1, len(text) // CHARS_PER_TOKEN) for text in request.texts))
    return _row(run, "lost", None, figures, latency_s=None)


def _row(
    run: EmbeddingsDone,
    status: RunStatus,
    error_code: str | None,
    figures: Mapping[str, Any],
    *,
    latency_s: float | None,
) -> RunRecord:
    return RunRecord(
        run_id=run.run_id,
        created_at=run.created_at,
        request_id=run.request_id,
        subject=run.subject,
        project_id=run.project_id,
        agent=None,
        requested_model=run.requested_model,
        model=run.model,
        stream=False,
        status=status,
        error_code=error_code,
        message_count=run.texts,
        latency_s=latency_s,
        time_to_first_token_s=None,
        **figures,
    )
