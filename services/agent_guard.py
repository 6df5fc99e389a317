"""Tasks that agents' code runs in: what would end the whole server ends the run alone."""

import asyncio
from collections.abc import Coroutine, Generator
from contextvars import Context
from typing import Any

from services.run_context import current_run


class AgentExited(Exception):
    """An agent's code tried to end the process: by `sys.exit()`, or as argparse does with odd arguments."""


class _Guarded(Coroutine[Any, Any, Any]):
    """A coroutine as it is, but for exceptions that asyncio hands to the event loop, and with it to the process."""

    __slots__ = ("_coroutine",)

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine

    def send(self, value: Any) -> Any:
        try:
            return self._coroutine.send(value)
        except (SystemExit, KeyboardInterrupt) as error:
            raise _exited(error) from error

    def throw(self, *raised: Any) -> Any:
        try:
            return self._coroutine.throw(*raised)
        except (SystemExit, KeyboardInterrupt) as error:
            raise _exited(error) from error

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()


def guard_runs(
    loop: asyncio.AbstractEventLoop, coroutine: Any, *, context: Context | None = None, **options: Any
) -> "asyncio.Task[Any]":
    """A task factory for the server's loop: tasks that belong to an agent's run are guarded, all others are as ever."""
    run = current_run.get() if context is None else context.get(current_run)
    if run is not None and run.is_agents and asyncio.iscoroutine(coroutine):
        coroutine = _Guarded(coroutine)
    return asyncio.Task(coroutine, loop=loop, context=context, **options)


def _exited(error: BaseException) -> AgentExited:
    return AgentExited(f"an agent's code raised {type(error).__name__}({error})")
