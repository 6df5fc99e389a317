"""Tools and structured output: fragments become calls, choices keep their meaning, objects are not streamed."""

import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from tests.house_for_tests import model, said
from tests.scripted_provider import (
    Step,
    call_tool,
    finish,
    say,
)

QUESTION = [HumanMessage("Hi")]
BONJOUR: list[Step] = [*say("Bon", "jour"), *finish(10, 2)]


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def shout(text: str) -> str:
    """Say it loud."""
    return text.upper()


async def test_fragments_of_a_tool_call_become_one_call():
    script = [*call_tool("add", '{"a"', ": 1, ", '"b": 2}'), *finish(reason="tool_calls")]
    async with model(script) as (llm, run, provider):
        message = await llm.bind_tools([add]).ainvoke(QUESTION)
        assert message.tool_calls == [{"name": "add", "args": {"a": 1, "b": 2}, "id": "call_1", "type": "tool_call"}]
        assert message.content == ""
        assert said(run) == ""
        assert message.response_metadata["finish_reason"] == "tool_calls"
        sent = provider.requests[0]
        assert sent["tools"][0]["function"]["name"] == "add"
        assert set(sent["tools"][0]["function"]["parameters"]["properties"]) == {"a", "b"}
        assert "tool_choice" not in sent


async def test_text_beside_a_tool_call_goes_out():
    script = [*say("Let me see"), *call_tool("add", '{"a": 1, "b": 2}'), *finish(reason="tool_calls")]
    async with model(script) as (llm, run, _):
        message = await llm.bind_tools([add]).ainvoke(QUESTION)
        assert (message.content, len(message.tool_calls)) == ("Let me see", 1)
        assert said(run) == "Let me see"


async def test_a_tool_call_without_arguments_is_a_call():
    async with model([*call_tool("add"), *finish(reason="tool_calls")]) as (llm, _, _):
        assert (await llm.bind_tools([add]).ainvoke(QUESTION)).tool_calls[0]["args"] == {}


@pytest.mark.parametrize("args", ['{"a": 1, "b": ', '{"text": "half a sen', "[1]", "oops"])
async def test_arguments_that_are_cut_off_are_not_completed_into_a_call(args):
    async with model([*call_tool("add", args), *finish(reason="length")]) as (llm, _, _):
        message = await llm.bind_tools([add]).ainvoke(QUESTION)
    assert message.tool_calls == []
    assert [(call["name"], call["args"]) for call in message.invalid_tool_calls] == [("add", args)]


async def test_tool_calls_stream_as_fragments():
    script = [*call_tool("add", '{"a"', ': 1, "b": 2}'), *finish(reason="tool_calls")]
    async with model(script) as (llm, _, _):
        whole = AIMessageChunk(content="")
        async for piece in llm.bind_tools([add]).astream(QUESTION):
            whole += piece
    assert whole.tool_calls[0]["args"] == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("add", {"type": "function", "function": {"name": "add"}}),
        ("auto", "auto"),
        ("none", "none"),
        ("any", "required"),
        ("required", "required"),
        (True, "required"),
        ({"type": "function", "function": {"name": "add"}}, {"type": "function", "function": {"name": "add"}}),
        (False, None),
        (None, None),
    ],
)
async def test_a_choice_of_tool_takes_openais_spelling(choice, sent):
    async with model(BONJOUR) as (llm, _, provider):
        await llm.bind_tools([add, shout], tool_choice=choice).ainvoke(QUESTION)
        assert provider.requests[0].get("tool_choice") == sent


async def test_a_choice_that_is_no_tool_names_the_tools():
    async with model() as (llm, _, _):
        with pytest.raises(ValueError, match=r"'divide' is not a tool \(add, shout\)"):
            llm.bind_tools([add, shout], tool_choice="divide")


async def test_bound_tools_do_not_lose_the_runs_choice_of_model():
    async with model(BONJOUR, model="gpt-4o", parameters={"temperature": 0.3}) as (llm, _, provider):
        await llm.bind_tools([add]).ainvoke(QUESTION)
        assert (provider.requests[0]["model"], provider.requests[0]["temperature"]) == ("gpt-4o", 0.3)


# Structured output


class City(BaseModel):
    """A city."""

    name: str
    people: int


PARIS = [*say('{"name": "Paris", ', '"people": 2}'), *finish()]
CITY_SCHEMA = {"title": "City", "description": "A city", "type": "object", "properties": {"name": {"type": "string"}}}


async def test_structured_output_is_an_object_and_is_not_streamed():
    async with model(PARIS) as (llm, run, provider):
        assert await llm.with_structured_output(City).ainvoke(QUESTION) == City(name="Paris", people=2)
        assert said(run) == ""
        assert len(run.calls) == 1
        shape = provider.requests[0]["response_format"]
        assert (shape["type"], shape["json_schema"]["name"]) == ("json_schema", "City")
        assert set(shape["json_schema"]["schema"]["properties"]) == {"name", "people"}


async def test_structured_output_from_a_json_schema_is_a_dictionary():
    async with model(PARIS) as (llm, run, _):
        assert await llm.with_structured_output(CITY_SCHEMA).ainvoke(QUESTION) == {"name": "Paris", "people": 2}
        assert said(run) == ""


async def test_structured_output_with_its_raw_message():
    async with model(PARIS, [*say("no json"), *finish()]) as (llm, _, _):
        both = llm.with_structured_output(City, include_raw=True)
        good, bad = await both.ainvoke(QUESTION), await both.ainvoke(QUESTION)
    assert good["parsed"] == City(name="Paris", people=2)
    assert good["parsing_error"] is None
    assert good["raw"].usage_metadata["output_tokens"] == 2
    assert (bad["parsed"], bad["raw"].content) == (None, "no json")
    assert bad["parsing_error"] is not None


async def test_structured_output_by_function_calling():
    script = [*call_tool("City", '{"name": "Paris", "people": 2}'), *finish(reason="tool_calls")]
    async with model(script) as (llm, run, _):
        structured = llm.with_structured_output(City, method="function_calling")
        assert await structured.ainvoke(QUESTION) == City(name="Paris", people=2)
        assert said(run) == ""
