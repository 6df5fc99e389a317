"""What a thread holds and what it waits for, read from its newest checkpoint: the only place that says so."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage, convert_to_openai_messages
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import StateSnapshot

from core.json_form import as_json
from domain.runs import Interruption
from services.agent_registry import Agent
from services.error_handlers import namespace_of
from services.pauses import read_pauses
from services.questions import QuestionPlace, innermost_graph, question_places
from services.taken_answers import earlier_questions, task_names
from services.thread_saver import ThreadSaver, passes_over_outputs
from services.threads import DATABASE_FAULTS, thread_database_down


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


async def read_thread_state(agent: Agent, key: str) -> ThreadState:
    """The newest state of a thread of this agent; raises `DatabaseUnavailable` when it cannot be read."""
    graph = agent.durable_graph_or_raise()
    config: Any = {"configurable": {"thread_id": key}}
    try:
        state, is_broken = await _snapshot(graph, config)
        interrupts, answered = await _questions(graph, key, state, is_broken=is_broken)
        if state.next:
            interrupts += await _pause(graph.checkpointer, key, state)
    except DATABASE_FAULTS as error:
        raise thread_database_down() from error
    return ThreadState(state.values, messages_of(state.values), interrupts, bool(state.tasks), answered, is_broken)


async def _snapshot(graph: CompiledStateGraph[Any], config: Any) -> tuple[StateSnapshot, bool]:
    """The newest state, and whether what its open step gave so far had to be passed over."""
    state = await _read_or_none(graph, config)
    if state is None:
        return await _read(graph, config, with_outputs=False), True
    if state.interrupts and any(task.state is not None for task in state.tasks):
        within = await _read_or_none(graph, config, subgraphs=True)
        if within is not None:
            return within, False
        within = await _read_or_none(graph, config, subgraphs=True, with_outputs=False)
        if within is not None:
            return within, True
        # Not for what was given: of the graphs that a node's function runs, LangGraph has taken one for another.
    return state, False


async def _read(
    graph: CompiledStateGraph[Any], config: Any, *, subgraphs: bool = False, with_outputs: bool = True
) -> StateSnapshot:
    token = passes_over_outputs.set(not with_outputs)
    try:
        return await graph.aget_state(config, subgraphs=subgraphs)
    finally:
        passes_over_outputs.reset(token)


async def _read_or_none(graph: CompiledStateGraph[Any], config: Any, **options: bool) -> StateSnapshot | None:
    try:
        return await _read(graph, config, **options)
    except DATABASE_FAULTS:
        raise
    except Exception:  # noqa: BLE001 - reducers are the agent's own code
        return None


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


async def _questions(
    graph: CompiledStateGraph[Any], key: str, state: StateSnapshot, *, is_broken: bool
) -> tuple[tuple[Interruption, ...], frozenset[str]]:
    """What tasks ask that have not ended, and what those were answered before."""
    found: list[Interruption] = []
    answered: set[str] = set()
    places: dict[str, list[QuestionPlace]] | None = None
    saver = graph.checkpointer
    for task in state.tasks:
        # A task's question comes twice from the graph of a node within.
        for question in {one.id: one for one in task.interrupts}.values():
            own = f"{task.name}:{task.id}"
            before = earlier_questions(question.id, own)
            if before is None:
                before = _first(question.id, _places_of_handlers(question.id, own, task, state, graph))
            if before is None and isinstance(saver, ThreadSaver):
                if places is None:
                    async with saver._cursor() as cursor:  # noqa: SLF001 - the saver's own rows
                        places = await question_places(saver, cursor, key, with_outputs=not is_broken)
                place = innermost_graph(one for one in places.get(question.id, ()) if one.namespace)
                if place is not None and not place.is_pending:
                    # Over: the graph within has gone past it, and failed later.
                    continue
                before = await _earlier_within(question.id, place, saver, key)
            found.append(Interruption(question.id, as_json(question.value)))
            answered |= before or set()
    return tuple(found), frozenset(answered)


async def _earlier_within(
    question_id: str, place: QuestionPlace | None, saver: ThreadSaver, key: str
) -> set[str] | None:
    if place is None:
        return None
    at: Any = {"configurable": {"thread_id": key, "checkpoint_ns": place.namespace}}
    loaded = await saver.aget_tuple(at)
    names = task_names(loaded.checkpoint, place.task_path) if loaded is not None else []
    return _first(question_id, (f"{place.namespace}|{name}:{place.task_id}" for name in names))


def _first(question_id: str, places: Iterable[str]) -> set[str] | None:
    found = (earlier_questions(question_id, place) for place in places)
    return next((before for before in found if before is not None), None)


def _places_of_handlers(question_id: str, own: str, task: Any, state: StateSnapshot, graph: Any) -> Iterator[str]:
    """Where error handlers may have asked the question: that of the task at the place `own`, or of one within it."""
    node = graph.nodes.get(task.name) if task.error is not None else None
    if node is not None and node.error_handler_node is not None:
        yield namespace_of(
            node.error_handler_node,
            node=own,
            task_id=task.id,
            checkpoint_id=state.config["configurable"]["checkpoint_id"],
            step=(state.metadata or {}).get("step", -1) + 1,
        )
    inner = task.state
    if not isinstance(inner, StateSnapshot) or inner.created_at is None:
        return
    within = dict(graph.get_subgraphs()).get(task.name)
    namespace = inner.config["configurable"].get("checkpoint_ns", "")
    for one in inner.tasks if within is not None else ():
        if question_id in {question.id for question in one.interrupts}:
            yield from _places_of_handlers(question_id, f"{namespace}|{one.name}:{one.id}", one, inner, within)


async def _pause(saver: Any, key: str, state: StateSnapshot) -> tuple[Interruption, ...]:
    checkpoint_id = str(state.config["configurable"].get("checkpoint_id"))
    pauses = await read_pauses(saver, key, checkpoint_id) if isinstance(saver, ThreadSaver) else []
    if not pauses:
        return ()
    # Any answer goes on with all of them.
    following = tuple(dict.fromkeys(name for one in pauses for name in one.next)) or tuple(state.next)
    return (Interruption(pauses[0].checkpoint_id, {"next": list(following)}, following),)
