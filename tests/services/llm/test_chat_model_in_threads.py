"""Nodes that are plain functions: they call the model from a thread, and the call runs on the server's loop."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from domain.errors import ProviderCut
from domain.usage import TokenUsage
from tests.house_for_tests import model, open_house, said
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
