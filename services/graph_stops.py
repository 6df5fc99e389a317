"""Where graphs stop a run, to be answered or at a breakpoint: LangGraph says so of the outermost one alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from langgraph.errors import GraphInterrupt
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel._loop import PregelLoop

_BREAKPOINTS = ("interrupt_before", "interrupt_after")


@dataclass(frozen=True, slots=True)
class GraphStop:
    """A graph that stopped: its namespace, and the checkpoint that it goes on from."""

    namespace: str
    checkpoint_id: str
    next: tuple[str, ...]
    """At a breakpoint the nodes that begin next; none where the graph has stopped after its last."""
    is_breakpoint: bool
    """Whether it stopped by itself, and not for one of its nodes."""
    is_outermost: bool


@dataclass(slots=True)
class GraphWatch:
    """The graphs that have stopped in a run of this one. What the run leaves behind goes on without it: `is_over`."""

    graph: CompiledStateGraph[Any]
    stops: list[GraphStop] = field(default_factory=list)
    is_over: bool = False

    @property
    def has_stopped(self) -> bool:
        """Whether the run is to be gone on with. After its last node there is nothing to go on with."""
        return any(one.is_outermost and (one.next or not one.is_breakpoint) for one in self.stops)


_watch: ContextVar[GraphWatch | None] = ContextVar("graph_watch", default=None)


@contextmanager
def watching(graph: CompiledStateGraph[Any]) -> Iterator[GraphWatch]:
    """Notes each graph that stops in this task, and in what it starts; at its end the run of this one is over."""
    watch = GraphWatch(graph)
    token = _watch.set(watch)
    try:
        yield watch
    finally:
        watch.is_over = True
        _watch.reset(token)


def check_run_is_not_over() -> None:
    """Raises `RuntimeError` in what a run has left behind: the next run must not meet what it still does."""
    watch = _watch.get()
    if watch is not None and watch.is_over:
        raise RuntimeError("the run that this graph was part of is over: it does not go on")


def note_stops_of_all_graphs() -> None:
    """From now on each graph of this process, whoever runs it, is noted where it stops."""
    leave: Any = PregelLoop._suppress_interrupt  # noqa: SLF001 - there is no public place that nested graphs pass
    if hasattr(leave, "notes_stops"):
        return

    @wraps(leave)
    def leave_noting(self: PregelLoop, kind: Any, error: Any, traceback: Any) -> Any:
        watch = _watch.get()
        if watch is not None and isinstance(error, GraphInterrupt):
            watch.stops.append(_stop_of(self, watch))
        return leave(self, kind, error, traceback)

    leave_noting.notes_stops = True  # type: ignore[attr-defined]  # So that it is done once.
    PregelLoop._suppress_interrupt = leave_noting  # type: ignore[method-assign, assignment]  # noqa: SLF001 - as above


def _stop_of(loop: PregelLoop, watch: GraphWatch) -> GraphStop:
    # A step that is interrupted in the middle may have ended some of its nodes before; LangGraph's own are hidden.
    begins = [task.name for task in getattr(loop, "tasks", {}).values() if not task.writes]
    following = tuple(dict.fromkeys(name for name in begins if not name.startswith("__")))
    is_breakpoint = loop.status in _BREAKPOINTS
    return GraphStop(
        loop.checkpoint_config["configurable"].get("checkpoint_ns", ""),
        loop.checkpoint["id"],
        following if is_breakpoint else (),
        is_breakpoint,
        # A node may run a graph that keeps its state elsewhere: it is not nested, either.
        not loop.is_nested and loop.nodes is watch.graph.nodes,
    )
