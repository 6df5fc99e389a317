"""The questions that a thread's checkpoints hold: who asks them, where, and which ids were seen before."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from langgraph.types import Interrupt
from psycopg import AsyncCursor
from psycopg.rows import DictRow

from services.taken_answers import (
    INTERRUPT,
    NO_OUTPUT,
    PASSED,
    PAUSE,
    PULL_PATH,
    QUESTION_IDS,
    RESUME,
    earlier_questions,
    questions_of,
)
from services.thread_saver import NO_TASK, ThreadSaver

_INTERRUPTS = """
    SELECT channel, checkpoint_id, checkpoint_ns, task_id, task_path, type, blob,
        ARRAY(SELECT jsonb_object_keys((SELECT checkpoint -> 'versions_seen' FROM checkpoints c
            WHERE c.thread_id = w.thread_id AND c.checkpoint_ns = w.checkpoint_ns
            ORDER BY checkpoint_id DESC LIMIT 1))) AS nodes
    FROM checkpoint_writes w WHERE thread_id = %s AND channel = ANY(%s)
"""
_QUESTIONS = """
    SELECT checkpoint_ns, task_id, task_path, type, blob,
        checkpoint_id = (SELECT max(checkpoint_id) FROM checkpoints c
            WHERE c.thread_id = w.thread_id AND c.checkpoint_ns = w.checkpoint_ns) AS is_newest,
        EXISTS (SELECT 1 FROM checkpoint_writes o
            WHERE o.thread_id = w.thread_id AND o.checkpoint_ns = w.checkpoint_ns
                AND o.checkpoint_id = w.checkpoint_id AND o.task_id = w.task_id AND o.channel <> ALL(%s)) AS has_ended
    FROM checkpoint_writes w WHERE thread_id = %s AND channel = %s
"""


_FORGET = """
    DELETE FROM checkpoint_writes WHERE thread_id = %(thread)s AND channel = %(ids)s AND checkpoint_id < (
        SELECT checkpoint_id FROM checkpoint_writes WHERE thread_id = %(thread)s AND channel = %(ids)s
        ORDER BY checkpoint_id DESC OFFSET %(most)s LIMIT 1)
"""
MOST_IDS = 500
"""How many questions and pauses of a thread are known once they have passed."""


@dataclass(frozen=True, slots=True)
class QuestionPlace:
    """Where a question is kept: the namespace of a graph, and a task of it that asks it, or that repeats it."""

    namespace: str
    task_id: str
    task_path: str
    is_pending: bool
    """Whether that task has not ended, in the newest step of its graph."""

    @property
    def graphs_around(self) -> int:
        """A number tells the graphs apart that one task runs: it counts for none."""
        return sum(bool(part) and not part.isdigit() for part in self.namespace.split("|"))


async def question_places(
    saver: ThreadSaver, cursor: AsyncCursor[DictRow], thread_id: str, *, with_outputs: bool = True
) -> dict[str, list[QuestionPlace]]:
    """Where each question is kept, by its id. Without outputs, no task of an open step counts as ended."""
    await cursor.execute(_QUESTIONS, (list(NO_OUTPUT), thread_id, INTERRUPT), binary=True)
    found: dict[str, list[QuestionPlace]] = {}
    for row in await cursor.fetchall():
        is_pending = row["is_newest"] and not (row["has_ended"] and with_outputs)
        place = QuestionPlace(row["checkpoint_ns"], row["task_id"], row["task_path"], is_pending)
        for one in question_ids(saver, row):
            found.setdefault(one, []).append(place)
    return found


def innermost_graph(places: Iterable[QuestionPlace]) -> QuestionPlace | None:
    """Where the graph that asks keeps the question: the graphs around it repeat it.

    It is found by namespace, whichever graph it was: one task may run several, and LangGraph knows one of them at most.
    """
    return max(places, key=lambda one: (one.graphs_around, one.is_pending), default=None)


def asker(places: Iterable[QuestionPlace]) -> QuestionPlace | None:
    """The task that asks the question itself. Those that have called it repeat it, and their paths are shorter."""
    return max(places, key=lambda one: (one.graphs_around, len(one.task_path)), default=None)


async def interrupt_ids(saver: ThreadSaver, thread_id: str) -> set[str]:
    """The ids of the thread's questions and pauses, also of those answered since."""
    async with saver._cursor() as cursor:  # noqa: SLF001 - the saver's own rows
        await cursor.execute(_INTERRUPTS, (thread_id, [INTERRUPT, PAUSE, PASSED, QUESTION_IDS, RESUME]), binary=True)
        rows = await cursor.fetchall()
    kept = [row for row in rows if row["channel"] == QUESTION_IDS]
    ids = {one for row in kept for one in saver.serde.loads_typed((row["type"], row["blob"]))}
    ids |= {row["checkpoint_id"] for row in rows if row["task_id"] == NO_TASK and row["channel"] in {PAUSE, PASSED}}
    for row in (each for each in rows if each["task_id"] != NO_TASK and each["channel"] != QUESTION_IDS):
        path = row["task_path"]
        names = [path.removeprefix(PULL_PATH)] if path.startswith(PULL_PATH) else row["nodes"]
        around = f"{row['checkpoint_ns']}|" if row["checkpoint_ns"] else ""
        places = [f"{around}{name}:{row['task_id']}" for name in names]
        if row["channel"] == RESUME:
            # A graph that the task ran may have asked since, in the place of its own question.
            answers = saver.serde.loads_typed((row["type"], row["blob"]))
            count = len(answers) if isinstance(answers, list) else 1
            ids |= {one for place in places for one in questions_of(place, count)}
            continue
        questions = question_ids(saver, row)
        # A task's next question takes the place of the one before.
        ids.update(questions, *(earlier_questions(one, place) or () for one in questions for place in places))
    return ids


async def forget_old_ids(saver: ThreadSaver, thread_id: str) -> None:
    async with saver._cursor() as cursor:  # noqa: SLF001 - as above
        await cursor.execute(_FORGET, {"thread": thread_id, "ids": QUESTION_IDS, "most": MOST_IDS})


def question_ids(saver: ThreadSaver, row: Mapping[str, Any]) -> list[str]:
    """The ids of what a task has asked at once, as it is stored: `type` and `blob`."""
    interrupts = saver.serde.loads_typed((row["type"], row["blob"]))
    return [one.id for one in interrupts if isinstance(one, Interrupt)]
