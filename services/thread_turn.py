"""How a run on a thread begins: with the answer to what the thread waits for, or with a new message in a whole one."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import BaseMessage
from langgraph.graph import END
from langgraph.types import Command

from core.json_form import INT64_MIN, UINT64_MAX
from domain.errors import BadRequest, Conflict, ThreadAnswered, ThreadWaits
from domain.runs import RunRequest
from services.agent_registry import Agent
from services.questions import interrupt_ids
from services.settling import settle
from services.thread_saver import ThreadSaver
from services.thread_state import ThreadState, read_thread_state
from services.threads import DATABASE_FAULTS, Lease, thread_database_down

MAX_ANSWER_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Turn:
    """A run's hold of its thread, and what the graph is started with where that is no message of the caller's."""

    lease: Lease
    resumes: bool = False
    answers: Mapping[str, Any] = field(default_factory=dict)
    """By the id of what they answer. A thread that waits at a breakpoint needs none."""
    messages: list[BaseMessage] = field(default_factory=list)
    """What the thread holds."""

    @property
    def command(self) -> Command[Any] | None:
        """What LangGraph goes on with."""
        return Command(resume=dict(self.answers)) if self.answers else None


async def begin_turn(agent: Agent, request: RunRequest, lease: Lease, saver: ThreadSaver, *, max_messages: int) -> Turn:
    """Raises why the thread does not take this request. What a failed run has left open is ended before a message."""
    if lease.is_new or (lease.is_whole and not request.resumes and lease.messages <= max_messages):
        return Turn(lease)
    if request.resumes:
        try:
            await settle(saver, lease.key)
        except DATABASE_FAULTS as error:
            raise thread_database_down() from error
    saver.keep(lease.key)
    state = await read_thread_state(agent, lease.key)
    try:
        if state.is_broken:
            await saver.drop_outputs(lease.key)
            saver.keep(lease.key)
        if request.resumes:
            return Turn(lease, True, await _answers(request.resume, state, lease, saver), state.messages)
        if state.interrupts:
            raise ThreadWaits(f"thread {lease.thread_id!r} {_wants(state)}; send `resume`, or delete the thread")
        if state.is_open:
            # The nodes that had ended in the step stay done; those that had not are not begun again by a new message.
            config: Any = {"configurable": {"thread_id": lease.key}}
            await agent.durable_graph_or_raise().aupdate_state(config, None, as_node=END)
            state = await read_thread_state(agent, lease.key)
    except DATABASE_FAULTS as error:
        raise thread_database_down() from error
    return Turn(lease, messages=state.messages)


def check_answer(value: Any) -> None:
    """Raises `BadRequest` for what cannot be kept: nothing of it may be stored before that is known."""
    waiting = [(value, 0)]
    while waiting:
        one, depth = waiting.pop()
        if depth > MAX_ANSWER_DEPTH:
            raise BadRequest(f"resume: nested more than {MAX_ANSWER_DEPTH} deep; send a flatter answer")
        match one:
            case bool() | None:
                pass
            case int() if not INT64_MIN <= one <= UINT64_MAX:
                raise BadRequest("resume: a whole number of more than 64 bits; send it as text")
            case float() if not math.isfinite(one):
                raise BadRequest("resume: a number that JSON does not know (NaN or infinite)")
            case str():
                _check_text(one)
            case Mapping():
                waiting += [(part, depth + 1) for pair in one.items() for part in pair]
            case list() | tuple():
                waiting += [(part, depth + 1) for part in one]


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        problem = f"half of a surrogate pair at position {error.start} of a text"
        raise BadRequest(f"resume: {problem}; send whole characters") from error


async def _answers(resume: Any, state: ThreadState, lease: Lease, saver: ThreadSaver) -> dict[str, Any]:
    """The answer by the ids of what it answers. An object is a map of ids when every key is the id of a question."""
    pending = {one.id for one in state.interrupts}
    sent = set(resume) if isinstance(resume, dict) else set()
    if not pending or not sent <= pending:
        known = state.answered | await interrupt_ids(saver, lease.key)
        if not pending:
            raise _waits_for_nothing(lease.thread_id, answered=bool(known))
        if answered := sorted(sent & known - pending):
            raise ThreadAnswered(
                f"resume: {answered[0]!r} was answered already; "
                f"thread {lease.thread_id!r} waits for {', '.join(map(repr, sorted(pending)))}"
            )
    paused = {one.id: one.next for one in state.interrupts if one.next}
    if pending <= paused.keys():
        return {}
    if sent and sent <= pending:
        for one in paused.keys() - sent:
            raise BadRequest(
                f"resume: thread {lease.thread_id!r} is paused before {', '.join(paused[one])}, too, "
                f"and any answer goes on there; name {one!r} as well"
            )
        return {key: value for key, value in resume.items() if key not in paused}
    if len(pending) > 1:
        raise BadRequest(
            f"resume: thread {lease.thread_id!r} waits for {len(pending)} answers; "
            f"send an object of answers by id ({', '.join(map(repr, sorted(pending)))})"
        )
    return {pending.pop(): resume}


def _waits_for_nothing(thread_id: str, *, answered: bool) -> Conflict:
    if answered:
        return ThreadAnswered(
            f"thread {thread_id!r} waits for nothing: what it asked was answered already; leave out `resume`"
        )
    return Conflict(f"thread {thread_id!r} waits for nothing: its last run asked nothing; leave out `resume`")


def _wants(state: ThreadState) -> str:
    before = [name for one in state.interrupts for name in one.next]
    wants = ["waits for the answer to what its last run asked"] if any(not one.next for one in state.interrupts) else []
    return " and ".join([*wants, *([f"is paused before {', '.join(before)}"] if before else [])])
