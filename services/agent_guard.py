"""Tasks and threads that agents' code runs in: what would end or hold up the whole server ends or waits alone."""

import asyncio
from collections.abc import Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import Any

from services.run_context import current_run

NODE_THREADS = 64
"""How many nodes that are plain functions may be at work at once: each holds a thread while it waits for its model.
asyncio's own number is four more than there are cores."""


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


def make_ready_for_agents(loop: asyncio.AbstractEventLoop) -> None:
    """Have the server's loop guard the tasks of runs, and give it threads enough for their nodes."""
    loop.set_task_factory(guard_runs)
    loop.set_default_executor(ThreadPoolExecutor(NODE_THREADS, thread_name_prefix="node"))


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
