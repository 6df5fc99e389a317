"""Tool calls without a result, which a run that failed or was cut off leaves behind, and which providers refuse."""

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
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel._read import ChannelRead
from langgraph.pregel._write import ChannelWrite
from langgraph.types import Overwrite

from services.graphs_within import graphs_within

NO_RESULT = "The call was interrupted before it gave a result. It is not known whether it took effect."

Write = tuple[str, Any]
"""What a channel is given: its name, and what its reducer takes."""

# LangGraph's name for how a node's output is sent.
_SEND = "__pregel_send"


def answer_orphans(graph: CompiledStateGraph[Any]) -> None:
    """Have the graph, and each graph that it runs, answer its orphan calls whenever it is given a new input.

    LangGraph writes the input of a graph by a step of its own, which is not taken when a run is resumed: it knows the
    state that the graph keeps, whatever of it others may see, and all that the input brings.
    """
    for one in graphs_within(graph):
        start = one.nodes[START]
        first, *others = start.flat_writers
        if isinstance(first, ChannelWrite) and not isinstance(first, _Start):
            # Copies of a graph share its nodes. Those that were made of one before must see the change, too.
            nodes: Any = one.nodes
            nodes[START] = start.copy({"writers": [_Start(first.writes, one.channels), *others]})


class _Start(ChannelWrite):
    """Writes a graph's input into its state, and before it the results that conversations lack."""

    def __init__(self, writes: Sequence[Any], channels: Mapping[str, Any]) -> None:
        super().__init__(writes)
        self._kept = {
            name: channel
            for name, channel in channels.items()
            # What does not stay from turn to turn has no orphans.
            if isinstance(channel, BinaryOperatorAggregate | DeltaChannel)
        }

    def _write(self, input: Any, config: RunnableConfig) -> Any:  # noqa: A002 - LangGraph's name
        writes: list[Write] = []
        places = config["configurable"]
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
        sent = [one for value in new for one in (value if isinstance(value, list | tuple) else [value])]
        here = _without_removed(messages, {one.id for one in sent if isinstance(one, RemoveMessage)})
        whole = list(_whole(here, {result for one in sent if (result := _answered_by(one))}))
        if len(whole) == len(here):
            continue
        if whole[: len(here)] == here:
            writes = [(name, whole[len(here) :]), *writes]
            continue
        # In the middle of the list, where no reducer puts anything.
        channel = channels[name].from_checkpoint(whole)
        # What the input removes is not there any more.
        channel.update([_without_removals(value) for value in new])
        others = [write for write in writes if write[0] != name]
        writes = [*others, (name, Overwrite(channel.get()))]
    return writes


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
            yield ToolMessage(
                NO_RESULT, tool_call_id=call_id, name=call.get("name") or "", status="error", id=str(uuid4())
            )
