"""What agents are handed as `store`: LangGraph's store in PostgreSQL, each principal's apart from all others'."""

import hashlib
from collections.abc import Iterable
from typing import Any

from langgraph.store.base import BaseStore, GetOp, ListNamespacesOp, MatchCondition, Op, PutOp, Result, SearchOp
from langgraph.store.postgres.aio import AsyncPostgresStore

from core.database import Database
from domain.errors import DatabaseUnavailable
from services.run_context import current_run, on_the_loop_of_the_run
from services.threads import DATABASE_FAULTS

Namespace = tuple[str, ...]


class AgentStore(BaseStore):
    """`await store.aput(("notes",), "key", {...})`: kept for the run's principal, over its threads and restarts.

    An agent need not think of whom it serves: it cannot read what it has kept for somebody else.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._inner: AsyncPostgresStore | None = None

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        raise NotImplementedError("the store is asynchronous: use `await store.aget(...)` and its like")

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Raises `DatabaseUnavailable`, and `RuntimeError` outside a run: nobody's memory is there."""
        run = current_run.get()
        if run is None:
            raise RuntimeError("the store belongs to the principal of a run, and no run goes on")
        return await on_the_loop_of_the_run(lambda: self._batch(_owner(run.subject), list(ops)))

    async def _batch(self, owner: str, ops: list[Op]) -> list[Result]:
        if self._inner is None:
            # It asks for a running loop, which the making of agents does not have.
            self._inner = AsyncPostgresStore(self._database.pool)
        try:
            results = await self._inner.abatch([_within(owner, op) for op in ops])
        except DATABASE_FAULTS as error:
            raise DatabaseUnavailable("the agent's store needs the database, and it does not answer now") from error
        return [_without(owner, result) for result in results]


def _owner(subject: str) -> str:
    """A label of a namespace: no period may stand in one, and a subject may have some."""
    return hashlib.sha256(subject.encode()).hexdigest()


def _within(owner: str, op: Op) -> Op:
    """The same operation on the owner's part of the store."""
    match op:
        case GetOp() | PutOp():
            return op._replace(namespace=(owner, *op.namespace))
        case SearchOp():
            return op._replace(namespace_prefix=(owner, *op.namespace_prefix))
        case ListNamespacesOp():
            conditions = [_condition(owner, condition) for condition in op.match_conditions or ()]
            if not any(condition.match_type == "prefix" for condition in conditions):
                conditions.append(MatchCondition("prefix", (owner,)))
            depth = None if op.max_depth is None else op.max_depth + 1
            return op._replace(match_conditions=tuple(conditions), max_depth=depth)
        case _:
            raise TypeError(f"the store does not know {type(op).__name__}")


def _condition(owner: str, condition: MatchCondition) -> MatchCondition:
    if condition.match_type != "prefix":
        return condition
    return MatchCondition("prefix", (owner, *condition.path))


def _without(owner: str, result: Any) -> Any:
    """A result as the agent knows its namespaces."""
    if isinstance(result, list):
        return [_without(owner, one) for one in result]
    if isinstance(result, tuple):
        return result[1:] if result[:1] == (owner,) else result
    namespace: Namespace | None = getattr(result, "namespace", None)
    if namespace is not None and namespace[:1] == (owner,):
        result.namespace = namespace[1:]
    return result
