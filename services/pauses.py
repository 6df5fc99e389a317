"""Where breakpoints stopped a run: in which of the graphs that were under way, and before which of their nodes.

LangGraph keeps no trace of it. A graph within was stopped if a run that did not fail has left it with nodes to begin,
and none of its nodes asks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langgraph.checkpoint.base import WRITES_IDX_MAP
from langgraph.types import Send
from psycopg.rows import DictRow

from services.checkpoint_writer import REPLACE_WRITES, WriteRow
from services.questions import asker, question_ids, question_places
from services.taken_answers import (
    BRANCH,
    ERROR,
    ERROR_SOURCE_NODE,
    INTERRUPT,
    JOIN,
    NO_OUTPUT,
    PASSED,
    PAUSE,
    RESUME,
    TAKEN,
    TASKS,
)
from services.thread_saver import NO_TASK, TAKEN_INDEX, ThreadSaver

_UNDER_WAY = """
    checkpoint_id >= (SELECT max(c.checkpoint_id) FROM checkpoints c
            WHERE c.thread_id = %(thread)s AND c.checkpoint_ns = '')
        AND checkpoint_id = (SELECT max(c.checkpoint_id) FROM checkpoints c
            WHERE c.thread_id = checkpoints.thread_id AND c.checkpoint_ns = checkpoints.checkpoint_ns)
"""
_STORED = f"""
    SELECT checkpoint_ns, checkpoint_id, (
        SELECT array_agg(array[w.task_id::bytea, convert_to(w.task_path, 'UTF8'), w.channel::bytea, w.type::bytea,
            CASE WHEN w.channel = %(interrupt)s THEN w.blob END]) FROM checkpoint_writes w
        WHERE w.thread_id = checkpoints.thread_id AND w.checkpoint_ns = checkpoints.checkpoint_ns
            AND w.checkpoint_id = checkpoints.checkpoint_id) AS writes
    FROM checkpoints WHERE thread_id = %(thread)s AND {_UNDER_WAY}
"""  # noqa: S608  # nosec B608 - constants of LangGraph's and ours
_STATES = f"{ThreadSaver.SELECT_SQL} WHERE thread_id = %(thread)s AND {_UNDER_WAY}"  # nosec B608 - as above
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
    """The ids of what it asks, or has asked before it was given answers and went on."""
    is_waiting: bool = False
    """Whether its run was not given the answers to all of them."""

    @property
    def has_ended(self) -> bool:
        return not self.channels <= NO_OUTPUT

    @property
    def has_gone_past(self) -> bool:
        """Whether it went on with the answers, and has come neither to its end nor to another question."""
        return bool(self.questions) and not self.is_waiting and not self.has_ended


async def note_stop(saver: ThreadSaver, thread_id: str, answers: Mapping[str, Any], *, is_paused: bool) -> None:
    """Keep where a run was stopped to be gone on with, and the answers that were taken before.

    `answers` are those that the run was given, by the ids of their questions. `is_paused` says that breakpoints alone
    have stopped it: the agent's own graph, if none within.
    """
    saver.let_go(thread_id)
    async with saver._cursor() as cursor:  # noqa: SLF001 - the saver's own rows
        await cursor.execute(_STORED, {"thread": thread_id, "interrupt": INTERRUPT}, binary=True)
        stored = await cursor.fetchall()
    tasks = [task for row in stored for task in _open_tasks(saver, row, answers)]
    pauses: list[Pause] = []
    passed: list[OpenTask] = []
    writes: list[WriteRow] = []
    if any(row["checkpoint_ns"] for row in stored) or any(task.has_gone_past for task in tasks):
        graphs, taken = await _states(saver, thread_id)
        pauses = paused(graphs, tasks, is_paused=is_paused)
        passed, writes = await _passed(saver, thread_id, tasks, taken, answers)
    if is_paused and not pauses:
        pauses = [Pause("", row["checkpoint_id"]) for row in stored if not row["checkpoint_ns"]]
    writes += [
        (thread_id, one.namespace, one.checkpoint_id, NO_TASK, "", 0, PAUSE, *saver.serde.dumps_typed(one.next))
        for one in pauses
    ]
    if writes or any(PAUSE in task.channels for task in tasks):
        await _store(saver, thread_id, pauses, passed, writes)


def _open_tasks(saver: ThreadSaver, row: DictRow, answers: Mapping[str, Any]) -> list[OpenTask]:
    channels: dict[tuple[str, str], set[str]] = {}
    questions: dict[str, frozenset[str]] = {}
    for task_id, path, channel, kind, blob in row["writes"] or ():
        channels.setdefault((task_id.decode(), path.decode()), set()).add(channel.decode())
        if blob is not None:
            questions[task_id.decode()] = frozenset(question_ids(saver, {"type": kind.decode(), "blob": blob}))
    return [
        OpenTask(
            row["checkpoint_ns"],
            row["checkpoint_id"],
            task_id,
            path,
            frozenset(found),
            asked,
            not asked <= answers.keys(),
        )
        for (task_id, path), found in channels.items()
        for asked in [questions.get(task_id, frozenset())]
    ]


async def _states(saver: ThreadSaver, thread_id: str) -> tuple[list[Pause], dict[str, list[Any]]]:
    """The graphs within that are under way, where they would have stopped; the answers taken by tasks, by their ids."""
    async with saver._cursor() as cursor:  # noqa: SLF001 - as above
        await cursor.execute(_STATES, {"thread": thread_id}, binary=True)
        rows = await cursor.fetchall()
    graphs: list[Pause] = []
    taken: dict[str, list[Any]] = {}
    for row in rows:
        loaded = await saver._load_checkpoint_tuple(row)  # noqa: SLF001 - as above
        if row["checkpoint_ns"]:
            graphs.append(Pause(row["checkpoint_ns"], row["checkpoint_id"], next_nodes(loaded.checkpoint)))
        for task, channel, value in loaded.pending_writes or ():
            if channel == RESUME:
                taken[task] = value if isinstance(value, list) else [value]
    return graphs, taken


async def _passed(
    saver: ThreadSaver,
    thread_id: str,
    tasks: Sequence[OpenTask],
    taken: Mapping[str, list[Any]],
    answers: Mapping[str, Any],
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
            given = [*taken.get(task.task_id, ()), *(answers[one] for one in own)]
            writes.append((*at, WRITES_IDX_MAP[RESUME], RESUME, *saver.serde.dumps_typed(given)))
    return passed, writes


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


def paused(graphs: Sequence[Pause], tasks: Sequence[OpenTask], *, is_paused: bool) -> list[Pause]:
    """Which of the graphs within that are under way were stopped by a breakpoint, each at its newest checkpoint.

    One that stopped after its last node looks as if it had ended: it is taken for stopped if nothing else explains why
    the task that runs it goes on with nothing. `is_paused` says that breakpoints alone have stopped the run.
    """
    # A graph around a newer one has not stopped by itself; one in an older one is of a step that is over.
    live = [
        one
        for one in graphs
        if not any(
            (_is_around(one.namespace, other.namespace) and other.checkpoint_id > one.checkpoint_id)
            or (_is_around(other.namespace, one.namespace) and other.checkpoint_id > one.checkpoint_id)
            for other in graphs
        )
    ]
    busy = {task.namespace for task in tasks if task.is_waiting or ERROR in task.channels}
    stopped = [one for one in live if one.next and one.namespace not in busy]
    explained = {
        task.task_id
        for task in tasks
        if task.has_ended
        or task.is_waiting
        or ERROR_SOURCE_NODE in task.channels
        or (ERROR in task.channels and not is_paused)
    }
    for one in sorted(live, key=lambda each: each.checkpoint_id, reverse=True):
        task = _task_around(one.namespace)
        _, names_task, task_id = task.rpartition("|")[2].partition(":")
        # The namespace of a graph that remembers by itself names a node, and no task.
        is_explained = task_id in explained if names_task else not is_paused
        if one.next or is_explained or any(_is_in(task, each.namespace) for each in stopped):
            continue
        stopped.append(Pause(one.namespace, one.checkpoint_id, _next_around(one, graphs)))
    return stopped


def _next_around(stopped: Pause, graphs: Iterable[Pause]) -> tuple[str, ...]:
    """The nodes that run a graph which stopped at its end; none for those of the agent's own graph."""
    around = [one for one in graphs if one.next and _is_around(one.namespace, stopped.namespace)]
    return max(around, key=lambda one: len(one.namespace)).next if around else ()


def _task_around(namespace: str) -> str:
    """The namespace up to the task that runs this graph."""
    around, _, last = namespace.rpartition("|")
    return around if last.isdigit() else namespace


def _is_in(task: str, namespace: str) -> bool:
    return namespace == task or namespace.startswith(f"{task}|")


def _is_around(outer: str, inner: str) -> bool:
    """A number at the end tells the graphs apart that one task runs: such a graph is beside the first, not in it."""
    rest = inner.removeprefix(f"{outer}|")
    return rest != inner and not rest.partition("|")[0].isdigit()


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
