"""The one run path: a request becomes a run of an agent's graph, a stream of events, a report and a ledger row."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID, uuid4

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, convert_to_messages
from langgraph.errors import GraphRecursionError
from langgraph.graph.state import CompiledStateGraph

from domain.errors import AgentFailed, BadRequest, InternalError, RouteurError, RunTimeout, ShuttingDown
from domain.messages import Message
from domain.reports import Report
from domain.runs import Failed, Finished, Progress, RunEvent, RunRecord, RunRequest, RunStatus, Started, Tokens
from services.accounting.accountant import Accountant
from services.accounting.metadata import record_calls
from services.agent_registry import Agents
from services.llm.message import rare_delta, text_of
from services.llm.router import Request, Router
from services.run_context import RunContext, TextBatch, current_run

logger = logging.getLogger("routeur.runs")

STEP_LIMIT = 50
CANCEL_WAIT_S = 5.0
"""How long a cancelled run may take to let go; an agent that swallows its cancellation does not hold the door."""

LANGCHAIN_MESSAGES: Mapping[str, type[BaseMessage]] = {
    "user": HumanMessage,
    "assistant": AIMessage,
    "system": SystemMessage,
}


class RecordsRuns(Protocol):
    """Where rows go: the ledger. `record` never raises and never waits."""

    def record(self, record: RunRecord) -> None: ...


@dataclass(slots=True)
class _Run:
    """What one run needs until its row is written."""

    id: UUID
    request: RunRequest
    context: RunContext
    created_at: datetime
    started: float


class CompletionService:
    """Runs agents. Every door iterates `stream`; nobody else starts a graph."""

    def __init__(
        self, *, agents: Agents, router: Router, accountant: Accountant, ledger: RecordsRuns, run_timeout_s: float
    ) -> None:
        self._agents = agents
        self._router = router
        self._accountant = accountant
        self._ledger = ledger
        self._run_timeout_s = run_timeout_s
        self._going: dict[asyncio.Task[RouteurError | None], RunContext] = {}

    @property
    def running(self) -> int:
        """How many runs are going on."""
        return len(self._going)

    def interrupt_all(self) -> None:
        """End every run with `ShuttingDown`: each still says what it consumed."""
        for task, context in self._going.items():
            context.interruption = ShuttingDown("the server is shutting down; ask again")
            task.cancel()

    async def stream(self, request: RunRequest) -> AsyncGenerator[RunEvent]:
        """The events of one run, `Finished` last. Raises at once when the agent or the model cannot serve.

        Closing the generator cancels the graph and the provider's call. The row is in the ledger before
        `Finished` is yielded: an answer that arrived whole is never missing from the accounts.
        """
        graph = None if request.agent is None else self._agents.get_graph_or_raise(request.agent)
        model = self._router.plan(request.model, request.credentials).first
        run = _Run(uuid4(), request, _context(request, model.id), datetime.now(UTC), time.perf_counter())
        task = asyncio.create_task(self._execute(run, graph), name=f"run {run.id}")
        # Also when it is cancelled before its first step.
        task.add_done_callback(lambda _: run.context.queue.close())
        self._going[task] = run.context
        recorded = False
        try:
            yield Started(run.id, request.agent, model.id)
            while items := await run.context.queue.drain():
                for item in items:
                    yield Tokens(item.pieces, item.model) if isinstance(item, TextBatch) else item
            error = await _outcome(task, run)
            report = self._record(run, "failed" if error else "succeeded", error)
            recorded = True
            if error:
                yield Failed(error)
            yield _finished(run, report, answered=error is None)
        finally:
            del self._going[task]
            if not recorded:
                try:
                    await _cancel(task)
                finally:
                    self._record(run, "cancelled", None)

    async def _execute(self, run: _Run, graph: CompiledStateGraph[Any] | None) -> RouteurError | None:
        """Run the graph, or the model alone, to its end; what went wrong is returned: the report must follow it."""
        current_run.set(run.context)
        limit = asyncio.timeout(self._run_timeout_s)
        try:
            async with limit:
                if graph is None:
                    await self._ask_model(run)
                else:
                    final = await _final_state(graph, run)
                    await _say_what_was_not_streamed(final, run.context)
        except asyncio.CancelledError:
            if run.context.interruption is None:
                raise
            return run.context.interruption
        except Exception as error:  # noqa: BLE001 - the one place where any failure of an agent's own code is caught
            if limit.expired():
                return RunTimeout(f"the run took longer than {self._run_timeout_s:g} s (RUN_TIMEOUT_S) and was ended")
            return _told(error, run.request)
        finally:
            await run.context.end_threaded_calls(CANCEL_WAIT_S)
        return None

    async def _ask_model(self, run: _Run) -> None:
        """A model answers by itself: the same router and the same accounts, without a graph."""
        context = run.context
        asked = Request(
            messages=[_as_langchain(message) for message in run.request.messages],
            parameters=context.parameters,
            stop=None,
            credentials=context.credentials,
            whole=not run.request.stream,
            on_call=context.calls.append,
            on_hop=context.hops.append,
        )
        plan = self._router.plan(context.requested_model, context.credentials)
        async with aclosing(self._router.stream(plan, asked)) as deltas:
            async for delta in deltas:
                if isinstance(delta, list):
                    await context.say(asked.answering_model, delta)
                    continue
                if pieces := text_of(delta):
                    await context.say(asked.answering_model, pieces)
                if (rare := rare_delta(delta, asked.answering_model)) is not None:
                    context.queue.put(rare)
        # A model that only calls a tool says nothing, and has answered all the same.
        context.answering_model = asked.answering_model

    def _record(self, run: _Run, status: RunStatus, error: RouteurError | None) -> Report:
        context, request = run.context, run.request
        first = context.first_token_at
        report = self._accountant.report(
            context.calls,
            latency_s=time.perf_counter() - run.started,
            time_to_first_token_s=None if first is None else first - run.started,
        )
        self._ledger.record(_row(run, report, status, error))
        logger.debug(
            "run finished",
            extra={"run_id": str(run.id), "request_id": request.request_id, "agent": request.agent, "status": status},
        )
        return report


def _context(request: RunRequest, model: str) -> RunContext:
    own = {"temperature": request.temperature, "max_tokens": request.max_tokens}
    return RunContext(
        model=model,
        requested_model=request.model,
        parameters={**request.parameters, **{key: value for key, value in own.items() if value is not None}},
        credentials=request.credentials,
    )


async def _final_state(graph: CompiledStateGraph[Any], run: _Run) -> Mapping[str, Any]:
    """Run the graph and give its last state; progress events go to the queue when the caller wants them."""
    entry = {"messages": [_as_langchain(message) for message in run.request.messages]}
    config: Any = {"recursion_limit": STEP_LIMIT}
    if not run.request.events:
        final: Mapping[str, Any] = await graph.ainvoke(entry, config)
        return final
    state: Mapping[str, Any] = {}
    mode: str
    content: Any
    steps: Any = graph.astream(entry, config, stream_mode=["values", "tasks"])
    async with aclosing(steps):
        async for mode, content in steps:
            if mode == "values":
                state = content
            else:
                status = "finished" if "result" in content else "started"
                run.context.queue.put(Progress("node", {"node": content["name"], "status": status}))
    return state


async def _say_what_was_not_streamed(final: Mapping[str, Any], context: RunContext) -> None:
    """An agent may write its answer itself, without a model: that text has not gone out yet."""
    messages = final.get("messages") or []
    if not messages or not isinstance(messages[-1], AIMessage):
        return
    if rest := _unsaid(str(messages[-1].text), ["".join(pieces) for pieces in context.sent]):
        await context.say(context.answering_model or context.model, [rest])


def _unsaid(answer: str, sent: list[str]) -> str:
    """What of the answer has not gone out, given the text of each call that has.

    Nodes build their message anew: spaces at the ends do not count; of calls that ran in parallel, each is looked at.
    An agent that adds to what its model said (its sources, say) has only the addition sent.
    """
    whole, bare = "".join(sent), answer.strip()
    if whole.rstrip().endswith(bare) or any(text.strip() == bare for text in sent):
        return ""
    for said in (whole, whole.strip()):
        if said and answer.lstrip().startswith(said.lstrip()):
            return answer.lstrip()[len(said.lstrip()) :]
    return answer


def _told(error: Exception, request: RunRequest) -> RouteurError:
    """What a caller is told of a failure. Only the house's own errors are; the log has the rest."""
    if isinstance(error, RouteurError):
        return error
    if isinstance(error, GraphRecursionError):
        return AgentFailed(f"agent {request.agent!r} took more than {STEP_LIMIT} steps and was ended")
    if isinstance(error, ExceptionGroup) and (found := error.subgroup(RouteurError)):
        # A node that asks several models at once fails with all their errors together.
        return next(_leaves(found))
    logger.error("agent failed", exc_info=error, extra={"agent": request.agent, "request_id": request.request_id})
    return _failed_agent(request)


def _failed_agent(request: RunRequest) -> RouteurError:
    if request.agent is None:
        return InternalError(f"the server failed; its log says why (request {request.request_id})")
    return AgentFailed(f"agent {request.agent!r} failed; the server's log says why (request {request.request_id})")


def _leaves(group: ExceptionGroup[RouteurError]) -> Iterator[RouteurError]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _outcome(task: asyncio.Task[RouteurError | None], run: _Run) -> RouteurError | None:
    """How the run ended. Nobody who waits here has cancelled it: the server has, or the agent itself."""
    await asyncio.wait({task})
    if not task.cancelled():
        return task.result()
    if run.context.interruption is not None:
        return run.context.interruption
    logger.error("agent cancelled itself", extra={"agent": run.request.agent, "request_id": run.request.request_id})
    return _failed_agent(run.request)


async def _cancel(task: asyncio.Task[RouteurError | None]) -> None:
    """End the graph and its calls."""
    task.cancel()
    _, late = await asyncio.wait({task}, timeout=CANCEL_WAIT_S)
    if late:
        logger.error("a cancelled run does not end", extra={"run": task.get_name()})


def _finished(run: _Run, report: Report, *, answered: bool) -> Finished:
    model = run.context.answering_model or run.context.model
    count = _message_count(run.request, answered=answered)
    # An agent that asks several times passes the same model over each time.
    hops = tuple(dict.fromkeys(run.context.hops))
    return Finished(run.id, report, model, count, hops, run.context.finish_reason)


def _message_count(request: RunRequest, *, answered: bool) -> int:
    return len(request.messages) + answered


def _row(run: _Run, report: Report, status: RunStatus, error: RouteurError | None) -> RunRecord:
    request, impact = run.request, report.impact
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
        message_count=_message_count(request, answered=status == "succeeded"),
        input_tokens=report.usage.input_tokens,
        output_tokens=report.usage.output_tokens,
        estimated=report.estimated,
        latency_s=report.latency_s,
        time_to_first_token_s=report.time_to_first_token_s,
        cost_eur=report.price.total_eur,
        energy_kwh=impact.energy.mean if impact.energy else None,
        gwp_kgco2eq=impact.gwp.mean if impact.gwp else None,
        wcf_liters=impact.wcf.mean if impact.wcf else None,
        calls=record_calls(report),
    )


def _as_langchain(message: Message) -> BaseMessage:
    if isinstance(message.content, str) and not message.more and (kind := LANGCHAIN_MESSAGES.get(message.role)):
        return kind(content=message.content)
    try:
        return convert_to_messages([{"role": message.role, "content": message.content, **message.more}])[0]
    except (KeyError, TypeError, ValueError) as error:
        raise BadRequest(f"messages: a message of role {message.role!r} cannot be read: {error}") from error
