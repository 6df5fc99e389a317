"""Listens to the models that an agent brings itself: what they say streams, what they consume is counted.

LangChain's callbacks tell of every chat model that a graph calls, whoever made it. Agents that call the house's `llm`
need none of this: their text does not travel through callbacks.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, GenerationChunk, LLMResult
from langgraph.graph import END
from langgraph.graph.state import CompiledStateGraph

from domain.usage import Call, CallStatus, TokenUsage
from services.run_context import RunContext, current_run

NOSTREAM_TAG = "nostream"
UNKNOWN = "unknown"
"""Stands for the models of an agent that called none that LangChain hears of: it may have asked one without it."""

HOUSE_MODEL = "routeur"
"""What the house's chat model calls its kind; it speaks and is counted by itself."""


@dataclass(slots=True)
class _Going:
    """A call that has not ended."""

    run: RunContext
    model: str
    provider: str
    started: float
    is_answer: bool
    first_token_at: float | None = None
    sent: list[str] = field(default_factory=list)


class OwnModels(AsyncCallbackHandler):
    """One for an agent; which run a call belongs to is read from its context.

    Only nodes that the graph may end after speak to the caller: a plan or a grade is not the answer.
    """

    def __init__(self, answering_nodes: frozenset[str]) -> None:
        self._answering_nodes = answering_nodes
        self._going: dict[UUID, _Going] = {}

    @classmethod
    def of(cls, graph: CompiledStateGraph[Any]) -> "OwnModels":
        return cls(find_last_nodes(graph))

    async def on_chain_start(
        self, serialized: dict[str, Any], inputs: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        """The run begins: the model it was planned with is not the one that answers."""
        if parent_run_id is None and (run := current_run.get()) is not None:
            run.model = UNKNOWN

    async def on_chain_end(
        self, outputs: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        if parent_run_id is None:
            self._settle("succeeded")

    async def on_chain_error(
        self, error: BaseException, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        """Also reached when the client leaves: LangChain tells nothing more of the calls that are cancelled then."""
        if parent_run_id is None:
            self._settle(_status_of(error))

    async def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if (run := current_run.get()) is None or kwargs.get("invocation_params", {}).get("_type") == HOUSE_MODEL:
            return
        told = metadata or {}
        hushed = NOSTREAM_TAG in (tags or ()) or _is_structured(kwargs)
        self._going[run_id] = going = _Going(
            run,
            model=str(told.get("ls_model_name") or kwargs.get("name") or UNKNOWN),
            provider=str(told.get("ls_provider") or UNKNOWN),
            started=time.perf_counter(),
            is_answer=not hushed and _node_of(told) in self._answering_nodes,
        )
        if going.is_answer:
            run.sent.append(going.sent)

    async def on_llm_new_token(
        self,
        token: str | list[str | dict[str, Any]],
        *,
        chunk: GenerationChunk | ChatGenerationChunk | None = None,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        text = str(chunk.message.text) if isinstance(chunk, ChatGenerationChunk) else str(AIMessage(token).text)
        if not text or (going := self._going.get(run_id)) is None:
            return
        going.first_token_at = going.first_token_at or time.perf_counter()
        if not going.is_answer:
            return
        going.sent.append(text)
        if asyncio.get_running_loop() is going.run.loop:
            await going.run.say(going.model, [text])
        else:
            # A node in a thread: LangChain runs this method on a loop of its own.
            going.run.say_from_thread(going.model, [text])

    async def on_llm_end(
        self,
        response: LLMResult,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self._count(run_id, "succeeded", _usage(response))

    async def on_llm_error(
        self,
        error: BaseException,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self._count(run_id, _status_of(error), TokenUsage(None, None))

    # With these two methods LangChain takes this for a reader of streams, and asks models to stream.

    def tap_output_aiter(self, run_id: UUID, output: AsyncIterator[Any]) -> AsyncIterator[Any]:
        return output

    def tap_output_iter(self, run_id: UUID, output: Iterator[Any]) -> Iterator[Any]:
        return output

    def _settle(self, status: CallStatus) -> None:
        """The run ends. What nobody heard of is not known, rather than nothing."""
        if (run := current_run.get()) is None:
            return
        for call_id in [call_id for call_id, going in list(self._going.items()) if going.run is run]:
            self._count(call_id, "cancelled", TokenUsage(None, None))
        if not run.calls:
            run.calls.append(Call(UNKNOWN, UNKNOWN, TokenUsage(None, None), False, status, 0.0))

    def _count(self, run_id: UUID, status: CallStatus, usage: TokenUsage) -> None:
        if (going := self._going.pop(run_id, None)) is None:
            return
        first = going.first_token_at
        going.run.answering_model = going.model if going.is_answer else going.run.answering_model
        going.run.calls.append(
            Call(
                going.model,
                going.provider,
                usage,
                estimated=False,
                status=status,
                latency_s=time.perf_counter() - going.started,
                time_to_first_token_s=None if first is None else first - going.started,
            )
        )


def _status_of(error: BaseException) -> CallStatus:
    return "cancelled" if isinstance(error, asyncio.CancelledError) else "failed"


def find_last_nodes(graph: CompiledStateGraph[Any]) -> frozenset[str]:
    """The nodes that the graph may end after, those of its subgraphs as `outer:inner`."""
    # LangGraph draws an edge to the end from every node that nothing follows.
    return frozenset(edge.source for edge in graph.get_graph(xray=True).edges if edge.target == END)


def _node_of(metadata: Mapping[str, Any]) -> str:
    """The node that a call was made in, as `find_last_nodes` names it."""
    namespace = str(metadata.get("langgraph_checkpoint_ns") or metadata.get("langgraph_node") or "")
    return ":".join(part.split(":")[0] for part in namespace.split("|"))


def _is_structured(told: Mapping[str, Any]) -> bool:
    """Whether the call answers in a format of the node's: that is not for the caller to read."""
    parameters, options = told.get("invocation_params") or {}, told.get("options") or {}
    return "response_format" in parameters or "ls_structured_output_format" in options


def _usage(response: LLMResult) -> TokenUsage:
    """What the model said it consumed; `None` where it did not say."""
    first = response.generations[0][0] if response.generations and response.generations[0] else None
    message = first.message if isinstance(first, ChatGeneration) else None
    told = message.usage_metadata if isinstance(message, AIMessage) else None
    if not told:
        return TokenUsage(None, None)
    return TokenUsage(
        told["input_tokens"],
        told["output_tokens"],
        told.get("input_token_details", {}).get("cache_read"),
        told.get("output_token_details", {}).get("reasoning"),
    )
