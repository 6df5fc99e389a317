"""The one run path: a request becomes a run of an agent's graph, a stream of events, a report and a ledger row."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from datetime import UTC, datetime
from typing import Protocol
from uuid import uuid4

import psycopg
from langgraph.errors import GraphRecursionError, is_invalid_resume

from domain.documents import SearchFilter
from domain.errors import (
    AgentFailed,
    BadRequest,
    InternalError,
    RouteurError,
    RunTimeout,
    ShuttingDown,
)
from domain.principals import Principal
from domain.reports import Report
from domain.runs import Failed, RecordsRuns, RunEvent, RunRequest, RunStatus, Started, Tokens
from services.accounting.accountant import Accountant
from services.agent_registry import Agent, Agents
from services.graph_run import as_langchain, run_graph
from services.llm.failover import Plan
from services.llm.message import rare_delta, text_of
from services.llm.router import Request, Router
from services.own_models import UNKNOWN
from services.run import Run, finished_event, ledger_row, lost_row
from services.run_context import RunContext, TextBatch, current_run
from services.thread_turn import begin_turn, check_answer
from services.threads import DATABASE_FAULTS, Threads, lost_thread, thread_database_down

logger = logging.getLogger("routeur.runs")

CANCEL_WAIT_S = 5.0
"""How long a cancelled run may take to let go; an agent that swallows its cancellation does not hold the door."""

MAX_PROBLEM_CHARS = 500


class OpensProjects(Protocol):
    """Where projects are: `services.rag.projects`."""

    async def open_filter(
        self, principal: Principal, project_id: str, sources: Sequence[str]
    ) -> SearchFilter | None: ...


class CompletionService:
    """Runs agents. Every door iterates `stream`; nobody else starts a graph."""

    def __init__(
        self,
        *,
        agents: Agents,
        router: Router,
        accountant: Accountant,
        ledger: RecordsRuns,
        run_timeout_s: float,
        projects: OpensProjects | None = None,
        threads: Threads | None = None,
    ) -> None:
        self._agents = agents
        self._router = router
        self._accountant = accountant
        self._ledger = ledger
        self._run_timeout_s = run_timeout_s
        self._projects = projects
        self._threads = threads
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
        agent = None if request.agent is None else self._agents.get_or_raise(request.agent)
        name = request.model if agent is None else agent.model_for(request.model)
        plan = self._plan(name, request, agent)
        model = UNKNOWN if plan is None else plan.first.id
        project = await self._project_of(request, agent)
        context = _context(request, name, model, project)
        run = Run(uuid4(), request, context, agent, plan, datetime.now(UTC), time.perf_counter())
        await self._take_thread(run)
        self._ledger.begin(lost_row(run, None))
        # A process that dies later has settled calls by then, which its row must not forget.
        run.context.before_next_call = lambda: self._ledger.begin(lost_row(run, self._report(run)))
        task = asyncio.create_task(self._execute(run), name=f"run {run.id}")
        # Also when it is cancelled before its first step.
        task.add_done_callback(lambda _: run.context.queue.close())
        self._going[task] = run.context
        recorded = False
        try:
            yield Started(run.id, request.agent, model)
            while items := await run.context.queue.drain():
                for item in items:
                    yield Tokens(item.pieces, item.model) if isinstance(item, TextBatch) else item
            error = await _outcome(task, run)
            status = _status(run, error)
            report = self._record(run, status, error)
            recorded = True
            # Before the caller hears of the end, and asks again.
            await self._release_thread(run, status)
            if error:
                yield Failed(error)
            yield finished_event(run, report, answered=error is None)
        finally:
            del self._going[task]
            if not recorded:
                try:
                    await _cancel(task)
                finally:
                    self._record(run, "cancelled", None)
                    await self._release_thread(run, "cancelled")

    def _plan(self, name: str | None, request: RunRequest, agent: Agent | None) -> Plan | None:
        """The models that are to answer. Raises when none can serve; `None` for an agent that brings its own."""
        if agent is not None and agent.options.own_models:
            return None
        return self._router.plan(name, request.credentials)

    async def _project_of(self, request: RunRequest, agent: Agent | None) -> SearchFilter | None:
        """What the run may search. For an agent that reads no documents, and a model, a project is a label."""
        if agent is None or not agent.uses_project or self._projects is None:
            if request.sources:
                who = "a model" if agent is None else f"agent {agent.name!r}"
                raise BadRequest(f"sources: {who} reads no documents; leave it out, or name an agent that does")
            return None
        if request.project_id is None:
            if request.sources:
                raise BadRequest("sources: they are documents of a project; send its project_id too")
            if agent.options.needs_project:
                raise BadRequest(f"project_id: agent {agent.name!r} answers from a project's documents; send one")
            return None
        return await self._projects.open_filter(request.principal, request.project_id, request.sources)

    async def _take_thread(self, run: Run) -> None:
        """Raises what hinders the run; the thread is let go of then."""
        request = run.request
        if request.thread_id is None:
            if request.resumes:
                raise BadRequest("resume: it answers what a thread's last run asked; send its thread_id too")
            return
        if run.agent is None:
            raise BadRequest("thread_id: a model by itself keeps no conversation; name an agent")
        if self._threads is None:
            raise thread_database_down()
        if request.resumes:
            check_answer(request.resume)
        lease = await self._threads.take(
            request.thread_id,
            owner=request.principal.owner,
            agent=run.agent.name,
            run_id=run.id,
            resumes=request.resumes,
        )
        try:
            saver, most = self._threads.saver, self._threads.max_messages
            run.turn = await begin_turn(run.agent, request, lease, saver, max_messages=most)
        except BaseException:
            await self._threads.release(lease, None)
            raise

    async def _release_thread(self, run: Run, status: RunStatus) -> None:
        turn, run.turn = run.turn, None
        if turn is not None and self._threads is not None:
            await self._threads.release(turn.lease, status)

    async def _execute(self, run: Run) -> RouteurError | None:
        """Run the graph, or the model alone, to its end; what went wrong is returned: the report must follow it."""
        current_run.set(run.context)
        limit_s = self._limit_s(run.agent)
        limit = asyncio.timeout(limit_s)
        try:
            async with limit:
                if run.agent is not None:
                    await self._ask_agent(run, run.agent)
                elif run.plan is not None:
                    await self._ask_model(run, run.plan)
        except asyncio.CancelledError:
            if run.context.interruption is None:
                raise
            return run.context.interruption
        except BaseException as error:  # noqa: BLE001 - the one place where any failure of an agent's own code is caught
            if limit.expired():
                return RunTimeout(f"the run took longer than {limit_s:g} s ({_whose_limit(run)}) and was ended")
            return _told(error, run)
        finally:
            await run.context.end_threaded_calls(CANCEL_WAIT_S)
        return None

    def _limit_s(self, agent: Agent | None) -> float:
        own = None if agent is None else agent.options.timeout_s
        return self._run_timeout_s if own is None else min(own, self._run_timeout_s)

    async def _ask_agent(self, run: Run, agent: Agent) -> None:
        task = asyncio.current_task()
        if run.turn is not None and task is not None:
            if run.turn.lease.is_lost:
                raise lost_thread()
            run.turn.lease.lose = lambda: _lose(run.context, task)
        max_messages = 0 if self._threads is None else self._threads.max_messages
        run.outcome = await run_graph(agent, run.request, run.context, run.turn, max_messages=max_messages)

    async def _ask_model(self, run: Run, plan: Plan) -> None:
        """A model answers by itself: the same router and the same accounts, without a graph."""
        context = run.context
        asked = Request(
            messages=[as_langchain(message) for message in run.request.messages],
            parameters=context.parameters,
            stop=None,
            credentials=context.credentials,
            whole=not run.request.stream,
            on_call=context.calls.append,
            on_hop=context.hops.append,
        )
        deltas = self._router.stream(plan, asked)
        try:
            async for delta in deltas:
                if isinstance(delta, list):
                    await context.say(asked.answering_model, delta)
                    continue
                if pieces := text_of(delta):
                    await context.say(asked.answering_model, pieces)
                if (rare := rare_delta(delta, asked.answering_model)) is not None:
                    context.queue.put(rare)
        finally:
            await deltas.aclose()
        # A model that only calls a tool says nothing, and has answered all the same.
        context.answering_model = asked.answering_model

    def _report(self, run: Run) -> Report:
        first = run.context.first_token_at
        return self._accountant.report(
            run.context.calls,
            latency_s=time.perf_counter() - run.started,
            time_to_first_token_s=None if first is None else first - run.started,
        )

    def _record(self, run: Run, status: RunStatus, error: RouteurError | None) -> Report:
        request = run.request
        report = self._report(run)
        self._ledger.record(ledger_row(run, report, status, error))
        if logger.isEnabledFor(logging.DEBUG):
            extra = {"run_id": str(run.id), "request_id": request.request_id, "agent": request.agent, "status": status}
            logger.debug("run finished", extra=extra)
        return report


def _lose(context: RunContext, task: "asyncio.Task[None]") -> None:
    """Another process holds the thread now: what this run would still write is not the conversation any more."""
    context.interruption = lost_thread()
    task.cancel()


def _context(request: RunRequest, name: str | None, model: str, project: SearchFilter | None) -> RunContext:
    own = {"temperature": request.temperature, "max_tokens": request.max_tokens}
    return RunContext(
        model=model,
        requested_model=name,
        parameters={**request.parameters, **{key: value for key, value in own.items() if value is not None}},
        credentials=request.credentials,
        subject=request.principal.subject,
        project=project,
        is_agents=request.agent is not None,
        is_streamed=request.stream,
        shows_progress=request.events,
    )


def _whose_limit(run: Run) -> str:
    own = None if run.agent is None else run.agent.options.timeout_s
    return "RUN_TIMEOUT_S" if own is None else f"the limit of agent {run.request.agent!r}"


def _status(run: Run, error: RouteurError | None) -> RunStatus:
    if error is not None:
        return "failed"
    return "interrupted" if run.outcome.interrupts else "succeeded"


def _told(error: BaseException, run: Run) -> RouteurError:
    """What a caller is told of a failure. Only the house's own errors are; the log has the rest."""
    request = run.request
    if isinstance(error, RouteurError):
        return error
    if isinstance(error, GraphRecursionError) and run.agent is not None:
        return AgentFailed(f"agent {request.agent!r} took more than {run.agent.options.step_limit} steps and was ended")
    if is_invalid_resume(error):
        return BadRequest(
            f"resume: it is not of the shape that the question requires: {str(error)[:MAX_PROBLEM_CHARS]}"
        )
    if run.turn is not None and isinstance(error, psycopg.Error) and isinstance(error, DATABASE_FAULTS):
        return thread_database_down()
    if isinstance(error, BaseExceptionGroup) and (found := error.subgroup(RouteurError)):
        # A node that asks several models at once fails with all their errors together.
        return next(_leaves(found))
    logger.error("agent failed", exc_info=error, extra={"agent": request.agent, "request_id": request.request_id})
    return _failed_agent(request)


def _failed_agent(request: RunRequest) -> RouteurError:
    if request.agent is None:
        return InternalError(f"the server failed; its log says why (request {request.request_id})")
    return AgentFailed(f"agent {request.agent!r} failed; the server's log says why (request {request.request_id})")


def _leaves(group: BaseExceptionGroup[RouteurError]) -> Iterator[RouteurError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _outcome(task: asyncio.Task[RouteurError | None], run: Run) -> RouteurError | None:
    """How the run ended. Nobody who waits here has cancelled it: the server has, or the agent itself."""
    if not task.done():
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
