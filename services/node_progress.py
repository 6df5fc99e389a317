"""Tells a caller who wants progress events of the nodes that begin and end.

LangGraph's own stream of tasks copies what nodes ask (`dataclasses.asdict`), and fails on what cannot be copied.
"""

from typing import Any
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler

from services.run_context import RunContext

STEP_TAG = "graph:step:"
"""LangGraph's tag on the run of a node itself, and not on what the node calls."""

HIDDEN_TAG = "langsmith:hidden"
"""Its tag on nodes that are its own, such as the one before the first."""


class NodeProgress(AsyncCallbackHandler):
    """One for a run. Nodes of graphs within a node are its own matter."""

    ignore_llm = True
    ignore_chat_model = True
    ignore_retriever = True

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._nodes: dict[UUID, str] = {}

    async def on_chain_start(
        self,
        serialized: dict[str, Any],
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        details = metadata or {}
        is_node = any(tag.startswith(STEP_TAG) for tag in tags or ())
        if is_node and HIDDEN_TAG not in (tags or ()) and "|" not in str(details.get("langgraph_checkpoint_ns", "")):
            self._nodes[run_id] = str(details.get("langgraph_node"))
            self._show(run_id, "started")

    async def on_chain_end(
        self, outputs: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        self._end(run_id)

    async def on_chain_error(
        self, error: BaseException, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        self._end(run_id)

    def _end(self, run_id: UUID) -> None:
        if run_id in self._nodes:
            self._show(run_id, "finished")
            del self._nodes[run_id]

    def _show(self, run_id: UUID, status: str) -> None:
        self._context.show("node", {"node": self._nodes[run_id], "status": status})
