"""Nodes that are plain functions: they call the model from a thread, and the call runs on the server's loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from domain.errors import ProviderCut
from domain.usage import TokenUsage
from tests.house_for_tests import (
    ask,
    events_of,
    failure_of,
    house_of,
    model,
    one_node,
    open_house,
    said,
    text_of,
    the_row,
)
from tests.scripted_provider import (
    Cut,
    Step,
    call_tool,
    finish,
    say,
    scripted_provider,
)

QUESTION = [HumanMessage("Hi")]
BONJOUR: list[Step] = [*say("Bon", "jour"), *finish(10, 2)]


ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


def sync_graph(node: Callable[[MessagesState], Any]) -> Any:
    graph: StateGraph[Any] = StateGraph(MessagesState)
    graph.add_node("answer", node)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", END)
    return graph.compile()


async def test_a_plain_function_calls_the_model_through_the_runs_loop():
    async with model(BONJOUR) as (llm, run, _):
        graph = sync_graph(lambda state: {"messages": [llm.invoke(state["messages"])]})
        final = await graph.ainvoke({"messages": QUESTION})
        assert final["messages"][-1].text == "Bonjour"
        assert said(run) == "Bonjour"
        assert [call.usage for call in run.calls] == [TokenUsage(10, 2, 0)]
        assert run.threaded_calls == set()


async def test_a_plain_function_may_stream_and_tag():
    script = [*say("Hm"), *call_tool("add", '{"a": 1, "b": 2}'), *finish(reason="tool_calls")]
    async with model(script) as (llm, run, _):

        def node(state: MessagesState) -> dict[str, Any]:
            whole = AIMessageChunk(content="")
            for piece in llm.bind_tools([ADD]).with_config(tags=["nostream"]).stream(state["messages"]):
                whole += piece
            assert whole.usage_metadata is not None
            return {"messages": [AIMessage(whole.text, tool_calls=whole.tool_calls)]}

        final = await sync_graph(node).ainvoke({"messages": QUESTION})
        assert final["messages"][-1].tool_calls[0]["args"] == {"a": 1, "b": 2}
        assert said(run) == ""
        assert len(run.calls) == 1


async def test_a_plain_function_sees_the_models_failure():
    async with model([*say("Half"), Cut()]) as (llm, run, _):
        graph = sync_graph(lambda state: {"messages": [llm.invoke(state["messages"])]})
        with pytest.raises(ProviderCut):
            await graph.ainvoke({"messages": QUESTION})
        assert [call.status for call in run.calls] == ["failed"]


async def test_a_blocking_call_in_an_async_node_says_what_to_write_instead():
    async with model() as (llm, _, _):
        with pytest.raises(RuntimeError, match=r"await llm\.ainvoke"):
            llm.invoke(QUESTION)


async def test_a_blocking_call_outside_a_run_says_what_to_write_instead():
    async with scripted_provider() as provider, open_house(provider) as house:
        with pytest.raises(RuntimeError, match=r"await llm\.ainvoke"):
            await asyncio.to_thread(house.llm.invoke, "Hi")


def on_a_loop_of_its_own(llm: Any) -> Any:
    return lambda state: {"messages": [asyncio.run(llm.ainvoke(state["messages"]))]}


def streamed_on_a_loop_of_its_own(llm: Any) -> Any:
    async def whole(messages: Any) -> str:
        return "".join([chunk.text async for chunk in llm.astream(messages)])

    return lambda state: {"messages": [AIMessage(asyncio.run(whole(state["messages"])))]}


def invoked_on_a_loop_of_its_own(llm: Any) -> Any:
    async def whole(messages: Any) -> Any:
        return llm.invoke(messages)

    return lambda state: {"messages": [asyncio.run(whole(state["messages"]))]}


def in_a_pool(llm: Any) -> Any:
    def node(state: MessagesState) -> dict[str, Any]:
        with ThreadPoolExecutor(2) as pool:
            return {"messages": [pool.submit(lambda: llm.invoke(state["messages"])).result()]}

    return node


def mapped_in_a_pool(llm: Any) -> Any:
    def node(state: MessagesState) -> dict[str, Any]:
        with ThreadPoolExecutor(2) as pool:
            return {"messages": list(pool.map(llm.invoke, [state["messages"]]))}

    return node


def on_a_loop_in_a_pool(llm: Any) -> Any:
    def node(state: MessagesState) -> dict[str, Any]:
        with ThreadPoolExecutor(2) as pool:
            return {"messages": [pool.submit(lambda: asyncio.run(llm.ainvoke(state["messages"]))).result()]}

    return node


@pytest.mark.parametrize(
    "node",
    [
        on_a_loop_of_its_own,
        streamed_on_a_loop_of_its_own,
        invoked_on_a_loop_of_its_own,
        in_a_pool,
        mapped_in_a_pool,
        on_a_loop_in_a_pool,
    ],
)
async def test_a_node_may_call_the_model_from_a_loop_or_a_pool_of_its_own(node: Any) -> None:
    async with house_of(BONJOUR, BONJOUR, agents={"mine": one_node(node)}) as (house, _):
        events = await events_of(house, ask("mine", "Hi"))
        assert (failure_of(events), text_of(events)) == (None, "Bonjour")
        assert [call["output_tokens"] for call in the_row(house).calls] == [2]
        # A second run's calls are its own.
        await events_of(house, ask("mine", "Hi"))
        assert [len(row.calls) for row in house.ledger.rows] == [1, 1]


async def test_a_pool_that_an_async_node_waits_for_is_refused_and_does_not_hang() -> None:
    def waits(llm: Any) -> Any:
        async def node(state: MessagesState) -> dict[str, Any]:
            with ThreadPoolExecutor(1) as pool:
                return {"messages": [pool.submit(llm.invoke, state["messages"]).result()]}

        return node

    async with house_of(agents={"mine": one_node(waits)}) as (house, _):
        assert failure_of(await events_of(house, ask("mine", "Hi"))) is not None
