"""One run of an agent's graph: how a request enters it, and what is read from its last state."""

import json
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    convert_to_messages,
)
from langgraph.channels import BinaryOperatorAggregate, DeltaChannel
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Overwrite
from pydantic import ValidationError

from core.json_form import as_json
from domain.documents import Passage
from domain.errors import BadRequest, Conflict
from domain.messages import Message
from domain.runs import Interruption, RunRequest
from services.agent_registry import Agent
from services.graph_stops import GraphStop, watching
from services.llm.history import assistant_message
from services.node_progress import NodeProgress
from services.pauses import note_stop
from services.run_context import RunContext
from services.taken_answers import INTERRUPT
from services.thread_saver import ThreadSaver
from services.thread_state import messages_of, read_thread_state
from services.thread_turn import Turn

LANGCHAIN_MESSAGES: Mapping[str, type[BaseMessage]] = {
    "user": HumanMessage,
    "assistant": AIMessage,
    "system": SystemMessage,
}


@dataclass(frozen=True, slots=True)
class GraphOutcome:
    """What a graph came to: the passages it rests on, and what it asks before it goes on."""

    sources: tuple[Passage, ...] = ()
    interrupts: tuple[Interruption, ...] = ()


@dataclass(slots=True)
class _Watched:
    """What came out of a graph's run: the messages before its first step, its last state, which graphs stopped."""

    before: list[BaseMessage] = field(default_factory=list)
    state: Any = None
    stops: list[GraphStop] = field(default_factory=list)
    has_stopped: bool = False


async def run_graph(
    agent: Agent, request: RunRequest, context: RunContext, turn: Turn | None, *, max_messages: int
) -> GraphOutcome:
    """Run the graph to its end or its interrupt; what it says without a model goes out too."""
    graph, config = _graph_and_config(agent, turn)
    entry = _entry(agent, request, turn, max_messages=max_messages)
    run = await _watched(graph, entry, config, context, durable=turn is not None)
    interrupts: tuple[Interruption, ...] = ()
    messages = messages_of(run.state)
    if turn is not None:
        turn.lease.messages = len(messages)
        turn.lease.is_whole = not run.has_stopped
        interrupts = await _interrupts(agent, graph, turn, run)
        for pause in (one for one in interrupts if one.next):
            context.show("interrupt", {"id": pause.id, "value": pause.value})
    elif run.has_stopped:
        raise BadRequest(
            f"agent {agent.name!r} stops to be answered before it goes on, which it can in a thread: send a thread_id"
        )
    await _say_what_was_not_streamed(_answer(agent, run.state, _news(run.before, messages)), context)
    return GraphOutcome(_sources(run.state, context), interrupts)


async def _interrupts(
    agent: Agent, graph: CompiledStateGraph[Any], turn: Turn, run: _Watched
) -> tuple[Interruption, ...]:
    """What the thread waits for now, as its checkpoint has it: the caller reads what the next run will find."""
    if not run.has_stopped:
        return ()
    if isinstance(graph.checkpointer, ThreadSaver):
        await note_stop(graph.checkpointer, turn.lease.key, turn.answers, run.stops)
    return (await read_thread_state(agent, turn.lease.key)).interrupts


def as_langchain(message: Message) -> BaseMessage:
    """The house's message as LangChain's; raises `BadRequest` for one that cannot be read."""
    if isinstance(message.content, str) and not message.more and (kind := LANGCHAIN_MESSAGES.get(message.role)):
        return kind(content=message.content)
    if message.role == "assistant":
        return assistant_message(message)
    try:
        return convert_to_messages([{"role": message.role, "content": message.content, **message.more}])[0]
    except (KeyError, TypeError, ValueError) as error:
        raise BadRequest(f"messages: a message of role {message.role!r} cannot be read: {_in_words(error)}") from error


def _in_words(error: Exception) -> str:
    """What is wrong, without the names of our classes."""
    if isinstance(error, ValidationError):
        wrong = error.errors(include_url=False, include_input=False, include_context=False)
        return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in wrong[:3])
    return str(error).partition("\n")[0][:300]


def _graph_and_config(agent: Agent, turn: Turn | None) -> tuple[CompiledStateGraph[Any], Any]:
    config: dict[str, Any] = {"recursion_limit": agent.options.step_limit}
    if turn is None:
        return agent.graph_or_raise(), config
    return agent.durable_graph_or_raise(), {**config, "configurable": {"thread_id": turn.lease.key}}


def _entry(agent: Agent, request: RunRequest, turn: Turn | None, *, max_messages: int) -> Any:
    """What the graph is started with: the caller's messages in its own state, or the answer to what it asked."""
    if turn is not None and turn.resumes:
        return turn.command
    sent = request.messages
    if turn is not None and turn.lease.turns > 0 and len(sent) > 1:
        raise Conflict(
            f"conversation_history: thread {turn.lease.thread_id!r} keeps the conversation already; "
            f"send the message alone"
        )
    messages = [as_langchain(message) for message in sent]
    entry = {"messages": messages} if agent.options.enter is None else agent.options.enter(messages)
    if turn is not None and len(turn.messages) > max_messages and _gathers_messages(agent):
        for message in messages:
            message.id = message.id or str(uuid4())
        # Overwritten, for not every reducer knows how to remove.
        return {"messages": Overwrite([*_newest(turn.messages, keep=max_messages // 2), *messages])}
    return entry


def _gathers_messages(agent: Agent) -> bool:
    """Whether the caller's messages are added to those of the thread; without a reducer they stand for them."""
    channel = agent.durable_graph_or_raise().channels.get("messages")
    return agent.options.enter is None and isinstance(channel, BinaryOperatorAggregate | DeltaChannel)


def _newest(messages: list[BaseMessage], *, keep: int) -> list[BaseMessage]:
    """What stays of a thread's messages when the oldest go; it begins with the user's."""
    first = max(0, len(messages) - keep)
    while first < len(messages) and not isinstance(messages[first], HumanMessage):
        first += 1
    return messages[first:]


async def _watched(
    graph: CompiledStateGraph[Any], entry: Any, config: Any, context: RunContext, *, durable: bool
) -> _Watched:
    """Run it; progress goes to those who want it."""
    run = _Watched()
    if context.shows_progress:
        config = {**config, "callbacks": [NodeProgress(context)]}
    is_first = True
    # `async` writes each step's state while the next one runs.
    options: dict[str, Any] = {"durability": "async"} if durable else {}
    states: Any = graph.astream(entry, config, stream_mode="values", **options)
    with watching(graph) as watch:
        async with aclosing(states):
            async for state in states:
                run.before = messages_of(state) if is_first else run.before
                run.state, is_first = state, False
                for one in state.get(INTERRUPT, ()) if isinstance(state, dict) else ():
                    context.show("interrupt", {"id": one.id, "value": one.value})
    run.stops, run.has_stopped = watch.stops, watch.has_stopped
    return run


def _news(before: Sequence[BaseMessage], after: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The messages that came during the run. Those of a list without a reducer have no ids: their place counts."""
    known = {message.id for message in before}
    return [
        message
        for index, message in enumerate(after)
        if (message.id not in known if message.id is not None else message != next(iter(before[index:]), None))
    ]


def _answer(agent: Agent, final: Any, news: Sequence[Any]) -> str:
    """What the agent says in the end: its last message, when it is new, or what it declared to be its answer."""
    if agent.options.answer is not None:
        answer: Any = as_json(agent.options.answer(final))
        return answer if isinstance(answer, str) else "" if answer is None else json.dumps(answer, ensure_ascii=False)
    last = news[-1] if news else None
    return str(last.text) if isinstance(last, AIMessage) else ""


def _sources(final: Any, context: RunContext) -> tuple[Passage, ...]:
    """The passages that the graph names in `sources`, else all that it retrieved.

    Only of this run: a thread's state may still hold those of the last one.
    """
    named = final.get("sources") if isinstance(final, Mapping) else None
    if not isinstance(named, list | tuple):
        return tuple(context.passages)
    retrieved = {(passage.document_id, passage.ordinal): passage for passage in context.passages}
    keys = [(source.document_id, source.ordinal) for source in named if isinstance(source, Passage)]
    return tuple(retrieved[key] for key in dict.fromkeys(keys) if key in retrieved)


async def _say_what_was_not_streamed(answer: str, context: RunContext) -> None:
    """An agent may write its answer itself, without a model: that text has not gone out yet."""
    if rest := _unsaid(answer, ["".join(pieces) for pieces in context.sent]):
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
