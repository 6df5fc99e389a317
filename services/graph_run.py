"""One run of an agent's graph: how a request enters it, and what is read from its last state."""

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    convert_to_messages,
)
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command, StreamMode
from pydantic import ValidationError

from domain.documents import Passage
from domain.errors import BadRequest, Conflict
from domain.messages import Message
from domain.runs import Interruption, RunRequest
from services.agent_registry import Agent
from services.llm.history import assistant_message
from services.run_context import RunContext
from services.threads import Lease

INTERRUPT = "__interrupt__"
"""LangGraph's key for what its nodes ask."""

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


async def run_graph(
    agent: Agent, request: RunRequest, context: RunContext, lease: Lease | None, *, max_messages: int
) -> GraphOutcome:
    """Run the graph to its end or its interrupt; what it says without a model goes out too."""
    graph, config = _graph_and_config(agent, lease)
    entry = await _entry(agent, graph, config, request, lease, max_messages=max_messages)
    before: list[Any] = []
    if lease is None and not request.events:
        final: Mapping[str, Any] = await graph.ainvoke(entry, config)
    else:
        before, final = await _watched(graph, entry, config, context, durable=lease is not None)
    interrupts = tuple(Interruption(asked.id, asked.value) for asked in final.get(INTERRUPT, ()))
    messages = final.get("messages") or []
    if lease is not None:
        lease.waits = bool(interrupts)
        lease.messages = len(messages)
    elif interrupts:
        raise BadRequest(
            f"agent {agent.name!r} asks something before it goes on, and can only go on in a thread: send a thread_id"
        )
    known = {message.id for message in before}
    news = [message for message in messages if message.id not in known]
    await _say_what_was_not_streamed(_answer(agent, final, news), context)
    return GraphOutcome(_sources(final, context), interrupts)


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


def _graph_and_config(agent: Agent, lease: Lease | None) -> tuple[CompiledStateGraph[Any], Any]:
    config: dict[str, Any] = {"recursion_limit": agent.options.step_limit}
    if lease is None:
        return agent.graph_or_raise(), config
    return agent.durable_graph_or_raise(), {**config, "configurable": {"thread_id": lease.thread_id}}


async def _entry(
    agent: Agent,
    graph: CompiledStateGraph[Any],
    config: Any,
    request: RunRequest,
    lease: Lease | None,
    *,
    max_messages: int,
) -> Any:
    """What the graph is started with: the caller's messages in its own state, or the answer to what it asked."""
    if lease is not None and request.resume is not None:
        return Command(resume=request.resume)
    sent = request.messages
    if lease is not None and lease.turns > 0 and len(sent) > 1:
        raise Conflict(
            f"conversation_history: thread {lease.thread_id!r} keeps the conversation already; send the message alone"
        )
    messages = [as_langchain(message) for message in sent]
    if agent.options.enter is not None:
        return agent.options.enter(messages)
    if lease is not None and lease.messages > max_messages:
        messages = [*await _oldest(graph, config, keep=max_messages // 2), *messages]
    return {"messages": messages}


async def _oldest(graph: CompiledStateGraph[Any], config: Any, *, keep: int) -> list[BaseMessage]:
    """Removes the oldest messages of a thread; what is kept begins with the user's."""
    state = await graph.aget_state(config)
    messages: Sequence[BaseMessage] = state.values.get("messages") or []
    first = max(0, len(messages) - keep)
    while first < len(messages) and not isinstance(messages[first], HumanMessage):
        first += 1
    return [RemoveMessage(id=str(message.id)) for message in messages[:first]]


async def _watched(
    graph: CompiledStateGraph[Any], entry: Any, config: Any, context: RunContext, *, durable: bool
) -> tuple[list[Any], Mapping[str, Any]]:
    """The messages before the first step, and the last state; progress goes to those who want it."""
    before: list[Any] | None = None
    state: Mapping[str, Any] = {}
    mode: str
    content: Any
    modes: list[StreamMode] = ["values", "tasks"] if context.shows_progress else ["values"]
    # `async` writes each step's state while the next one runs.
    options: dict[str, Any] = {"durability": "async"} if durable else {}
    steps: Any = graph.astream(entry, config, stream_mode=modes, **options)
    async with aclosing(steps):
        async for mode, content in steps:
            if mode == "tasks":
                status = "finished" if "result" in content else "started"
                context.show("node", {"node": content["name"], "status": status})
                continue
            if before is None:
                before = list(content.get("messages") or [])
            for asked in content.get(INTERRUPT, ()):
                context.show("interrupt", {"id": asked.id, "value": asked.value})
            state = content
    return before or [], state


def _answer(agent: Agent, final: Mapping[str, Any], news: Sequence[Any]) -> str:
    """What the agent says in the end: its last message, when it is new, or what it declared to be its answer."""
    if agent.options.answer is not None:
        return agent.options.answer(final)
    last = news[-1] if news else None
    return str(last.text) if isinstance(last, AIMessage) else ""


def _sources(final: Mapping[str, Any], context: RunContext) -> tuple[Passage, ...]:
    """The passages that the graph names in `sources`, else all that it retrieved.

    Only of this run: a thread's state may still hold those of the last one.
    """
    named = final.get("sources")
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
