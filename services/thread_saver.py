"""Where the state of threads lives: LangGraph's PostgreSQL checkpointer, reading by itself, writing together."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import orjson
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.postgres.base import BasePostgresSaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph.state import CompiledStateGraph
from psycopg import Capabilities

from core.database import Database
from domain.documents import Passage
from services.checkpoint_writer import CheckpointWriter

ALLOWED_TYPES: tuple[type, ...] = (Passage,)
"""Our own types in graphs' states. What else may be read back is what a graph declares in its state."""

# PostgreSQL has no NUL in text. After an odd number of backslashes, `u0000` is that character; else it is plain text.
_ESCAPED_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


class ThreadSaver(AsyncPostgresSaver):
    """The stock checkpointer's tables and reading; its writes share transactions over all threads.

    It is made before the event loop runs, and reads on several connections at once: the stock one lets one statement
    through at a time.
    """

    def __init__(self, database: Database, *, at_once: int) -> None:
        # Past AsyncPostgresSaver's own, which asks for a running loop.
        BasePostgresSaver.__init__(self, serde=JsonPlusSerializer(allowed_msgpack_modules=ALLOWED_TYPES))
        self.conn = database.quick_pool
        self.pipe = None
        self.lock = asyncio.Semaphore(at_once)  # type: ignore[assignment]  # Used by `async with` alone.
        self.supports_pipeline = Capabilities().has_pipeline()
        self._writer = CheckpointWriter(database)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a step's state: numbers and short texts in the checkpoint itself, the rest once a version."""
        place = config["configurable"]
        thread_id, namespace = place["thread_id"], place["checkpoint_ns"]
        inline: dict[str, Any] = {}
        apart: dict[str, Any] = {}
        for name, value in checkpoint["channel_values"].items():
            is_plain = value is None or isinstance(value, str | int | float | bool)
            (inline if is_plain else apart)[name] = value
        versions = {name: version for name, version in new_versions.items() if name in apart}
        await self._writer.write(
            blobs=self._dump_blobs(thread_id, namespace, apart, versions),
            checkpoint=(
                thread_id,
                namespace,
                checkpoint["id"],
                place.get("checkpoint_id"),
                _json({**checkpoint, "channel_values": inline}),
                _json(get_serializable_checkpoint_metadata(config, metadata)),
            ),
        )
        next_place = {"thread_id": thread_id, "checkpoint_ns": namespace, "checkpoint_id": checkpoint["id"]}
        return {"configurable": next_place}

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store what a node gave before its step has ended: after a crash it need not run again."""
        place = config["configurable"]
        await self._writer.write(
            writes=self._dump_writes(
                place["thread_id"], place["checkpoint_ns"], place["checkpoint_id"], task_id, task_path, writes
            ),
            replaces=all(channel in WRITES_IDX_MAP for channel, _ in writes),
        )


def with_memory(graph: CompiledStateGraph[Any], saver: BaseCheckpointSaver[Any]) -> CompiledStateGraph[Any]:
    """The same graph, keeping its state under a thread's id.

    A checkpoint names Python types by their module: only those that the graph's state declares are made again.
    """
    # LangGraph collects them itself under LANGGRAPH_STRICT_MSGPACK alone, and by this function.
    from langgraph._internal._serde import build_serde_allowlist

    builder = graph.builder
    declared = build_serde_allowlist(schemas=list(builder.schemas), channels=builder.channels)
    durable: CompiledStateGraph[Any] = graph.copy(update={"checkpointer": saver.with_allowlist(declared)})
    return durable


def _json(value: object) -> str:
    text = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
    return _ESCAPED_NUL.sub(r"\1", text) if "\\u0000" in text else text
