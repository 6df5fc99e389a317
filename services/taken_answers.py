"""Which of the answers that are stored with a task were taken, where a former version kept those of failed runs too."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langgraph.types import Interrupt, Send, _interrupt_id

# LangGraph's names for what a task writes besides its output, and for its tasks that were sent out.
ERROR, INTERRUPT, RESUME, TASKS = "__error__", "__interrupt__", "__resume__", "__pregel_tasks"
ERROR_SOURCE_NODE = "__error_source_node__"
BRANCH, JOIN, PULL_PATH = "branch:to:", "join:", "~__pregel_pull, "
TAKEN = "__routeur_taken__"
"""Ours, on a task whose stored answers were all taken: it asks its next question."""

PAUSE = "__routeur_pause__"
"""Ours, on a checkpoint where `interrupt_before` or `interrupt_after` stopped a run: LangGraph keeps no trace of it."""
PASSED = "__routeur_passed__"
"""Ours, in the place of a pause that was passed, or of a question whose answer was taken before one."""
QUESTION_IDS = "__routeur_question_ids__"
"""Ours, for each question of a task, and for each pause: its id, which outlives the checkpoint."""
PROVISIONAL = "__routeur_provisional__"
"""Ours, on a called task whose result was stored since its run began: its value is the path of the node's task."""
WAITING = "__routeur_waiting__"
"""Ours, on a node's task that has stored a question since its run began."""
QUESTION_TIME = "__routeur_question_time__"
"""Ours, on a node's task that has stored a question: its value is the id that a checkpoint would have had then."""
OUR_MARKS = frozenset({PAUSE, PASSED, QUESTION_IDS, PROVISIONAL, WAITING, QUESTION_TIME})
"""What LangGraph is never shown."""
NO_OUTPUT = OUR_MARKS | {ERROR, INTERRUPT, RESUME, ERROR_SOURCE_NODE, TAKEN}

MOST_QUESTIONS_OF_A_TASK = 100
"""A node that asks several times gives each question an id by its number."""

PendingWrite = tuple[str, str, Any]


def without_failed_answers(
    writes: Sequence[PendingWrite], namespace: str, checkpoint: Mapping[str, Any], paths: Mapping[str, str]
) -> list[PendingWrite]:
    """The writes without our marks, and without the answers of runs that failed: these would win over the next one.

    `paths` are the tasks' paths by their id. Of a node that asks several times the answers before its pending question
    stay, where the question's id says how many these are.
    """
    failed = {task_id for task_id, channel, _ in writes if channel == ERROR}
    failed -= {task_id for task_id, channel, _ in writes if channel == TAKEN}
    kept: list[PendingWrite] = []
    for task_id, channel, value in writes:
        if channel == TAKEN:
            continue
        if channel == RESUME and task_id in failed:
            asked = [one for task, name, found in writes if (task, name) == (task_id, INTERRUPT) for one in found]
            names = task_names(checkpoint, paths.get(task_id, ""))
            places = [f"{namespace}|{name}" if namespace else name for name in names]
            taken = _taken(value if isinstance(value, list) else [value], asked, places, task_id)
            if taken:
                kept.append((task_id, channel, taken))
        else:
            kept.append((task_id, channel, value))
    return kept


def questions_of(place: str, count: int) -> list[str]:
    """The ids of the first questions of the task at this place."""
    return [_interrupt_id(place, number) for number in range(count)]


def earlier_questions(question_id: str, place: str) -> set[str] | None:
    """The ids of a task's questions before this one; `None` when it is none of the task at this place."""
    ids = questions_of(place, MOST_QUESTIONS_OF_A_TASK)
    return set(ids[: ids.index(question_id)]) if question_id in ids else None


def without_outputs(writes: Sequence[PendingWrite]) -> list[PendingWrite]:
    """As if the tasks that have ended in an open step had not begun: what they were answered goes with their output."""
    ended = {task_id for task_id, channel, _ in writes if channel not in NO_OUTPUT}
    ended -= {task_id for task_id, channel, _ in writes if channel == TAKEN}
    return [
        (task_id, channel, value)
        for task_id, channel, value in writes
        if channel in NO_OUTPUT and not (channel == RESUME and task_id in ended)
    ]


def _taken(answers: list[Any], asked: Iterable[Any], places: Sequence[str], task_id: str) -> list[Any]:
    ids = {one.id for one in asked if isinstance(one, Interrupt)}
    for place in places:
        for number in range(len(answers) + 1):
            if _interrupt_id(f"{place}:{task_id}", number) in ids:
                return answers[:number]
    return []


def task_names(checkpoint: Mapping[str, Any], path: str) -> list[str]:
    """What the task's node may be called: its path says it, unless it was sent out."""
    if path.startswith(PULL_PATH):
        return [path.removeprefix(PULL_PATH)]
    sent = checkpoint.get("channel_values", {}).get(TASKS, ())
    names = [one.node for one in sent if isinstance(one, Send)]
    for channel in checkpoint.get("channel_versions", {}):
        if channel.startswith(BRANCH):
            names.append(channel.removeprefix(BRANCH))
        elif channel.startswith(JOIN):
            names.append(channel.rpartition(":")[2])
    return list(dict.fromkeys(names))
