"""Where the state of threads lives: LangGraph's PostgreSQL checkpointer, reading by itself, writing together."""

import asyncio
import copy
import math
import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import orjson
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_id,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.postgres.base import BasePostgresSaver
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Interrupt
from psycopg import Capabilities
from psycopg.rows import DictRow

from core.database import Database
from core.json_form import INT64_MIN, UINT64_MAX, as_json, text_of_object, whole_characters
from domain.documents import Passage
from services.called_tasks import marks_of
from services.checkpoint_writer import CheckpointWriter
from services.error_handlers import with_handlers
from services.graph_stops import check_run_is_not_over
from services.orphan_calls import answer_orphans
from services.saver_loop import LoopBoundSaver, on_its_loop
from services.state_serializer import StateSerializer
from services.state_types import declared_types
from services.taken_answers import (
    ERROR,
    ERROR_SOURCE_NODE,
    INTERRUPT,
    NO_OUTPUT,
    OUR_MARKS,
    QUESTION_IDS,
    RESUME,
    TAKEN,
    without_failed_answers,
    without_outputs,
)

ALLOWED_TYPES: tuple[type, ...] = (Passage,)
"""Our own types in graphs' states. What else may be read back is what a graph declares in its state."""

NO_TASK = "00000000-0000-0000-0000-000000000000"
"""LangGraph's id for what a run's input writes."""
TAKEN_INDEX, QUESTION_IDS_INDEX = -100, -200
"""Where no write of LangGraph's is. Below the second the questions of a task, each at its number."""

_DROP_OUTPUTS = """
    WITH open AS (
        SELECT * FROM checkpoint_writes w WHERE thread_id = %(thread)s AND checkpoint_id = (
            SELECT max(checkpoint_id) FROM checkpoints c
            WHERE c.thread_id = w.thread_id AND c.checkpoint_ns = w.checkpoint_ns)
    ), ended AS (
        SELECT task_id, bool_or(channel = %(taken)s) AS was_answered FROM open GROUP BY task_id
        HAVING bool_or(channel <> ALL(%(no_output)s))
    )
    DELETE FROM checkpoint_writes w USING open, ended
    WHERE w.thread_id = open.thread_id AND w.checkpoint_ns = open.checkpoint_ns
        AND w.checkpoint_id = open.checkpoint_id AND w.task_id = open.task_id AND w.idx = open.idx
        AND ended.task_id = open.task_id
        AND (open.channel <> ALL(%(no_output)s) OR (open.channel = %(resume)s AND NOT ended.was_answered))
"""
passes_over_outputs: ContextVar[bool] = ContextVar("passes_over_outputs", default=False)
"""Whether checkpoints are read without what their open step has given so far."""

# PostgreSQL has no NUL in text. After an odd number of backslashes, `u0000` is that character; else it is plain text.
_ESCAPED_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


class ThreadSaver(LoopBoundSaver):
    """The stock checkpointer's tables and reading; its writes share transactions over all threads.

    It is made before the event loop runs, and reads on several connections at once: the stock one lets one statement
    through at a time.
    """

    def __init__(self, database: Database, *, at_once: int) -> None:
        # Past AsyncPostgresSaver's own, which asks for a running loop.
        BasePostgresSaver.__init__(self, serde=StateSerializer(allowed_msgpack_modules=ALLOWED_TYPES))
        self.conn = database.quick_pool
        self.pipe = None
        self.lock = asyncio.Semaphore(at_once)  # type: ignore[assignment]  # Used by `async with` alone.
        self.supports_pipeline = Capabilities().has_pipeline()
        self._database = database
        self._writer = CheckpointWriter(database)
        # Shared by the copies that `with_allowlist` makes.
        self._kept: dict[str, DictRow | None] = {}

    def keep(self, thread_id: str) -> None:
        """From now on the thread's newest state is read once, until it is written or let go of: its run holds it."""
        self._kept[thread_id] = None

    def let_go(self, thread_id: str) -> None:
        self._kept.pop(thread_id, None)

    @on_its_loop
    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As the stock one; the look at a thread before its run and the run itself share one reading."""
        place = config["configurable"]
        thread_id = str(place["thread_id"])
        if thread_id not in self._kept or place.get("checkpoint_ns") or get_checkpoint_id(config):
            return await super().aget_tuple(config)
        row = self._kept[thread_id]
        if row is None:
            async with self._cursor() as cursor:
                await cursor.execute(_NEWEST, (thread_id,), binary=True)
                row = await cursor.fetchone()
            if row is None:
                return None
            if row["checkpoint"]["v"] < 4:
                return await super().aget_tuple(config)
            if thread_id in self._kept:
                self._kept[thread_id] = row
        # Readers change what they are given.
        return await self._load_checkpoint_tuple({**row, "checkpoint": copy.deepcopy(row["checkpoint"])})

    @on_its_loop
    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a step's state: numbers and short texts in the checkpoint itself, the rest once a version.

        Raises `RuntimeError` for a run that is over.
        """
        check_run_is_not_over()
        place = config["configurable"]
        thread_id, namespace = place["thread_id"], place["checkpoint_ns"]
        self.let_go(thread_id)
        inline: dict[str, Any] = {}
        apart: dict[str, Any] = {}
        for name, value in checkpoint["channel_values"].items():
            (inline if _is_plain(value) else apart)[name] = value
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

    @on_its_loop
    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store what a node gave before its step has ended: after a crash it need not run again.

        Raises `RuntimeError` for a run that is over.
        """
        check_run_is_not_over()
        place = config["configurable"]
        self.let_go(place["thread_id"])
        writes = _lasting(task_id, writes)
        if not writes:
            return
        at = (place["thread_id"], place["checkpoint_ns"], place["checkpoint_id"], task_id, task_path)
        rows = self._dump_writes(*at, writes)
        channels = {channel for channel, _ in writes}
        if {INTERRUPT, RESUME} <= channels:
            rows.append((*at, TAKEN_INDEX, TAKEN, "null", b""))
        if INTERRUPT in channels:
            where = (place["thread_id"], *place_of_ids(place["checkpoint_id"]), task_id, task_path)
            rows.append((*where, *self._question_ids(dict(writes))))
        rows += [(*at, *mark) for mark in marks_of(channels, task_path)]
        await self._writer.write(writes=rows, replaces=channels <= WRITES_IDX_MAP.keys())

    def _question_ids(self, writes: Mapping[str, Any]) -> tuple[int, str, str, bytes]:
        """The ids of a task's questions, kept where its next one does not overwrite them."""
        answers = writes.get(RESUME)
        ids = [one.id for one in writes[INTERRUPT]]
        count = len(answers) if isinstance(answers, list) else 0
        return (QUESTION_IDS_INDEX - count, QUESTION_IDS, *self.serde.dumps_typed(ids))

    async def settle_writes(self) -> None:
        """Returns when all that was to be stored before is."""
        await self._writer.write()

    async def drop_outputs(self, thread_id: str) -> None:
        """Make the tasks that have ended in an open step begin again: the state cannot take what they gave."""
        self.let_go(thread_id)
        async with self._cursor() as cursor:
            await cursor.execute(
                _DROP_OUTPUTS, {"thread": thread_id, "no_output": list(NO_OUTPUT), "taken": TAKEN, "resume": RESUME}
            )

    async def _load_checkpoint_tuple(self, value: DictRow) -> CheckpointTuple:
        """As the stock one, without answers of a former version that no task has taken."""
        loaded = await super()._load_checkpoint_tuple(value)
        writes = loaded.pending_writes or []
        if not writes:
            return loaded
        if passes_over_outputs.get():
            writes = without_outputs(writes)
        if any(channel in {RESUME, TAKEN, ERROR_SOURCE_NODE} for _, channel, _ in writes):
            paths = {write[0].decode(): write[4].decode() for write in value["pending_writes"]}
            writes = without_failed_answers(writes, value["checkpoint_ns"], loaded.checkpoint, paths)
            writes = with_handlers(writes, paths)
        return loaded._replace(pending_writes=writes)

    def _load_writes(self, writes: list[tuple[bytes, bytes, bytes, bytes, bytes, bytes]] | None) -> list[Any]:
        """Without our own marks, and without an answer that an older version stored and no task has taken."""
        return [
            (task_id, channel, value)
            for task_id, channel, value in super()._load_writes([w for w in writes or [] if w[1] not in _OUR_MARKS])
            if not (task_id == NO_TASK and channel == RESUME)
        ]


_NEWEST = f"{ThreadSaver.SELECT_SQL} WHERE thread_id = %s AND checkpoint_ns = '' ORDER BY checkpoint_id DESC LIMIT 1"
_OUR_MARKS = frozenset(mark.encode() for mark in OUR_MARKS)


def place_of_ids(checkpoint_id: str) -> tuple[str, str]:
    """The namespace and the checkpoint under which ids are kept: of none that is, so that none takes them along."""
    return "", f"{QUESTION_IDS}{checkpoint_id}"


def _lasting(task_id: str, writes: Sequence[tuple[str, Any]]) -> Sequence[tuple[str, Any]]:
    """What of a task's writes is to outlive its run.

    An answer becomes part of the thread with the success of the task that took it, or with its next question. LangGraph
    stores it with the error of a task that failed too, where it would win over the next answer; and the output of one
    that failed late, which would count as finished.
    """
    channels = {channel for channel, _ in writes}
    if channels.isdisjoint({ERROR, INTERRUPT}) and task_id != NO_TASK:
        return writes
    is_handled = ERROR_SOURCE_NODE in channels
    lasting: list[tuple[str, Any]] = []
    for channel, value in writes:
        if channel == ERROR:
            lasting.append((channel, repr(RuntimeError(text_of_object(value)))))
        elif channel == INTERRUPT:
            lasting.append((channel, tuple(map(in_json, value))))
        elif channel == RESUME:
            if ERROR not in channels and task_id != NO_TASK:
                lasting.append((channel, value))
        elif ERROR not in channels or is_handled:
            lasting.append((channel, value))
    return lasting


def in_json(question: Interrupt) -> Interrupt:
    """The question as it is kept and shown: a caller is to be able to read it."""
    return Interrupt(value=as_json(question.value), id=question.id)


def with_memory(graph: CompiledStateGraph[Any], saver: BaseCheckpointSaver[Any]) -> CompiledStateGraph[Any]:
    """The same graph, keeping its state under a thread's id, where each turn can go on from what a run has left.

    A checkpoint names Python types by their module: only those that the graph's state declares are made again.
    """
    answer_orphans(graph)
    saver = saver.with_allowlist(declared_types(graph))
    durable: CompiledStateGraph[Any] = graph.copy(update={"checkpointer": saver})
    return durable


def _is_plain(value: Any) -> bool:
    """Whether JSON gives it back as it is. An enum that is a string, say, would come back as that."""
    kind = type(value)
    if kind is str:
        return bool(value.isascii()) or whole_characters(value) == value
    if kind is float:
        return math.isfinite(value)
    return value is None or kind is bool or (kind is int and INT64_MIN <= value <= UINT64_MAX)


def _json(value: object) -> str:
    try:
        text = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:
        # In the run's labels, say: the state itself holds nothing here that JSON does not know.
        text = orjson.dumps(as_json(value)).decode()
    return _ESCAPED_NUL.sub(r"\1", text) if "\\u0000" in text else text
