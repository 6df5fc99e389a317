"""Which results of the tasks that a node has called (LangGraph's `@task`) outlive a run of the node that fails.

LangGraph gives a stored result back to the node whatever the node is answered. A result is therefore provisional until
its node has stored a question in the same run; the next run drops what is provisional still, for it may come from an
answer that was dropped.
"""

from collections.abc import Iterable

from langgraph.checkpoint.base.id import uuid6

from services.error_handlers import HANDLER_END
from services.taken_answers import INTERRUPT, NO_OUTPUT, PROVISIONAL, QUESTION_TIME, RESUME, TAKEN, WAITING

PUSH_PATH, PATH_SEPARATOR = "~__pregel_push, ", ", "
CALL_END = ", 0000000001"
"""How LangGraph writes the end of a called task's path: that of the caller, its number, `True`."""
PROVISIONAL_INDEX, WAITING_INDEX, QUESTION_TIME_INDEX = -101, -102, -103
"""Where no write of LangGraph's is."""

SETTLE_CALLS = """
    DELETE FROM checkpoint_writes w WHERE w.thread_id = %(thread)s AND (
        w.channel = ANY(%(marks)s)
        OR EXISTS (
            SELECT FROM checkpoint_writes called
            WHERE called.thread_id = w.thread_id AND called.checkpoint_ns = w.checkpoint_ns
                AND called.checkpoint_id = w.checkpoint_id AND called.task_id = w.task_id
                AND called.channel = %(provisional)s
                AND (SELECT bool_or(node.channel = %(interrupt)s) AND NOT bool_or(node.channel = %(waiting)s)
                    FROM checkpoint_writes node
                    WHERE node.thread_id = w.thread_id AND node.checkpoint_ns = w.checkpoint_ns
                        AND node.checkpoint_id = w.checkpoint_id
                        AND node.task_path IN (
                            convert_from(called.blob, 'UTF8'), convert_from(called.blob, 'UTF8') || %(handler)s))
        ) AND (w.channel <> ALL(%(no_output)s) OR (w.channel = %(resume)s AND NOT EXISTS (
            SELECT FROM checkpoint_writes earlier
            WHERE earlier.thread_id = w.thread_id AND earlier.checkpoint_ns = w.checkpoint_ns
                AND earlier.checkpoint_id = w.checkpoint_id AND earlier.task_id = w.task_id
                AND earlier.channel = %(taken)s)))
    )
"""
"""Drops the provisional results of nodes that had a question open all along, with the answers that led to them.

The others hold from then on: no run that fails later takes them back.
"""
SETTLING = {
    "marks": [PROVISIONAL, WAITING],
    "provisional": PROVISIONAL,
    "waiting": WAITING,
    "interrupt": INTERRUPT,
    "handler": HANDLER_END,
    "resume": RESUME,
    "taken": TAKEN,
    "no_output": list(NO_OUTPUT),
}


def node_of_call(path: str) -> str | None:
    """The path of the node's task that has called the one of this path, through others too; `None` for no call.

    What its error handler calls is the node's, too.
    """
    node = path
    while node.startswith(PUSH_PATH) and node.endswith(CALL_END):
        node = node.removeprefix(PUSH_PATH).removesuffix(CALL_END).rpartition(PATH_SEPARATOR)[0]
    return node.removesuffix(HANDLER_END) if node != path else None


def marks_of(channels: Iterable[str], path: str) -> list[tuple[int, str, str, bytes]]:
    """What is stored beside a task's writes, each mark as its place, channel, type and value."""
    node = node_of_call(path)
    if node is None:
        question_time = str(uuid6()).encode()
        marks = [(WAITING_INDEX, WAITING, "null", b""), (QUESTION_TIME_INDEX, QUESTION_TIME, "bytes", question_time)]
        return marks if INTERRUPT in channels else []
    if all(channel in NO_OUTPUT for channel in channels):
        return []
    return [(PROVISIONAL_INDEX, PROVISIONAL, "bytes", node.encode())]
