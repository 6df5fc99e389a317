"""A model's reasoning on its way back to it, with the results of the tools that it led to."""

import functools
import operator

import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool

from tests.house_for_tests import model
from tests.scripted_provider import Step, call_tool, chunk, finish, say

QUESTION = [HumanMessage("Hi")]
BONJOUR: list[Step] = [*say("Bon", "jour"), *finish(10, 2)]


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def streamed(llm, messages):
    return functools.reduce(operator.add, [piece async for piece in llm.astream(messages)])


@pytest.mark.parametrize("take", [lambda llm, messages: llm.ainvoke(messages), streamed])
@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize("content", ["", None])
async def test_reasoning_that_is_empty_goes_back_where_it_came(take, name, content):
    script = [chunk({"role": "assistant", "content": content, name: ""}), *call_tool("add")]
    async with model([*script, *finish(reason="tool_calls")], BONJOUR) as (llm, _, provider):
        message = await take(llm.bind_tools([add]), QUESTION)
        await llm.ainvoke([*QUESTION, message, ToolMessage("3", tool_call_id="call_1")])
        assert provider.requests[1]["messages"][1][name] == ""
