"""Tool calls without a result, which a run that failed or was cut off leaves behind, and which providers refuse."""

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any
from uuid import uuid4

from langchain_core.messages import AIMessage, BaseMessage, RemoveMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels import BinaryOperatorAggregate, DeltaChannel
from langgraph.channels.base import BaseChannel
from langgraph.constants import START
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.graph.state import CompiledStateGraph, StateGraph
from langgraph.pregel._read import ChannelRead
from langgraph.pregel._write import ChannelWrite
from langgraph.types import Overwrite

NO_RESULT = "The call was interrupted before it gave a result. It is not known whether it took effect."

Write = tuple[str, Any]
"""What a channel is given: its name, and what its reducer takes."""

# LangGraph's name for how a node's output is sent.
_SEND = "__pregel_send"
# And for what keeps states; absent in a run without a thread.
_SAVER = "__pregel_checkpointer"


def answer_orphans_of_all_graphs() -> None:
    """From now on, each graph that is compiled in this process answers its orphan calls: an agent's own, and those that
    its nodes and tools run, wherever they come from. Without a thread nothing changes.
    """
    compile_graph: Any = StateGraph.compile
    if hasattr(compile_graph, "answers_orphans"):
        return

    @functools.wraps(compile_graph)
    def compile_answering(self: StateGraph[Any], *args: Any, **options: Any) -> CompiledStateGraph[Any]:
        graph: CompiledStateGraph[Any] = compile_graph(self, *args, **options)
        answer_orphans(graph)
        return graph

    compile_answering.answers_orphans = True  # type: ignore[attr-defined]  # So that it is done once.
    StateGraph.compile = compile_answering  # type: ignore[method-assign, assignment]  # As the docstring says.


def answer_orphans(graph: CompiledStateGraph[Any]) -> None:
    """Have the graph answer its orphan calls whenever it is given a new input.

    LangGraph writes the input of a graph by a step of its own, which is not taken when a run is resumed: it knows the
    state that the graph keeps, whatever of it others may see, and all that the input brings.
    """
    start = graph.nodes[START]
    first, *others = start.flat_writers
    if isinstance(first, ChannelWrite) and not isinstance(first, _Start):
        # Copies of a graph share its nodes. Those that were made of it before must see the change, too.
        nodes: Any = graph.nodes
        nodes[START] = start.copy({"writers": [_Start(first.writes, graph.channels), *others]})


class _Start(ChannelWrite):
    """Writes a graph's input into its state, and before it the results that conversations lack."""

    def __init__(self, writes: Sequence[Any], channels: Mapping[str, Any]) -> None:
        super().__init__(writes)
        self._kept = {
            name: channel
            for name, channel in channels.items()
            # What has no reducer is what the last node made it: nothing can be added.
            if isinstance(channel, BinaryOperatorAggregate | DeltaChannel)
        }

    def _write(self, input: Any, config: RunnableConfig) -> Any:  # noqa: A002 - LangGraph's name
        places = config["configurable"]
        if not places.get(_SAVER):
            return super()._write(input, config)
        writes: list[Write] = []
        super()._write(input, {**config, "configurable": {**places, _SEND: writes.extend}})
        kept = ChannelRead.do_read(config, select=list(self._kept))
        places[_SEND](with_orphans_answered(self._kept, kept, writes))
        return input

    async def _awrite(self, input: Any, config: RunnableConfig) -> Any:  # noqa: A002 - LangGraph's name
        return self._write(input, config)


def with_orphans_answered(
    channels: Mapping[str, BaseChannel[Any, Any, Any]], kept: Mapping[str, Any], writes: Sequence[Write]
) -> Sequence[Write]:
    """The writes of an input, such that every tool call of a conversation has a result behind it.

    `kept` is the state before; a conversation is whatever in it is a list of messages. A call that the input itself
    answers is no orphan.
    """
    for name, messages in _conversations(kept).items():
        new = [value for channel, value in writes if channel == name]
        if any(isinstance(value, Overwrite) for value in new):
            writes = [_overwritten(write) if write[0] == name else write for write in writes]
            continue
        sent = [one for value in new for one in (value if isinstance(value, list | tuple) else [value])]
        whole = _with_answers(messages, sent)
        if whole is not None:
            # Overwritten: an answer may belong into the middle, and what a reducer takes is its graph's own matter.
            channel = channels[name].from_checkpoint(whole)
            # What the input removes is not there any more.
            channel.update([_without_removals(value) for value in new])
            writes = [*[write for write in writes if write[0] != name], (name, Overwrite(channel.get()))]
    return writes


def _overwritten(write: Write) -> Write:
    """What stands for a whole conversation is one that has its results, too."""
    name, value = write
    if not isinstance(value, Overwrite):
        return write
    messages = _conversations({name: value.value}).get(name, [])
    whole = _with_answers(messages, ())
    return write if whole is None else (name, Overwrite(whole))


def _with_answers(kept: list[BaseMessage], sent: Sequence[Any]) -> list[BaseMessage] | None:
    """What is kept, each call with a result, given what the input sends; `None` where nothing is missing."""
    here = _without_removed(kept, {one.id for one in sent if isinstance(one, RemoveMessage)})
    ids = {message.id for message in here if message.id is not None}
    # A graph that is sent a whole history is sent results that it has: they are older calls'.
    answered = {result for one in sent if getattr(one, "id", None) not in ids and (result := _answered_by(one))}
    # What stands for a message of the same id may have other calls, or none.
    replaced: dict[str | None, BaseMessage] = {
        one.id: one for one in sent if isinstance(one, AIMessage) and one.id in ids
    }
    here = [replaced.get(message.id, message) for message in here]
    whole = list(_whole(here, answered))
    return whole if len(whole) > len(here) else None


def _conversations(state: Any) -> dict[str, list[BaseMessage]]:
    """The lists of messages that a state holds, by their keys."""
    # By the types themselves: `isinstance` runs the code of an object that has a `__class__` of its own.
    return {
        name: list(value)
        for name, value in (state.items() if isinstance(state, dict) else ())
        if issubclass(type(value), list | tuple) and value and all(issubclass(type(one), BaseMessage) for one in value)
    }


def _without_removed(messages: list[BaseMessage], removed: Collection[str | None]) -> list[BaseMessage]:
    if REMOVE_ALL_MESSAGES in removed:
        return []
    return [message for message in messages if message.id is None or message.id not in removed]


def _without_removals(value: Any) -> Any:
    if isinstance(value, RemoveMessage):
        return []
    return [one for one in value if not isinstance(one, RemoveMessage)] if isinstance(value, list) else value


def _answered_by(message: Any) -> str | None:
    """The id of the call whose result this is, in whatever form a reducer may take it."""
    found = message.get("tool_call_id") if isinstance(message, dict) else getattr(message, "tool_call_id", None)
    return found if isinstance(found, str) else None


def _whole(messages: Sequence[BaseMessage], answered: Collection[str]) -> Iterator[BaseMessage]:
    """The messages, with an answer to each orphan behind those that the same message's calls have.

    `answered` are the ids of results that follow. Some models count their calls from 0 in each message: an id alone
    does not say whose result it is.
    """
    orphans: list[ToolMessage] = []
    for number, message in enumerate(messages):
        if not isinstance(message, ToolMessage):
            yield from orphans
            orphans = list(_answers(message, messages, number, answered))
        yield message
    yield from orphans


def _results(messages: Sequence[BaseMessage], first: int, answered: Collection[str]) -> set[str]:
    """The ids of the results before the next message of a model."""
    found: set[str] = set()
    for message in islice(messages, first, None):
        if isinstance(message, AIMessage):
            return found
        if isinstance(message, ToolMessage):
            found.add(message.tool_call_id)
    return found.union(answered)


def _answers(
    message: BaseMessage, messages: Sequence[BaseMessage], number: int, answered: Collection[str]
) -> Iterator[ToolMessage]:
    # Those that could not be read go to the provider as well.
    calls = (*message.tool_calls, *message.invalid_tool_calls) if isinstance(message, AIMessage) else ()
    given = _results(messages, number + 1, answered) if calls else set()
    for call in calls:
        if (call_id := call.get("id")) and call_id not in given:
            given.add(call_id)
            yield ToolMessage(
                NO_RESULT, tool_call_id=call_id, name=call.get("name") or "", status="error", id=str(uuid4())
            )
