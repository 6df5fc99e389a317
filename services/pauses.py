"""Where a breakpoint stopped a run: in which of the graphs that were under way, and before which of its nodes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from langgraph.types import Send

from services.taken_answers import BRANCH, JOIN, TASKS


@dataclass(frozen=True, slots=True)
class Pause:
    """A graph that stopped: its namespace, the checkpoint that it stopped at, which names the pause."""

    namespace: str
    checkpoint_id: str
    next: tuple[str, ...] = ()
    """The nodes that come next, where these are known."""


def next_nodes(checkpoint: Mapping[str, Any]) -> tuple[str, ...]:
    """The nodes of a `StateGraph` that its checkpoint begins next, without those that LangGraph hides.

    They are read from the channels that trigger nodes, without the graph: a function or a tool may run any.
    """
    values, versions, seen = (checkpoint[name] for name in ("channel_values", "channel_versions", "versions_seen"))
    names = [one.node for one in values.get(TASKS, ()) if isinstance(one, Send)]
    for channel, value in values.items():
        name = _triggered(channel, value)
        last = seen.get(name, {}).get(channel)
        if name and (last is None or versions[channel] > last):
            names.append(name)
    return tuple(dict.fromkeys(names))


def _triggered(channel: str, value: Any) -> str:
    """The node that this channel begins, if its value is whole: the names of all nodes that it waits for."""
    if not channel.startswith((BRANCH, JOIN)):
        return ""
    if isinstance(value, list | tuple) and value and isinstance(value[-1], bool):
        # Of a deferred node, which begins when nothing else does.
        value, is_last = value
        if not is_last:
            return ""
    if channel.startswith(BRANCH):
        return channel.removeprefix(BRANCH)
    sources, _, name = channel.removeprefix(JOIN).rpartition(":")
    return name if len(value) > sources.count("+") else ""


def innermost(pauses: Iterable[Pause]) -> list[Pause]:
    """Without the graphs around others: these have not stopped by themselves."""
    found = list(pauses)
    return [one for one in found if not any(_is_around(one.namespace, other.namespace) for other in found)]


def _is_around(outer: str, inner: str) -> bool:
    """A number at the end tells the graphs apart that one task runs: such a graph is beside the first, not in it."""
    rest = inner.removeprefix(f"{outer}|")
    return rest != inner and not rest.partition("|")[0].isdigit()
