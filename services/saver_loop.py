"""Has a saver's work done on the event loop that the database's connections belong to, whichever loop a graph runs on.

A node that is a plain function runs in a thread, and a graph that it starts there (`asyncio.run(graph.ainvoke(...))`)
has a loop of its own. Connections, and the semaphore before them, serve one loop.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg.rows import DictRow

from core.database import Database
from services.run_context import await_on, is_on_loop, wait_in_thread

Saver = TypeVar("Saver", bound="LoopBoundSaver")
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def on_its_loop(
    method: Callable[Concatenate[Saver, Arguments], Coroutine[Any, Any, Result]],
) -> Callable[Concatenate[Saver, Arguments], Coroutine[Any, Any, Result]]:
    """The method of a saver, which may be awaited on any loop."""

    @functools.wraps(method)
    async def awaited(self: Saver, /, *args: Arguments.args, **options: Arguments.kwargs) -> Result:
        if self.is_at_home():
            return await method(self, *args, **options)

        async def work() -> Result:
            return await method(self, *args, **options)

        return await await_on(self.loop, work)

    return awaited


class LoopBoundSaver(AsyncPostgresSaver):
    """LangGraph's own, for graphs on any loop and in any thread. Copies share the database, and with it the loop."""

    _database: Database

    @property
    def loop(self) -> asyncio.AbstractEventLoop:  # type: ignore[override]  # The stock one remembers where it was made.
        return self._database.loop or asyncio.get_running_loop()

    def is_at_home(self) -> bool:
        """Whether this code runs where the connections are."""
        home = self._database.loop
        return home is None or is_on_loop(home)

    aget_tuple = on_its_loop(AsyncPostgresSaver.aget_tuple)
    aput = on_its_loop(AsyncPostgresSaver.aput)
    aput_writes = on_its_loop(AsyncPostgresSaver.aput_writes)
    adelete_thread = on_its_loop(AsyncPostgresSaver.adelete_thread)
    aprune = on_its_loop(AsyncPostgresSaver.aprune)
    aget_delta_channel_history = on_its_loop(AsyncPostgresSaver.aget_delta_channel_history)

    async def alist(self, config: RunnableConfig | None, **options: Any) -> AsyncIterator[CheckpointTuple]:
        """As the stock one; from another loop it is read whole."""
        if self.is_at_home():
            async for one in super().alist(config, **options):
                yield one
            return
        for one in await self._listed(config, **options):
            yield one

    @on_its_loop
    async def _listed(self, /, config: RunnableConfig | None, **options: Any) -> Sequence[CheckpointTuple]:
        return [one async for one in self.alist(config, **options)]

    # What graphs call that run in a thread without a loop. As the stock ones, until the run ends that the thread works
    # for: the thread cannot be stopped, and the conversation may be another run's by then.

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return wait_in_thread(self.loop, lambda: self.aget_tuple(config))

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        return wait_in_thread(self.loop, lambda: self.aput(config, checkpoint, metadata, new_versions))

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        wait_in_thread(self.loop, lambda: self.aput_writes(config, writes, task_id, task_path))

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        return wait_in_thread(self.loop, lambda: self.aget_delta_channel_history(config=config, channels=channels))

    async def _load_checkpoint_tuple(self, value: DictRow) -> CheckpointTuple:
        """As the stock one, which reads a task's writes in a thread of the loop's pool.

        The nodes that wait for this may hold all threads of the pool: none would come free.
        """
        place = {"thread_id": value["thread_id"], "checkpoint_ns": value["checkpoint_ns"]}
        parent_id = value["parent_checkpoint_id"]
        stored: Any = value["checkpoint"]
        values = {**(stored.get("channel_values") or {}), **self._load_blobs(value["channel_values"])}
        return CheckpointTuple(
            {"configurable": {**place, "checkpoint_id": value["checkpoint_id"]}},
            stored | {"channel_values": values},
            value["metadata"],
            {"configurable": {**place, "checkpoint_id": parent_id}} if parent_id else None,
            self._load_writes(value["pending_writes"]),
        )
