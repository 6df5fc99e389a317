"""Agents that bring their own models: what those say streams, what they consume is counted, the rest is not known."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.graph import END, START, MessagesState, StateGraph

from domain.runs import RunEvent, Tokens
from services.agent_registry import AgentOptions
from services.own_models import UNKNOWN, find_last_nodes
from services.run_context import MAX_WAITING_CHARS
from tests.house_for_tests import House, ask, events_of, failure_of, finish_of, open_house, text_of, until
from tests.scripted_provider import finish, say, scripted_provider

OWN = AgentOptions(own_models=True)
USAGE = UsageMetadata(input_tokens=10, output_tokens=4, total_tokens=14)
QUICK = "quick"
"""A message that a gated model does not wait for."""


class FakeModel(BaseChatModel):
    """Streams its pieces and says what they cost, as LangChain's integrations do."""

    pieces: tuple[str, ...] = ("Bon", "jour")
    name_on_wire: str = "gpt-4o-mini"
    says_usage: bool = True
    error: Exception | None = None
    gate: Any = None

    @property
    def _llm_type(self) -> str:
        return "fake"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return {"ls_provider": "fake", "ls_model_name": self.name_on_wire, "ls_model_type": "chat"}

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        assert self.disable_streaming, "it is asked to stream"
        message = AIMessage("".join(self.pieces), usage_metadata=USAGE)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _chunks(self) -> Iterator[ChatGenerationChunk]:
        for piece in self.pieces:
            yield ChatGenerationChunk(message=AIMessageChunk(piece))
        if self.error:
            raise self.error
        if self.says_usage:
            yield ChatGenerationChunk(message=AIMessageChunk("", usage_metadata=USAGE))

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in self._chunks():
            if run_manager:
                run_manager.on_llm_new_token(chunk.message.text, chunk=chunk)
            yield chunk

    async def _astream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._chunks():
            if run_manager:
                await run_manager.on_llm_new_token(chunk.message.text, chunk=chunk)
            yield chunk
            if self.gate and messages[-1].content != QUICK:
                await self.gate.wait()


def chain(**nodes: Callable[..., Any]) -> Callable[[], StateGraph[Any]]:
    """The factory of a graph whose nodes follow each other."""

    def create_graph() -> StateGraph[Any]:
        graph: StateGraph[Any] = StateGraph(MessagesState)
        names = [START, *nodes, END]
        for name, node in nodes.items():
            graph.add_node(name, node)
        for before, after in pairwise(names):
            graph.add_edge(before, after)
        return graph

    return create_graph


def asks(model: Any) -> Callable[[MessagesState], Any]:
    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    return node


def asks_in_thread(model: Any) -> Callable[[MessagesState], Any]:
    return lambda state: {"messages": [model.invoke(state["messages"])]}


def asks_and_blocks(model: Any) -> Callable[[MessagesState], Any]:
    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    return node


@asynccontextmanager
async def house_with(factory: Callable[..., Any], options: AgentOptions = OWN) -> AsyncIterator[House]:
    async with scripted_provider() as provider, open_house(provider, {"own": factory}, options=options) as house:
        yield house


async def run(factory: Callable[..., Any]) -> list[RunEvent]:
    async with house_with(factory) as house:
        return await events_of(house, ask("own"))


def pieces_of(events: list[RunEvent]) -> list[str]:
    return [piece for event in events if isinstance(event, Tokens) for piece in event.pieces]


@pytest.mark.parametrize("node", [asks, asks_in_thread, asks_and_blocks])
async def test_what_its_model_says_streams_once_and_is_counted_and_priced(node: Any) -> None:
    events = await run(chain(answer=node(FakeModel())))
    assert pieces_of(events) == ["Bon", "jour"]
    finished = finish_of(events)
    assert finished.model == "gpt-4o-mini"
    assert (finished.report.usage.input_tokens, finished.report.usage.output_tokens) == (10, 4)
    assert finished.report.price.total_eur
    assert finished.report.estimated is False


async def test_a_piece_is_sent_before_the_next_one_comes() -> None:
    gate = asyncio.Event()
    async with house_with(chain(answer=asks(FakeModel(gate=gate)))) as house:
        async for event in house.service.stream(ask("own")):
            if isinstance(event, Tokens) and event.pieces == ["Bon"]:
                gate.set()
    assert gate.is_set()


@pytest.mark.parametrize("node", [asks_in_thread, asks_and_blocks])
async def test_a_model_in_a_thread_is_not_held_up_by_a_slow_reader(node: Any) -> None:
    """The loop may be waiting for that thread: each would wait for the other."""
    long = "x" * (MAX_WAITING_CHARS + 1)
    assert text_of(await run(chain(answer=node(FakeModel(pieces=(long, "y")))))) == long + "y"


async def test_a_model_that_does_not_stream_answers_whole_under_its_own_name() -> None:
    events = await run(chain(answer=asks(FakeModel(disable_streaming=True))))
    assert pieces_of(events) == ["Bonjour"]
    assert finish_of(events).model == "gpt-4o-mini"
    assert finish_of(events).report.usage.total_tokens == 14


async def test_a_run_that_ends_does_not_end_the_calls_of_another() -> None:
    gate = asyncio.Event()
    async with house_with(chain(answer=asks(FakeModel(gate=gate)))) as house:
        slow = asyncio.create_task(events_of(house, ask("own", "slow")))
        await until(lambda: house.service.running == 1)
        assert text_of(await events_of(house, ask("own", QUICK))) == "Bonjour"
        gate.set()
        assert [call.status for call in finish_of(await slow).report.calls] == ["succeeded"]


async def test_a_model_that_is_not_in_the_catalogue_has_its_tokens_and_no_price() -> None:
    report = finish_of(await run(chain(answer=asks(FakeModel(name_on_wire="house-blend"))))).report
    assert report.usage.total_tokens == 14
    assert report.price.total_eur is None
    assert report.impact.unaccounted_models == ("house-blend",)


async def test_a_model_that_does_not_say_what_it_used_is_not_known() -> None:
    report = finish_of(await run(chain(answer=asks(FakeModel(says_usage=False))))).report
    assert report.usage.input_tokens is None
    assert report.price.total_eur is None


async def test_a_graph_whose_models_nobody_hears_of_is_not_known_rather_than_free() -> None:
    events = await run(chain(answer=lambda state: {"messages": [AIMessage("Bonjour")]}))
    assert text_of(events) == "Bonjour"
    finished = finish_of(events)
    assert finished.model == UNKNOWN
    assert finished.report.usage.total_tokens is None
    assert finished.report.price.total_eur is None
    assert finished.report.impact.unaccounted_models == (UNKNOWN,)


async def test_a_failed_call_is_counted_and_its_tokens_are_not_known() -> None:
    events = await run(chain(answer=asks(FakeModel(error=ValueError("no luck")))))
    assert failure_of(events) is not None
    assert text_of(events) == "Bonjour"
    report = finish_of(events).report
    assert [(call.model, call.status) for call in report.calls] == [("gpt-4o-mini", "failed")]
    assert report.usage.total_tokens is None


async def test_a_call_is_counted_when_the_client_leaves() -> None:
    gate = asyncio.Event()
    async with house_with(chain(answer=asks(FakeModel(gate=gate)))) as house:
        stream = house.service.stream(ask("own"))
        async for event in stream:
            if isinstance(event, Tokens):
                break
        await stream.aclose()
        (row,) = house.ledger.rows
    assert row.status == "cancelled"
    assert [call["model"] for call in row.calls] == ["gpt-4o-mini"]
    assert row.input_tokens is None


async def test_only_nodes_that_the_graph_may_end_after_speak_to_the_caller() -> None:
    plan = FakeModel(pieces=("think",))
    events = await run(chain(plan=asks(plan), answer=asks(FakeModel())))
    assert text_of(events) == "Bonjour"
    assert finish_of(events).report.usage.total_tokens == 28


@pytest.mark.parametrize(
    "hidden",
    [
        lambda model: model.with_config(tags=["nostream"]),
        lambda model: model.bind(response_format={"type": "json_object"}),
        lambda model: model.bind(ls_structured_output_format={"schema": {"title": "Grade", "type": "object"}}),
    ],
    ids=["nostream", "response format", "structured output"],
)
async def test_a_call_that_is_not_the_answer_is_not_streamed_but_counted(hidden: Any) -> None:
    inner, outer = FakeModel(pieces=("{", "}")), FakeModel()

    async def node(state: MessagesState) -> dict[str, Any]:
        await hidden(inner).ainvoke("grade")
        return {"messages": [await outer.ainvoke("answer")]}

    events = await run(chain(answer=node))
    assert pieces_of(events) == ["Bon", "jour"]
    assert finish_of(events).report.usage.total_tokens == 28


async def test_runs_at_once_do_not_hear_each_other() -> None:
    async with house_with(chain(answer=asks(FakeModel()))) as house:
        both = await asyncio.gather(events_of(house, ask("own")), events_of(house, ask("own")))
    assert [text_of(events) for events in both] == ["Bonjour", "Bonjour"]
    assert [finish_of(events).report.usage.total_tokens for events in both] == [14, 14]


async def test_the_houses_model_in_such_an_agent_is_heard_and_counted_once() -> None:
    async with (
        scripted_provider([*say("Bon", "jour"), *finish()]) as provider,
        open_house(provider, {"own": lambda llm: chain(answer=asks(llm))()}, options=OWN) as house,
    ):
        events = await events_of(house, ask("own"))
    assert text_of(events) == "Bonjour"
    assert len(finish_of(events).report.calls) == 1


def test_the_last_nodes_are_found_in_subgraphs_too() -> None:
    inner = chain(grade=asks(FakeModel()), write=asks(FakeModel()))().compile()
    assert find_last_nodes(chain(plan=asks(FakeModel()), sub=inner)().compile()) == {"sub:write"}


def test_a_node_that_may_end_or_go_on_is_a_last_one() -> None:
    graph: StateGraph[Any] = StateGraph(MessagesState)
    graph.add_node("agent", asks(FakeModel()))
    graph.add_node("tools", asks(FakeModel()))
    graph.add_edge(START, "agent")
    graph.add_conditional_edges("agent", lambda _: END, ["tools", END])
    graph.add_edge("tools", "agent")
    assert find_last_nodes(graph.compile()) == {"agent"}


def test_a_node_that_nothing_follows_is_a_last_one() -> None:
    graph: StateGraph[Any] = StateGraph(MessagesState)
    graph.add_node("only", asks(FakeModel()))
    graph.add_edge(START, "only")
    assert find_last_nodes(graph.compile()) == {"only"}


async def test_a_subgraphs_last_node_speaks_and_its_first_does_not() -> None:
    inner = chain(grade=asks(FakeModel(pieces=("think",))), write=asks(FakeModel()))().compile()
    assert text_of(await run(chain(plan=asks(FakeModel(pieces=("plan",))), sub=inner))) == "Bonjour"
