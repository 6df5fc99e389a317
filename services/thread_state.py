"""What a thread holds and what it waits for, read from its newest checkpoint: the only place that says so."""

from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage, convert_to_openai_messages
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import StateSnapshot, _interrupt_id

from core.json_form import as_json
from domain.runs import Interruption
from services.agent_registry import Agent
from services.thread_saver import ThreadSaver, passes_over_outputs
from services.threads import DATABASE_FAULTS, thread_database_down

MOST_QUESTIONS_OF_A_TASK = 100
"""A node that asks several times gives each question an id by its number."""


@dataclass(frozen=True, slots=True)
class ThreadState:
    """`interrupts` is what the thread waits for. `is_open` says that a step has begun and not ended."""

    values: Any
    """What the graph's state is, most often a dictionary."""
    messages: list[BaseMessage]
    interrupts: tuple[Interruption, ...]
    is_open: bool
    answered: frozenset[str]
    """Ids of questions that were answered by nodes that ask another one now."""
    is_broken: bool = False
    """Whether the nodes that ended in the open step gave what cannot be made part of the state: it is passed over."""

    @property
    def is_paused(self) -> bool:
        """Whether it waits at a breakpoint, for any answer."""
        return any(one.next for one in self.interrupts)


async def read_thread_state(agent: Agent, key: str) -> ThreadState:
    """The newest state of a thread of this agent; raises `DatabaseUnavailable` when it cannot be read."""
    graph = agent.durable_graph_or_raise()
    config: Any = {"configurable": {"thread_id": key}}
    is_broken = False
    try:
        try:
            state = await _snapshot(graph, config)
        except DATABASE_FAULTS:
            raise
        except Exception:  # noqa: BLE001 - reducers are the agent's own code
            state, is_broken = await _snapshot_before_step(graph, config), True
        interrupts, answered = _questions(state)
        if state.next and not interrupts:
            interrupts = await _pause(graph.checkpointer, key, state)
    except DATABASE_FAULTS as error:
        raise thread_database_down() from error
    return ThreadState(state.values, messages_of(state.values), interrupts, bool(state.tasks), answered, is_broken)


async def _snapshot(graph: CompiledStateGraph[Any], config: Any) -> StateSnapshot:
    state = await graph.aget_state(config)
    if state.interrupts and any(task.state is not None for task in state.tasks):
        state = await graph.aget_state(config, subgraphs=True)
    return state


async def _snapshot_before_step(graph: CompiledStateGraph[Any], config: Any) -> StateSnapshot:
    token = passes_over_outputs.set(True)
    try:
        return await _snapshot(graph, config)
    finally:
        passes_over_outputs.reset(token)


def messages_of(values: Any) -> list[BaseMessage]:
    """The messages of a graph's state, whatever else it may be."""
    found = values.get("messages") if isinstance(values, dict) else None
    return [one for one in found if isinstance(one, BaseMessage)] if isinstance(found, list | tuple) else []


def conversation(state: ThreadState) -> list[dict[str, Any]]:
    """The messages in OpenAI's shape, oldest first."""
    return [_in_openai_shape(message) for message in state.messages]


def _in_openai_shape(message: BaseMessage) -> dict[str, Any]:
    try:
        shaped: Any = convert_to_openai_messages(message)
    except (KeyError, TypeError, ValueError):
        # A kind of message or of content that OpenAI does not know.
        shaped = {"role": message.type, "content": message.content}
    form: dict[str, Any] = as_json(shaped)
    return form


def _questions(state: StateSnapshot) -> tuple[tuple[Interruption, ...], frozenset[str]]:
    """What tasks ask that have not ended, and what those were answered before."""
    found: list[Interruption] = []
    answered: set[str] = set()
    for task in state.tasks:
        for question in task.interrupts:
            if (before := _answered_before(question.id, task, state)) is not None:
                found.append(Interruption(question.id, as_json(question.value)))
                answered |= before
    return tuple(found), frozenset(answered)


def _answered_before(interrupt_id: str, task: Any, state: StateSnapshot) -> set[str] | None:
    """The ids of a task's earlier questions; `None` when this one is over: its subgraph has gone past it."""
    namespace = state.config["configurable"].get("checkpoint_ns", "")
    own = f"{namespace}|{task.name}:{task.id}" if namespace else f"{task.name}:{task.id}"
    ids = [_interrupt_id(own, number) for number in range(MOST_QUESTIONS_OF_A_TASK)]
    if interrupt_id in ids:
        return set(ids[: ids.index(interrupt_id)])
    inner = task.state
    if not isinstance(inner, StateSnapshot) or inner.created_at is None:
        return set()
    for one in inner.tasks:
        if interrupt_id in {question.id for question in one.interrupts}:
            return _answered_before(interrupt_id, one, inner)
    return None


async def _pause(saver: Any, key: str, state: StateSnapshot) -> tuple[Interruption, ...]:
    checkpoint_id = str(state.config["configurable"].get("checkpoint_id"))
    if not isinstance(saver, ThreadSaver) or not await saver.is_paused(key, checkpoint_id):
        return ()
    return (Interruption(checkpoint_id, {"next": list(state.next)}, tuple(state.next)),)
