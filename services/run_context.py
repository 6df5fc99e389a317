"""The run that the current task works for: its choices, its queue of events, its finished calls."""

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar

from core.json_form import as_json
from domain.documents import Passage, SearchFilter
from domain.errors import RouteurError
from domain.runs import Hop, ModelDelta, Progress, ProgressKind
from domain.usage import Call
from services.retry_wait import RetryWait

Result = TypeVar("Result")

MAX_WAITING_CHARS = 65_536
"""Text that may wait for a slow client; beyond it the provider is read no faster than the client."""


@dataclass(slots=True)
class TextBatch:
    """Pieces of text from one model that wait to be sent."""

    model: str
    pieces: list[str]


Item = TextBatch | Progress | ModelDelta


class RunQueue:
    """What a run has to say, drained whole by its door. One loop, one reader, many writers."""

    __slots__ = ("_closed", "_items", "_reader", "_room", "_waiting")

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._waiting = 0
        self._closed = False
        self._reader: asyncio.Future[None] | None = None
        """Awaited by the reader while nothing is there. A future costs less than an event."""
        self._room: asyncio.Event | None = None
        """Awaited by writers while the reader is far behind."""

    async def put_text(self, model: str, pieces: list[str]) -> None:
        """Add pieces; waits while the reader is more than `MAX_WAITING_CHARS` behind."""
        self.add_text(model, pieces)
        if self._waiting > MAX_WAITING_CHARS:
            self._room = self._room or asyncio.Event()
            await self._room.wait()

    def add_text(self, model: str, pieces: list[str]) -> None:
        """The same without waiting, for text that comes from a thread."""
        last = self._items[-1] if self._items else None
        if isinstance(last, TextBatch) and last.model == model:
            last.pieces.extend(pieces)
        else:
            self._items.append(TextBatch(model, list(pieces)))
        self._waiting += sum(map(len, pieces))
        self._wake_reader()

    def put(self, event: Progress | ModelDelta) -> None:
        """Add a rare event."""
        self._items.append(event)
        self._wake_reader()

    def close(self) -> None:
        """No more will come: the reader gets what is left, then nothing."""
        self._closed = True
        self._wake_reader()

    async def drain(self) -> list[Item]:
        """Everything that waits, at least one item; an empty list once the queue is closed and empty."""
        while not self._items and not self._closed:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        items, self._items = self._items, []
        self._waiting = 0
        if self._room is not None:
            self._room.set()
            self._room = None
        return items

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


@dataclass(slots=True)
class RunContext:
    """What the chat model reads and writes while a run goes on."""

    model: str
    requested_model: str | None = None
    """The name that the caller asked for: a model, a route, or `None` for the default chain."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    credentials: Mapping[str, Any] = field(default_factory=dict, repr=False)
    queue: RunQueue = field(default_factory=RunQueue)
    calls: list[Call] = field(default_factory=list)
    hops: list[Hop] = field(default_factory=list)
    sent: list[list[str]] = field(default_factory=list)
    """The pieces of text put into the queue so far, a list a call."""
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    threaded_calls: set[asyncio.Task[Any] | None] = field(default_factory=set)
    """Calls made for nodes that run in threads: cancelling the run's task does not reach them by itself."""
    ended: bool = False
    """No node may begin a call any more: a thread cannot be stopped, what it asks for can."""
    first_token_at: float | None = None
    """When the first piece of the answer came (`time.perf_counter`)."""
    interruption: RouteurError | None = None
    """Why the server itself ends the run; without it a cancellation is the caller's."""
    finish_reason: str | None = None
    """Why the last call whose text is part of the answer ended."""
    answering_model: str | None = None
    """The model whose text went out last: the one that the answer names."""
    subject: str = ""
    """Whose run it is."""
    project: SearchFilter | None = None
    """What the run may search: the caller's project, checked. `None`: nothing."""
    passages: list[Passage] = field(default_factory=list)
    """What the run has retrieved so far, each passage once."""
    before_next_call: Callable[[], None] = lambda: None
    """Called before each call of a model but the first."""
    is_agents: bool = True
    """An agent's code runs in it, and not a model alone."""
    is_streamed: bool = True
    """The caller reads the answer as it comes, and not as a whole at its end."""
    warnings: dict[str, None] = field(default_factory=dict)
    """What the caller is to know of its answer, each once, in order."""
    retry_wait: RetryWait | None = None
    """How long its calls may still wait between attempts; made by the first one."""
    shows_progress: bool = False
    """The caller wants typed events: nodes, tools and sources as they happen."""

    def show(self, kind: ProgressKind, content: Mapping[str, Any]) -> None:
        """Tell a caller who wants to know what is being done. The content may be anything: its JSON form goes out."""
        if not self.shows_progress:
            return
        event = Progress(kind, as_json(content))
        if is_on_loop(self.loop):
            self.queue.put(event)
        else:
            # A reader that waits for the queue is woken on its own loop alone.
            self.loop.call_soon_threadsafe(self.queue.put, event)

    async def say(self, model: str, pieces: list[str]) -> None:
        """Send pieces of the answer to whoever reads the run."""
        self._note_answer(model)
        await self.queue.put_text(model, pieces)

    def note_first_token(self) -> None:
        """The answer has begun, though what came of it may be held back until it is whole."""
        if self.first_token_at is None:
            self.first_token_at = time.perf_counter()

    def say_from_thread(self, model: str, pieces: list[str]) -> None:
        """The same for a thread, which is not held up: the loop may be waiting for it."""

        def say() -> None:
            self._note_answer(model)
            self.queue.add_text(model, pieces)

        self.loop.call_soon_threadsafe(say)

    def _note_answer(self, model: str) -> None:
        self.note_first_token()
        self.answering_model = model

    async def call_for_thread(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Do the work that a node in a thread waits for, on the loop, until the run ends."""
        if self.ended:
            raise asyncio.CancelledError
        task = asyncio.current_task()
        self.threaded_calls.add(task)
        try:
            return await work()
        finally:
            self.threaded_calls.discard(task)

    async def end_threaded_calls(self, timeout_s: float) -> None:
        """Cancel them, and wait until each has been counted."""
        self.ended = True
        if going := [task for task in self.threaded_calls if task is not None]:
            for task in going:
                task.cancel()
            await asyncio.wait(going, timeout=timeout_s)


current_run: ContextVar[RunContext | None] = ContextVar("current_run", default=None)


async def on_the_loop_of_the_run(work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Await the work where the server's connections are: a node in a thread may have a loop of its own."""
    run = current_run.get()
    return await (work() if run is None else await_on(run.loop, work))


async def await_on(loop: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Await the work on that loop, whichever runs here. Cancelled here or by the end of the run, it is there too."""
    return await (work() if is_on_loop(loop) else asyncio.wrap_future(_submitted(loop, work)))


def wait_in_thread(loop: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Have the work done on that loop, and hold up this thread meanwhile, at most until the run ends."""
    if is_on_loop(loop):
        raise RuntimeError(
            "this node is async, and a blocking call would stop the server: use `await graph.ainvoke(...)`"
        )
    return _submitted(loop, work).result()


def _submitted(loop: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[Any, Any, Result]]) -> Future[Result]:
    run = current_run.get()
    return asyncio.run_coroutine_threadsafe(work() if run is None else run.call_for_thread(work), loop)


def follow_runs_into_pools() -> None:
    """From now on, what a node in a thread gives to a `ThreadPoolExecutor` works for the node's run too.

    Python copies the context into `asyncio.to_thread`, and not into pools (threads inherit it from 3.14 on, as an
    option). On the run's own loop nothing changes: a node that waits there for a pool would wait for itself.
    """
    submit: Any = ThreadPoolExecutor.submit
    if hasattr(submit, "follows_runs"):
        return

    @functools.wraps(submit)
    def submit_within_run(self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        run = current_run.get()
        if run is None or is_on_loop(run.loop):
            return submit(self, fn, *args, **kwargs)
        return submit(self, copy_context().run, fn, *args, **kwargs)

    submit_within_run.follows_runs = True  # type: ignore[attr-defined]  # So that it is done once.
    ThreadPoolExecutor.submit = submit_within_run  # type: ignore[method-assign, assignment]  # As the docstring says.


def is_on_loop(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this code runs on that loop."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
