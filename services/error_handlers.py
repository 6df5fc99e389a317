"""Nodes whose failure an error handler takes over (`add_node(error_handler=…)`): what their step waits for."""

from collections.abc import Mapping, Sequence

from langgraph.pregel._algo import _xxhash_str

from services.taken_answers import ERROR_SOURCE_NODE, INTERRUPT, NO_OUTPUT, PendingWrite

PUSH, HANDLER = "__pregel_push", "node_error_handler"
HANDLER_END = f", {HANDLER}, 0000000000"
"""How LangGraph writes the end of a handler's path: that of the node's task goes before."""

BEGIN_AGAIN = """
    DELETE FROM checkpoint_writes w
    WHERE w.thread_id = %(thread)s AND w.channel = %(source)s
        AND EXISTS (
            SELECT FROM checkpoint_writes node
            WHERE node.thread_id = w.thread_id AND node.checkpoint_ns = w.checkpoint_ns
                AND node.checkpoint_id = w.checkpoint_id AND node.task_id = w.task_id
                AND node.channel = %(interrupt)s)
        AND NOT EXISTS (
            SELECT FROM checkpoint_writes handler
            WHERE handler.thread_id = w.thread_id AND handler.checkpoint_ns = w.checkpoint_ns
                AND handler.checkpoint_id = w.checkpoint_id AND handler.task_path = w.task_path || %(end)s
                AND (handler.channel = %(interrupt)s OR handler.channel <> ALL(%(no_output)s)))
"""
"""A node whose handler failed too begins again: its question is open, and its handler would not see the answer."""
BEGINNING_AGAIN = {
    "source": ERROR_SOURCE_NODE,
    "interrupt": INTERRUPT,
    "end": HANDLER_END,
    "no_output": list(NO_OUTPUT),
}


def with_handlers(writes: Sequence[PendingWrite], paths: Mapping[str, str]) -> list[PendingWrite]:
    """The writes as a caller is to see them: what a handler asks or gives stands for what its node did.

    LangGraph shows no handler among the tasks of a step, and runs one that has ended again. `paths` are the paths of
    tasks by their id.
    """
    ids = {path: task_id for task_id, path in paths.items()}
    moved = list(writes)
    for failed in {task_id for task_id, channel, _ in writes if channel == ERROR_SOURCE_NODE}:
        handler = ids.get(f"{paths.get(failed, '')}{HANDLER_END}")
        done = [(failed, channel, value) for task, channel, value in writes if task == handler]
        if output := [write for write in done if write[1] not in NO_OUTPUT]:
            moved = [write for write in moved if write[0] not in {failed, handler}] + output
        elif question := [write for write in done if write[1] == INTERRUPT]:
            moved = [write for write in moved if write[:2] != (failed, INTERRUPT)] + question
    return moved


def namespace_of(handler: str, *, node: str, task_id: str, checkpoint_id: str, step: int) -> str:
    """What the ids of a handler's questions are made of; `node` is the same of its node's, whose task is `task_id`."""
    name = f"{node}|{handler}"
    version = bytes.fromhex(checkpoint_id.replace("-", ""))
    return f"{name}:{_xxhash_str(version, name, str(step), handler, PUSH, HANDLER, task_id)}"
