"""Tool calls without a result, which a run that failed or was cut off leaves behind, and which providers refuse."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any
from uuid import uuid4

from langchain_core.messages import AIMessage, BaseMessage, RemoveMessage, ToolMessage
from langgraph.channels import BinaryOperatorAggregate, DeltaChannel
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Overwrite

NO_RESULT = "The call was interrupted before it gave a result. It is not known whether it took effect."


def with_orphans_answered(graph: CompiledStateGraph[Any], kept: Sequence[BaseMessage], entry: Any) -> Any:
    """What a graph is started with, such that every tool call of the conversation has a result behind it.

    `kept` is what the thread holds. A call that the entry itself answers is no orphan. A state that keeps no messages
    from turn to turn has none either.
    """
    if not isinstance(graph.channels.get("messages"), BinaryOperatorAggregate | DeltaChannel):
        return entry
    new = entry.get("messages", []) if isinstance(entry, Mapping) else None
    if not isinstance(new, list):
        return entry
    whole = list(_whole(kept, {one.tool_call_id for one in new if isinstance(one, ToolMessage)}))
    if len(whole) == len(kept):
        return entry
    if whole[: len(kept)] == list(kept):
        return {**entry, "messages": [*whole[len(kept) :], *new]}
    # In the middle of the list, where no reducer puts anything.
    for message in new:
        if isinstance(message, BaseMessage) and not message.id:
            message.id = str(uuid4())
    # What the entry removes is not in `kept` any more.
    return {**entry, "messages": Overwrite([*whole, *(one for one in new if not isinstance(one, RemoveMessage))])}


def has_orphans(messages: Sequence[BaseMessage]) -> bool:
    """Whether a tool call of the conversation has no result."""
    return any(next(_answers(message, messages, number, ()), None) for number, message in enumerate(messages))


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
