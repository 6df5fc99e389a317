"""Before a run that goes on: drops what came of answers that were dropped, and keeps the rest from then on.

A node that fails is run again with the next answer, from its beginning. What it had called with the last one must not
meet it there: results of tasks, an error handler's turn, and the states of graphs that it ran.
"""

from services.called_tasks import SETTLE_CALLS, SETTLING
from services.error_handlers import BEGIN_AGAIN, BEGINNING_AGAIN
from services.questions import innermost_graph, question_ids, question_places
from services.taken_answers import INTERRUPT, NO_OUTPUT, QUESTION_TIME
from services.thread_saver import ThreadSaver

_OPEN_QUESTIONS = """
    SELECT w.checkpoint_ns, w.task_id, w.task_path, w.type, w.blob, convert_from(mark.blob, 'UTF8') AS question_time
    FROM checkpoint_writes w
    JOIN checkpoint_writes mark USING (thread_id, checkpoint_ns, checkpoint_id, task_id)
    WHERE thread_id = %(thread)s AND w.channel = %(interrupt)s AND mark.channel = %(mark)s
        AND checkpoint_id = (SELECT max(c.checkpoint_id) FROM checkpoints c
            WHERE c.thread_id = w.thread_id AND c.checkpoint_ns = w.checkpoint_ns)
        AND NOT EXISTS (SELECT FROM checkpoint_writes o WHERE o.thread_id = w.thread_id
            AND o.checkpoint_ns = w.checkpoint_ns AND o.checkpoint_id = w.checkpoint_id AND o.task_id = w.task_id
            AND o.channel <> ALL(%(no_output)s))
"""
_DROP_STATES = tuple(
    f"DELETE FROM {table} WHERE thread_id = %s AND position(':' || %s IN checkpoint_ns) > 0 AND checkpoint_id > %s"  # noqa: S608  # nosec B608 - constants
    for table in ("checkpoint_writes", "checkpoints")
)


async def settle(saver: ThreadSaver, thread_id: str) -> None:
    """In one transaction. Raises `psycopg.Error` when the thread cannot be read."""
    saver.let_go(thread_id)
    what = {"thread": thread_id, "interrupt": INTERRUPT, "mark": QUESTION_TIME, "no_output": list(NO_OUTPUT)}
    async with saver._cursor() as cursor, cursor.connection.transaction():  # noqa: SLF001 - the saver's own rows
        await cursor.execute(SETTLE_CALLS, {"thread": thread_id, **SETTLING})
        await cursor.execute(BEGIN_AGAIN, {"thread": thread_id, **BEGINNING_AGAIN})
        await cursor.execute(_OPEN_QUESTIONS, what, binary=True)
        rows = await cursor.fetchall()
        places = await question_places(saver, cursor, thread_id) if rows else {}
        for row in rows:
            graphs = [innermost_graph(places[one]) for one in question_ids(saver, row)]
            # Of a question of a graph within, the state is what the answer goes to. One of a task that a node called
            # is the node's, too: what the node ran with the answer goes.
            if any(graph is not None and graph.namespace == row["checkpoint_ns"] for graph in graphs):
                for statement in _DROP_STATES:
                    await cursor.execute(statement, (thread_id, row["task_id"], row["question_time"]))
