"""One request for embeddings as a run of the ledger: vectors, and a report of what they consumed."""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID, uuid4

from config.catalogue import ModelEntry
from domain.errors import RouteurError, RunTimeout
from domain.principals import Principal
from domain.reports import Report
from domain.runs import RunRecord, RunStatus
from domain.usage import Call
from services.accounting.accountant import Accountant
from services.accounting.metadata import record_calls
from services.embeddings.service import EmbeddingAnswer, EmbeddingRequest, EmbeddingService


class RecordsRuns(Protocol):
    """Where rows go: the ledger."""

    def record(self, record: RunRecord) -> None: ...


@dataclass(frozen=True, slots=True)
class EmbeddingRun:
    """What was asked for, and what it took."""

    run_id: UUID
    answer: EmbeddingAnswer
    report: Report


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
        run = _Run(uuid4(), request, model, principal, request_id, datetime.now(UTC), time.perf_counter())
        status: RunStatus = "cancelled"
        error_code: str | None = None
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
            # What was refused before any call has consumed nothing, and is no run.
            if status != "succeeded" and run.calls:
                self._record(run, status, error_code)
        return EmbeddingRun(run.id, answer, self._record(run, status, error_code))

    def _record(self, run: "_Run", status: RunStatus, error_code: str | None) -> Report:
        latency_s = time.perf_counter() - run.started
        report = self._accountant.report(run.calls, latency_s=latency_s, time_to_first_token_s=None)
        impact = report.impact
        self._ledger.record(
            RunRecord(
                run_id=run.id,
                created_at=run.created_at,
                request_id=run.request_id,
                subject=run.principal.subject,
                project_id=None,
                agent=None,
                requested_model=run.request.model,
                model=run.model,
                stream=False,
                status=status,
                error_code=error_code,
                message_count=len(run.request.texts),
                input_tokens=report.usage.input_tokens,
                output_tokens=report.usage.output_tokens,
                estimated=report.estimated,
                latency_s=latency_s,
                time_to_first_token_s=None,
                cost_eur=report.price.total_eur,
                energy_kwh=impact.energy.mean if impact.energy else None,
                gwp_kgco2eq=impact.gwp.mean if impact.gwp else None,
                wcf_liters=impact.wcf.mean if impact.wcf else None,
                calls=record_calls(report),
            )
        )
        return report


@dataclass(slots=True)
class _Run:
    """What one request needs until its row is written."""

    id: UUID
    request: EmbeddingRequest
    model: str
    principal: Principal
    request_id: str
    created_at: datetime
    started: float
    calls: list[Call] = field(default_factory=list)
