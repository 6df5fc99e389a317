"""A run while it goes on, and what is left of it: its last event, and its row in the ledger."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from domain.errors import RouteurError
from domain.messages import Message
from domain.reports import Report
from domain.runs import Finished, RunRecord, RunRequest, RunStatus
from services.accounting.metadata import lost_figures, record_figures
from services.agent_registry import Agent
from services.graph_run import GraphOutcome
from services.llm.call_meter import CHARS_PER_TOKEN, TOKENS_PER_MESSAGE
from services.llm.failover import Plan
from services.run_context import RunContext
from services.thread_turn import Turn


@dataclass(slots=True)
class Run:
    """What one run needs until its row is written."""

    id: UUID
    request: RunRequest
    context: RunContext
    agent: Agent | None
    plan: Plan | None
    created_at: datetime
    started: float
    turn: Turn | None = None
    outcome: GraphOutcome = field(default_factory=GraphOutcome)


def finished_event(run: Run, report: Report, *, answered: bool) -> Finished:
    """The last event: who answered, from what, and what it consumed."""
    model = run.context.answering_model or run.context.model
    count = _message_count(run.request, answered=answered)
    # An agent that asks several times passes the same model over each time.
    hops = tuple(dict.fromkeys(run.context.hops))
    outcome = run.outcome
    return Finished(
        run.id,
        report,
        model,
        count,
        hops,
        run.context.finish_reason,
        outcome.sources,
        outcome.interrupts,
        tuple(run.context.warnings),
    )


def _message_count(request: RunRequest, *, answered: bool) -> int:
    return len(request.messages) + answered


def ledger_row(run: Run, report: Report, status: RunStatus, error: RouteurError | None) -> RunRecord:
    """The row, with nothing of what was said."""
    request = run.request
    return RunRecord(
        run_id=run.id,
        created_at=run.created_at,
        request_id=request.request_id,
        subject=request.principal.subject,
        project_id=request.project_id,
        agent=request.agent,
        requested_model=request.model,
        model=run.context.answering_model or run.context.model,
        stream=request.stream,
        status=status,
        error_code=error.code if error else None,
        message_count=_message_count(request, answered=status in {"succeeded", "interrupted"}),
        latency_s=report.latency_s,
        time_to_first_token_s=report.time_to_first_token_s,
        **record_figures(report),
    )


def lost_row(run: Run, settled: Report | None) -> RunRecord:
    """The row that stands if this process dies before the run ends: what the provider was sent is estimated.

    `settled` is of the calls that have ended by now.
    """
    request, model = run.request, run.context.model
    tokens = estimated_prompt_tokens(request.messages)
    return RunRecord(
        run_id=run.id,
        created_at=run.created_at,
        request_id=request.request_id,
        subject=request.principal.subject,
        project_id=request.project_id,
        agent=request.agent,
        requested_model=request.model,
        model=model,
        stream=request.stream,
        status="lost",
        error_code=None,
        message_count=len(request.messages),
        latency_s=None,
        time_to_first_token_s=None,
        **lost_figures(model, tokens, settled),
    )


def estimated_prompt_tokens(messages: Sequence[Message]) -> int:
    """As a call that no provider counted is estimated."""
    chars = 0
    for message in messages:
        if isinstance(message.content, str):
            chars += len(message.content)
    return chars // CHARS_PER_TOKEN + TOKENS_PER_MESSAGE * len(messages)
