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


def with_orphans_answered(graph: CompiledStateGraph[Any], kept: Mapping[str, Any], entry: Any) -> Any:
    """What a graph is started with, such that every tool call of a conversation has a result behind it.

    `kept` is the state of the thread; a conversation is whatever in it is a list of messages. A call that the entry
    itself answers is no orphan. What does not stay from turn to turn has none either.
    """
    if not isinstance(entry, Mapping):
        return entry
    changed = {}
    for name, messages in conversations_of(kept).items():
        new = entry.get(name, [])
        if isinstance(new, list) and isinstance(graph.channels.get(name), BinaryOperatorAggregate | DeltaChannel):
            with_answers = _with_answers(messages, new)
            if with_answers is not new:
                changed[name] = with_answers
    return {**entry, **changed} if changed else entry


def conversations_of(state: Any) -> dict[str, list[BaseMessage]]:
    """The lists of messages that a state holds, by their keys."""
    # By the types themselves: `isinstance` runs the code of an object that has a `__class__` of its own.
    return {
        name: list(value)
        for name, value in (state.items() if isinstance(state, dict) else ())
        if issubclass(type(value), list | tuple) and value and all(issubclass(type(one), BaseMessage) for one in value)
    }


def has_orphans(messages: Sequence[BaseMessage]) -> bool:
    """Whether a tool call of the conversation has no result."""
    return any(next(_answers(message, messages, number, ()), None) for number, message in enumerate(messages))


def _with_answers(kept: list[BaseMessage], new: list[Any]) -> Any:
    """What a reducer of messages is given: the new ones, and before them the results that are missing."""
    whole = list(_whole(kept, {one.tool_call_id for one in new if isinstance(one, ToolMessage)}))
    if len(whole) == len(kept):
        return new
    if whole[: len(kept)] == kept:
        return [*whole[len(kept) :], *new]
    # In the middle of the list, where no reducer puts anything.
    for message in new:
        if isinstance(message, BaseMessage) and not message.id:
            message.id = str(uuid4())
    # What the entry removes is not in `kept` any more.
    return Overwrite([*whole, *(one for one in new if not isinstance(one, RemoveMessage))])


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
