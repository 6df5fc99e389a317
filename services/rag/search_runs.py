"""One search as a run of the ledger: passages, and a report of what embedding the question consumed."""

import time
from dataclasses import dataclass
from uuid import UUID

from domain.documents import Passage, SearchFilter
from domain.errors import RouteurError
from domain.principals import Principal
from domain.reports import Report
from domain.runs import RunStatus
from domain.usage import Call
from services.embeddings.runs import EmbeddingRuns, EmbeddingsDone
from services.rag.search import Retriever


@dataclass(frozen=True, slots=True)
class SearchRun:
    """What was found, and what it took."""

    run_id: UUID
    passages: list[Passage]
    report: Report


class SearchRuns:
    """Searches for a caller, and leaves a row of it: also of what failed or was abandoned, once it has called."""

    def __init__(self, retriever: Retriever, runs: EmbeddingRuns) -> None:
        self._retriever = retriever
        self._runs = runs

    async def run(
        self, allowed: SearchFilter, question: str, *, k: int, principal: Principal, request_id: str
    ) -> SearchRun:
        """The passages, their row already in the ledger."""
        calls: list[Call] = []
        started = time.perf_counter()
        status: RunStatus = "cancelled"
        error_code: str | None = None

        def done() -> EmbeddingsDone:
            model = calls[-1].model if calls else ""
            return EmbeddingsDone(
                request_id=request_id,
                subject=principal.subject,
                project_id=allowed.name or allowed.project_id,
                requested_model=model,
                model=model,
                texts=1,
                latency_s=time.perf_counter() - started,
                calls=calls,
            )

        try:
            passages = await self._retriever.search(allowed, question, k=k, on_call=calls.append)
            status = "succeeded"
        except RouteurError as error:
            status, error_code = "failed", error.code
            raise
        finally:
            # Also reached when the client hangs up: what was consumed is still counted.
            if status != "succeeded" and calls:
                self._runs.record(done(), status, error_code)
        run = done()
        return SearchRun(run.run_id, passages, self._runs.record(run))
