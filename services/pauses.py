"""Pauses of threads: where breakpoints stopped a run, kept with the thread, and the answers that were taken before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langgraph.checkpoint.base import WRITES_IDX_MAP
from langgraph.checkpoint.base.id import uuid6
from psycopg.rows import DictRow

from services.checkpoint_writer import REPLACE_WRITES, WriteRow
from services.graph_stops import GraphStop
from services.questions import asker, question_ids, question_places
from services.taken_answers import INTERRUPT, NO_OUTPUT, PASSED, PAUSE, QUESTION_IDS, QUESTION_TIME, RESUME, TAKEN
from services.thread_saver import NO_TASK, QUESTION_IDS_INDEX, TAKEN_INDEX, ThreadSaver, place_of_ids

_STORED = """
    SELECT checkpoint_ns, checkpoint_id, (
        SELECT array_agg(array[w.task_id::bytea, convert_to(w.task_path, 'UTF8'), w.channel::bytea, w.type::bytea,
            CASE WHEN w.channel = %(interrupt)s THEN w.blob END]) FROM checkpoint_writes w
        WHERE w.thread_id = checkpoints.thread_id AND w.checkpoint_ns = checkpoints.checkpoint_ns
            AND w.checkpoint_id = checkpoints.checkpoint_id) AS writes
    FROM checkpoints
    WHERE thread_id = %(thread)s
        AND checkpoint_id >= (SELECT max(c.checkpoint_id) FROM checkpoints c
            WHERE c.thread_id = %(thread)s AND c.checkpoint_ns = '')
        AND checkpoint_id = (SELECT max(c.checkpoint_id) FROM checkpoints c
            WHERE c.thread_id = checkpoints.thread_id AND c.checkpoint_ns = checkpoints.checkpoint_ns)
"""
_PAUSES = r"""
    SELECT checkpoint_ns, checkpoint_id, type, blob FROM checkpoint_writes w
    WHERE thread_id = %s AND checkpoint_id >= %s AND channel = %s
        AND checkpoint_id = (SELECT max(checkpoint_id) FROM checkpoints c
            WHERE c.thread_id = w.thread_id AND c.checkpoint_ns = w.checkpoint_ns)
        AND NOT EXISTS (SELECT FROM checkpoint_writes o WHERE o.thread_id = w.thread_id
            AND o.task_id = substring(w.checkpoint_ns FROM ':([^:|]+)(?:\|[0-9]+)?$') AND o.channel <> ALL(%s))
    ORDER BY checkpoint_id DESC
"""
_PASSED_PAUSES = """
    UPDATE checkpoint_writes SET channel = %s WHERE thread_id = %s AND channel = %s
        AND (checkpoint_ns, checkpoint_id) NOT IN (SELECT * FROM unnest(%s::text[], %s::text[]))
"""
_PASSED_QUESTIONS = """
    UPDATE checkpoint_writes SET channel = %s WHERE thread_id = %s AND channel = %s
        AND (checkpoint_ns, checkpoint_id, task_id) IN (SELECT * FROM unnest(%s::text[], %s::text[], %s::text[]))
"""
_LATER = "UPDATE checkpoint_writes SET blob = convert_to(%s, 'UTF8') WHERE thread_id = %s AND channel = %s"


@dataclass(frozen=True, slots=True)
class Pause:
    """A graph that stopped: its namespace, the checkpoint that it stopped at, which names the pause."""

    namespace: str
    checkpoint_id: str
    next: tuple[str, ...] = ()
    """The nodes that come next, where these are known."""


@dataclass(frozen=True, slots=True)
class OpenTask:
    """A task of a step that has not ended, with the channels of what is stored with it."""

    namespace: str
    checkpoint_id: str
    task_id: str
    path: str
    channels: frozenset[str]
    questions: frozenset[str] = frozenset()
    """The ids of the questions that are stored with it: it waits for their answers, or went on with these."""
    is_waiting: bool = False
    """Whether its run was not given the answers to all of them."""

    @property
    def has_ended(self) -> bool:
        return not self.channels <= NO_OUTPUT

    @property
    def has_gone_past(self) -> bool:
        """Whether it went on with the answers, and has come neither to its end nor to another question."""
        return bool(self.questions) and not self.is_waiting and not self.has_ended


async def note_stop(saver: ThreadSaver, thread_id: str, answers: Mapping[str, Any], stops: Sequence[GraphStop]) -> None:
    """Keep where a run was stopped to be gone on with, and the answers that were taken before.

    `answers` are those that the run was given, by the ids of their questions; `stops` are the graphs that have stopped.
    """
    saver.let_go(thread_id)
    await saver.settle_writes()
    async with saver._cursor() as cursor:  # noqa: SLF001 - the saver's own rows
        await cursor.execute(_STORED, {"thread": thread_id, "interrupt": INTERRUPT}, binary=True)
        stored = await cursor.fetchall()
        if any(row["checkpoint_ns"] for row in stored):
            # What ran beside a question, in the same run, was led to by no answer to it.
            await cursor.execute(_LATER, (str(uuid6()), thread_id, QUESTION_TIME))
    tasks = [task for row in stored for task in _open_tasks(saver, row, answers)]
    pauses = _pauses(stops, {row["checkpoint_ns"]: row["checkpoint_id"] for row in stored})
    if not pauses and not any(task.is_waiting for task in tasks):
        # Of a graph that keeps its state elsewhere, say.
        pauses = [Pause("", row["checkpoint_id"]) for row in stored if not row["checkpoint_ns"]]
    passed, writes = await _passed(saver, thread_id, tasks, answers)
    for one in pauses:
        at = (thread_id, one.namespace, one.checkpoint_id, NO_TASK, "")
        writes.append((*at, 0, PAUSE, *saver.serde.dumps_typed(one.next)))
        at = (thread_id, *place_of_ids(one.checkpoint_id), NO_TASK, "")
        writes.append((*at, QUESTION_IDS_INDEX, QUESTION_IDS, *saver.serde.dumps_typed([one.checkpoint_id])))
    if writes or any(PAUSE in task.channels for task in tasks):
        await _store(saver, thread_id, pauses, passed, writes)


def _pauses(stops: Sequence[GraphStop], newest: Mapping[str, str]) -> list[Pause]:
    """The graphs that stopped by themselves, where the thread keeps them; `newest` are its checkpoints by namespace."""
    kept = [one for one in stops if newest.get(one.namespace) == one.checkpoint_id]
    found = {
        one.namespace: Pause(one.namespace, one.checkpoint_id, one.next or (_node_around(one, kept),))
        for one in kept
        if one.is_breakpoint and (one.next or not one.is_outermost)
    }
    return list(found.values())


def _node_around(stop: GraphStop, stops: Sequence[GraphStop]) -> str:
    """The node that runs a graph which stopped after its last node. Its name is in the graph's namespace."""
    around = [one.namespace for one in stops if one.namespace and _is_around(one.namespace, stop.namespace)]
    within = stop.namespace.removeprefix(f"{max(around, key=len)}|") if around else stop.namespace
    return within.partition("|")[0].partition(":")[0]


def _is_around(outer: str, inner: str) -> bool:
    """A number at the end tells the graphs apart that one task runs: such a graph is beside the first, not in it."""
    rest = inner.removeprefix(f"{outer}|")
    return rest != inner and not rest.partition("|")[0].isdigit()


def _open_tasks(saver: ThreadSaver, row: DictRow, answers: Mapping[str, Any]) -> list[OpenTask]:
    channels: dict[tuple[str, str], set[str]] = {}
    questions: dict[str, frozenset[str]] = {}
    for task_id, path, channel, kind, blob in row["writes"] or ():
        channels.setdefault((task_id.decode(), path.decode()), set()).add(channel.decode())
        if blob is not None:
            questions[task_id.decode()] = frozenset(question_ids(saver, {"type": kind.decode(), "blob": blob}))
    tasks: list[OpenTask] = []
    for (task_id, path), found in channels.items():
        its_questions = questions.get(task_id, frozenset())
        is_waiting = not its_questions <= answers.keys()
        at = (row["checkpoint_ns"], row["checkpoint_id"], task_id, path)
        tasks.append(OpenTask(*at, frozenset(found), its_questions, is_waiting))
    return tasks


async def _passed(
    saver: ThreadSaver, thread_id: str, tasks: Sequence[OpenTask], answers: Mapping[str, Any]
) -> tuple[list[OpenTask], list[WriteRow]]:
    """The tasks that have gone past their questions, and what is to be stored with them: the answers that they took."""
    passed = [task for task in tasks if task.has_gone_past]
    if not passed:
        return [], []
    async with saver._cursor() as cursor:  # noqa: SLF001 - as above
        places = await question_places(saver, cursor, thread_id)
    writes: list[WriteRow] = []
    for task in passed:
        at = (thread_id, task.namespace, task.checkpoint_id, task.task_id, task.path)
        writes.append((*at, TAKEN_INDEX, TAKEN, "null", b""))
        own = [one for one in task.questions if (place := asker(places[one])) and place.task_id == task.task_id]
        if own:
            given = [*await _taken(saver, thread_id, task), *(answers[one] for one in own)]
            writes.append((*at, WRITES_IDX_MAP[RESUME], RESUME, *saver.serde.dumps_typed(given)))
    return passed, writes


async def _taken(saver: ThreadSaver, thread_id: str, task: OpenTask) -> list[Any]:
    """The answers that the task has taken before."""
    loaded = await saver.aget_tuple({"configurable": {"thread_id": thread_id, "checkpoint_ns": task.namespace}})
    for task_id, channel, value in loaded.pending_writes or () if loaded is not None else ():
        if (task_id, channel) == (task.task_id, RESUME):
            return value if isinstance(value, list) else [value]
    return []


async def _store(
    saver: ThreadSaver,
    thread_id: str,
    pauses: Sequence[Pause],
    passed: Sequence[OpenTask],
    writes: Sequence[WriteRow],
) -> None:
    """Store the writes; the tasks' questions are over, and all pauses but these."""
    places = [(one.namespace, one.checkpoint_id) for one in pauses]
    tasks = [(one.namespace, one.checkpoint_id, one.task_id) for one in passed]
    async with saver._cursor() as cursor, cursor.connection.transaction():  # noqa: SLF001 - as above
        await cursor.execute(_PASSED_PAUSES, (PASSED, thread_id, PAUSE, *_columns(places, 2)))
        await cursor.execute(_PASSED_QUESTIONS, (PASSED, thread_id, INTERRUPT, *_columns(tasks, 3)))
        if writes:
            await cursor.execute(REPLACE_WRITES, _columns(writes, 9))


def _columns(rows: Sequence[tuple[Any, ...]], count: int) -> list[list[Any]]:
    return [[row[place] for row in rows] for place in range(count)]


async def read_pauses(saver: ThreadSaver, thread_id: str, checkpoint_id: str) -> list[Pause]:
    """Where the run of the thread's newest checkpoint was stopped and has not gone on since, the newest first."""
    async with saver._cursor() as cursor:  # noqa: SLF001 - as above
        await cursor.execute(_PAUSES, (thread_id, checkpoint_id, PAUSE, list(NO_OUTPUT)), binary=True)
        rows = await cursor.fetchall()
    return [
        Pause(row["checkpoint_ns"], row["checkpoint_id"], tuple(nodes or ()))
        for row in rows
        for nodes in [saver.serde.loads_typed((row["type"], row["blob"]))]
    ]
