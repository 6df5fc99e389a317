"""Where graphs stop a run, to be answered or at a breakpoint: LangGraph says so of the outermost one alone."""

from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any

from langgraph.errors import GraphInterrupt
from langgraph.pregel._loop import PregelLoop

from services.taken_answers import RESUME

_BREAKPOINTS = ("interrupt_before", "interrupt_after")


@dataclass(frozen=True, slots=True)
class GraphStop:
    """A graph that stopped: its namespace, and the checkpoint that it goes on from."""

    namespace: str
    checkpoint_id: str
    next: tuple[str, ...]
    """The nodes that have not ended, or begin next; none where the graph has stopped after its last."""
    is_breakpoint: bool
    """Whether it stopped by itself, and not for one of its nodes."""
    is_outermost: bool


_stops: ContextVar[list[GraphStop] | None] = ContextVar("stops", default=None)


def watch_stops() -> list[GraphStop]:
    """The list to which each graph is added that stops from now on in this task, and in what it starts."""
    stops: list[GraphStop] = []
    _stops.set(stops)
    return stops


def note_stops_of_all_graphs() -> None:
    """From now on each graph of this process, whoever runs it, is noted where it stops."""
    leave: Any = PregelLoop._suppress_interrupt  # noqa: SLF001 - there is no public place that nested graphs pass
    if hasattr(leave, "notes_stops"):
        return

    @wraps(leave)
    def leave_noting(self: PregelLoop, kind: Any, error: Any, traceback: Any) -> Any:
        stops = _stops.get()
        if stops is not None and isinstance(error, GraphInterrupt):
            stops.append(_stop_of(self))
        return leave(self, kind, error, traceback)

    leave_noting.notes_stops = True  # type: ignore[attr-defined]  # So that it is done once.
    PregelLoop._suppress_interrupt = leave_noting  # type: ignore[method-assign, assignment]  # noqa: SLF001 - as above


def _stop_of(loop: PregelLoop) -> GraphStop:
    open_tasks = [
        task.name
        for task in getattr(loop, "tasks", {}).values()
        if not task.name.startswith("__") and all(channel == RESUME for channel, _ in task.writes)
    ]
    return GraphStop(
        loop.checkpoint_config["configurable"].get("checkpoint_ns", ""),
        loop.checkpoint["id"],
        tuple(dict.fromkeys(open_tasks)),
        loop.status in _BREAKPOINTS,
        not loop.is_nested,
    )
