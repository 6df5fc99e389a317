"""Tool calls without a result, which a run that failed or was cut off leaves behind, and which providers refuse."""

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any
from uuid import uuid4

from langchain_core.messages import AIMessage, BaseMessage, RemoveMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels import AnyValue, BinaryOperatorAggregate, DeltaChannel, LastValue
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

# What of a message's forms may stand in a list beside messages and dictionaries: a text, and a pair of role and text,
# which the database gives back as a list.
_SHORT_FORMS = (str, tuple, list)
# Channels that a reducer adds to.
_REDUCED = (BinaryOperatorAggregate, DeltaChannel)

# LangGraph's name for how a node's output is sent.
_SEND = "__pregel_send"
# And for what keeps states; absent in a run without a thread.
_SAVER = "__pregel_checkpointer"


def answer_orphans_of_all_graphs() -> None:
    """From now on, each graph that is compiled in this process answers its orphan calls: an agent's own, and those that
    its nodes and tools run, wherever they come from. Without a thread nothing changes.

    It is known by then, too, whether it stops at breakpoints.
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
            name: channel for name, channel in channels.items() if isinstance(channel, (*_REDUCED, LastValue, AnyValue))
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

    `kept` is the state before; a conversation is whatever in it is a list of messages, in any of their forms. A call
    that the input itself answers is no orphan.
    """
    for name, messages in _conversations(kept).items():
        new = [value for channel, value in writes if channel == name]
        if not isinstance(channels.get(name), _REDUCED):
            # What the input gives takes the place of what is kept.
            if not new and (whole := _with_answers(messages, ())) is not None:
                writes = [*writes, (name, whole)]
        elif any(isinstance(value, Overwrite) for value in new):
            writes = [_overwritten(write) if write[0] == name else write for write in writes]
        else:
            sent = [one for value in new for one in (value if isinstance(value, list | tuple) else [value])]
            if (whole := _with_answers(messages, sent)) is not None:
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


def _with_answers(kept: Sequence[Any], sent: Sequence[Any]) -> list[Any] | None:
    """What is kept, each call with a result, given what the input sends; `None` where nothing is missing."""
    here = _without_removed(kept, {one.id for one in sent if isinstance(one, RemoveMessage)})
    ids = {found for message in here if (found := _read(message, "id")) is not None}
    # A graph that is sent a whole history is sent results that it has: they are older calls'.
    answered = {result for one in sent if _read(one, "id") not in ids and (result := _answered_by(one))}
    # What stands for a message of the same id may have other calls, or none.
    replaced = {_read(one, "id"): one for one in sent if _is_models(one) and _read(one, "id") in ids}
    here = [replaced.get(_read(message, "id"), message) for message in here]
    whole = list(_whole(here, answered))
    return whole if len(whole) > len(here) else None


def _conversations(state: Any) -> dict[str, list[Any]]:
    """The lists of messages that a state holds, by their keys."""
    return {
        name: list(value)
        for name, value in (state.items() if isinstance(state, dict) else ())
        if issubclass(type(value), list | tuple) and _are_messages(set(map(type, value)))
    }


def _are_messages(kinds: set[type]) -> bool:
    # By the types themselves: `isinstance` runs the code of an object that has a `__class__` of its own.
    long = {kind for kind in kinds if issubclass(kind, BaseMessage | dict)}
    return bool(long) and all(issubclass(kind, _SHORT_FORMS) for kind in kinds - long)


def _without_removed(messages: Sequence[Any], removed: Collection[str | None]) -> list[Any]:
    if REMOVE_ALL_MESSAGES in removed:
        return []
    return [message for message in messages if (found := _read(message, "id")) is None or found not in removed]


def _without_removals(value: Any) -> Any:
    if isinstance(value, RemoveMessage):
        return []
    return [one for one in value if not isinstance(one, RemoveMessage)] if isinstance(value, list) else value


def _read(message: Any, key: str) -> str | None:
    """A text of a message, whether it is a dictionary or an object; `None` where it has none of the name."""
    found = message.get(key) if isinstance(message, dict) else getattr(message, key, None)
    return found if isinstance(found, str) else None


def _mapping(message: dict[str, Any], key: str) -> dict[str, Any]:
    found = message.get(key)
    return found if isinstance(found, dict) else {}


def _is_models(message: Any) -> bool:
    if isinstance(message, dict):
        return (_read(message, "role") or _read(message, "type")) in {"assistant", "ai"}
    return isinstance(message, AIMessage)


def _answered_by(message: Any) -> str | None:
    """The id of the call whose result this is."""
    return _read(message, "tool_call_id")


def _whole(messages: Sequence[Any], answered: Collection[str]) -> Iterator[Any]:
    """The messages, with an answer to each orphan behind those that the same message's calls have.

    `answered` are the ids of results that follow. Some models count their calls from 0 in each message: an id alone
    does not say whose result it is.
    """
    orphans: list[Any] = []
    for number, message in enumerate(messages):
        if _answered_by(message) is None:
            yield from orphans
            orphans = list(_answers(message, messages, number, answered))
        yield message
    yield from orphans


def _results(messages: Sequence[Any], first: int, answered: Collection[str]) -> set[str]:
    """The ids of the results before the next message of a model."""
    found: set[str] = set()
    for message in islice(messages, first, None):
        if _is_models(message):
            return found
        if result := _answered_by(message):
            found.add(result)
    return found.union(answered)


def _answers(message: Any, messages: Sequence[Any], number: int, answered: Collection[str]) -> Iterator[Any]:
    calls = list(_calls(message))
    given = _results(messages, number + 1, answered) if calls else set()
    for call in calls:
        if (call_id := _read(call, "id")) and call_id not in given:
            given.add(call_id)
            name = _read(call, "name") or _read(call.get("function"), "name") or ""
            if isinstance(message, dict):
                yield {"role": "tool", "tool_call_id": call_id, "name": name, "content": NO_RESULT}
            else:
                yield ToolMessage(NO_RESULT, tool_call_id=call_id, name=name, status="error", id=str(uuid4()))


def _calls(message: Any) -> Iterator[dict[str, Any]]:
    """The calls of a model's message, in OpenAI's form or LangChain's, which may keep them in `additional_kwargs`."""
    if not _is_models(message):
        return
    if isinstance(message, dict):
        found = message.get("tool_calls") or _mapping(message, "additional_kwargs").get("tool_calls")
        yield from (call for call in (found if isinstance(found, list) else ()) if isinstance(call, dict))
    else:
        # Those that could not be read go to the provider as well.
        yield from (dict(call) for call in (*message.tool_calls, *message.invalid_tool_calls))
