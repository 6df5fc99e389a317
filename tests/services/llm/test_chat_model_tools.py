"""Tools and structured output: fragments become calls, choices keep their meaning, objects are not streamed."""

import asyncio
import copy
import functools
import operator

import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.graph.message import add_messages
from pydantic import BaseModel, ConfigDict

from services.llm.structured_output import legal_name
from tests.house_for_tests import model, said
from tests.scripted_provider import (
    Chunk,
    Step,
    call_tool,
    chunk,
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


class Strange(BaseModel):
    """A city."""

    model_config = ConfigDict(title="Ma ville, s'il vous plaît")

    name: str
    people: int = 0


STRANGE_SCHEMA = {**CITY_SCHEMA, "title": "My city, please"}


@pytest.mark.parametrize(
    ("schema", "name"),
    [(Strange, "Ma_ville_s_il_vous_plait"), (STRANGE_SCHEMA, "My_city_please"), ({"type": "object"}, "answer")],
    ids=["a class with a title", "a schema", "a schema without a title"],
)
async def test_a_schema_is_given_a_legal_name_whatever_its_title(schema, name):
    async with model(PARIS) as (llm, _, provider):
        await llm.with_structured_output(schema).ainvoke(QUESTION)
        assert provider.requests[0]["response_format"]["json_schema"]["name"] == name
    async with model([*call_tool(name, '{"name": "Paris"}'), *finish(reason="tool_calls")]) as (llm, _, provider):
        answer = await llm.with_structured_output(schema, method="function_calling").ainvoke(QUESTION)
        assert (answer.name if isinstance(answer, BaseModel) else answer["name"]) == "Paris"
        assert provider.requests[0]["tools"][0]["function"]["name"] == name


def test_a_name_is_cut_to_what_openai_takes():
    assert legal_name("a" * 100) == "a" * 64
    assert legal_name("質問") == "answer"


@pytest.mark.parametrize("strict", [True, False])
async def test_strict_goes_into_the_schema_and_not_to_the_top(strict):
    async with model(PARIS) as (llm, _, provider):
        await llm.with_structured_output(Strange, strict=strict).ainvoke(QUESTION)
        (sent,) = provider.requests
        described = sent["response_format"]["json_schema"]
        assert described["strict"] is strict
        assert "strict" not in sent
        # What strict means on OpenAI's wire: every property required, and no other.
        assert described["schema"].get("additionalProperties") is (False if strict else None)
        assert described["schema"]["required"] == (["name", "people"] if strict else ["name"])


async def test_strict_goes_into_the_function_and_not_to_the_top():
    answers = [*call_tool("City", '{"name": "Paris", "people": 2}'), *finish(reason="tool_calls")]
    async with model(answers, BONJOUR, BONJOUR) as (llm, _, provider):
        structured = llm.with_structured_output(City, method="function_calling", strict=True)
        assert await structured.ainvoke(QUESTION) == City(name="Paris", people=2)
        await llm.bind_tools([add], strict=True).ainvoke(QUESTION)
        await llm.bind_tools([add]).ainvoke(QUESTION)
        strict, bound, plain = provider.requests
    for sent in (strict, bound):
        function = sent["tools"][0]["function"]
        assert (function["strict"], function["parameters"]["additionalProperties"]) == (True, False)
    assert "strict" not in plain["tools"][0]["function"]
    assert all("strict" not in sent for sent in provider.requests)


@pytest.mark.parametrize("strict", [True, False, None])
async def test_strict_goes_into_a_tool_in_openais_own_form_too(strict):
    inner = {"type": "object", "properties": {"zip": {"type": "string"}}}
    parameters = {"type": "object", "properties": {"name": {"type": "string"}, "at": inner}, "required": ["name"]}
    own_form = {"type": "function", "function": {"name": "City", "description": "A city", "parameters": parameters}}
    before = copy.deepcopy(own_form)
    answers = [*call_tool("City", '{"name": "Paris"}'), *finish(reason="tool_calls")]
    async with model(BONJOUR, answers, PARIS) as (llm, _, provider):
        await llm.bind_tools([own_form], strict=strict).ainvoke(QUESTION)
        await llm.with_structured_output(own_form, method="function_calling", strict=strict).ainvoke(QUESTION)
        await llm.with_structured_output(own_form, strict=strict).ainvoke(QUESTION)
        bound, called, described = provider.requests
    functions = [sent["tools"][0]["function"] for sent in (bound, called)]
    schema = described["response_format"]["json_schema"]
    for function, given in (*((each, each["parameters"]) for each in functions), (schema, schema["schema"])):
        assert (function["name"], function.get("strict")) == ("City", strict)
        for each in (given, given["properties"]["at"]):
            assert each.get("additionalProperties") is (False if strict else None)
        assert given["required"] == (["name", "at"] if strict else ["name"])
    assert own_form == before


@pytest.mark.parametrize(
    "bare",
    [{"type": "function", "function": {"name": "now"}}, {"name": "now", "description": "The time"}, {"title": "now"}],
)
@pytest.mark.parametrize("strict", [True, False, None])
async def test_a_tool_may_leave_its_parameters_out(bare, strict):
    before = copy.deepcopy(bare)
    answers = [*call_tool("now", "{}"), *finish(reason="tool_calls")]
    async with model(BONJOUR, answers, [*say("{}"), *finish()]) as (llm, _, provider):
        await llm.bind_tools([bare], strict=strict).ainvoke(QUESTION)
        await llm.with_structured_output(bare, method="function_calling", strict=strict).ainvoke(QUESTION)
        assert await llm.with_structured_output(bare, strict=strict).ainvoke(QUESTION) == {}
        bound, called, described = provider.requests
    schemas = [sent["tools"][0]["function"].get("parameters") for sent in (bound, called)]
    schemas.append(described["response_format"]["json_schema"]["schema"])
    assert not strict or all(schema["additionalProperties"] is False for schema in schemas)
    assert bare == before


async def test_a_schema_made_strict_leaves_the_callers_own_as_it_was():
    before = copy.deepcopy(CITY_SCHEMA)
    async with model(PARIS) as (llm, _, _):
        await llm.with_structured_output(CITY_SCHEMA, strict=True).ainvoke(QUESTION)
    assert before == CITY_SCHEMA


async def test_a_model_that_calls_no_tool_gives_no_object():
    async with model(BONJOUR) as (llm, _, _):
        assert await llm.with_structured_output(City, method="function_calling").ainvoke(QUESTION) is None


# What providers send besides


SIGNATURE = {"google": {"thought_signature": "c2ln"}}


async def test_what_only_the_vendor_knows_is_kept_on_the_message_and_by_the_ids_of_its_calls():
    first, *_ = call_tool("add")
    assert isinstance(first, Chunk)
    assert isinstance(first.content, dict)
    delta = first.content["choices"][0]["delta"]
    delta["tool_calls"][0]["extra_content"] = SIGNATURE
    delta["annotations"] = [1]
    more = chunk({"annotations": [2], "mark": {"a": 1}, "provider_specific_fields": "x", "none": None, "empty": []})
    async with model([first, more, chunk({"mark": {"b": 2}}), *finish(reason="tool_calls")]) as (llm, _, _):
        message = await llm.bind_tools([add]).ainvoke(QUESTION)
    fields = {"annotations": [1, 2], "mark": {"a": 1, "b": 2}, "provider_specific_fields": "x"}
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": ""}}
    assert message.additional_kwargs == {
        "vendor_fields": fields,
        "tool_calls": [{**call, "extra_content": SIGNATURE}],
    }


async def streamed(llm, messages):
    whole = AIMessageChunk(content="")
    async for piece in llm.astream(messages):
        whole += piece
    return whole


async def streamed_into_a_state(llm, messages):
    """Where pieces become a message of the other class, with what it keeps of them."""
    return add_messages([], [await streamed(llm, messages)])[0]


async def streamed_in_a_thread(llm, messages):
    return await asyncio.to_thread(lambda: functools.reduce(operator.add, llm.stream(messages)))


@pytest.mark.parametrize("reasoning", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize(
    "take", [lambda llm, messages: llm.ainvoke(messages), streamed, streamed_into_a_state, streamed_in_a_thread]
)
async def test_what_a_model_sent_goes_back_to_it_with_the_tools_answer(take, reasoning):
    first, *_ = call_tool("add")
    assert isinstance(first, Chunk)
    assert isinstance(first.content, dict)
    delta = first.content["choices"][0]["delta"]
    delta |= {reasoning: "Adding", "mark": {"a": 1}, "is_cached": False}
    delta["tool_calls"][0]["extra_content"] = SIGNATURE
    delta["tool_calls"][0]["function"]["arguments"] = '{"a" :1,'
    rest = chunk({"tool_calls": [{"index": 0, "function": {"arguments": '"b":2}'}}]})
    async with model([first, rest, *finish(reason="tool_calls")], BONJOUR) as (llm, _, provider):
        tooled = llm.bind_tools([add])
        message = await take(tooled, QUESTION)
        assert [call["args"] for call in message.tool_calls] == [{"a": 1, "b": 2}]
        await tooled.ainvoke([*QUESTION, message, ToolMessage("3", tool_call_id="call_1")])
        sent = provider.requests[1]["messages"][1]
    function = {"name": "add", "arguments": '{"a" :1,"b":2}'}
    call = {"id": "call_1", "type": "function", "function": function, "extra_content": SIGNATURE}
    assert sent == {
        "role": "assistant",
        "content": None,
        "tool_calls": [call],
        reasoning: "Adding",
        "mark": {"a": 1},
        "is_cached": False,
    }


async def test_a_vendors_false_and_0_beside_text_are_kept_with_the_text():
    async with model([chunk({"content": "A", "cached": False, "score": 0}), *say("B"), *finish()]) as (llm, _, _):
        message = await llm.ainvoke(QUESTION)
    assert message.content == "AB"
    assert message.additional_kwargs == {"vendor_fields": {"cached": False, "score": 0}}


async def test_a_vendors_field_that_changes_its_kind_does_not_break_the_answer():
    pieces = [chunk({"mark": mark, "content": "a"}) for mark in (1, 2, "x", {"y": 1}, [3])]
    async with model([*pieces, *finish()]) as (llm, _, _):
        message = await llm.ainvoke(QUESTION)
    assert (message.content, message.additional_kwargs) == ("aaaaa", {"vendor_fields": {"mark": [3]}})


async def test_a_vendors_field_that_our_encoder_does_not_take_is_left_out():
    deep: list[object] = []
    for _ in range(250):
        deep = [deep]
    async with model([chunk({"deep": deep, "content": "a"}), *finish()]) as (llm, _, _):
        assert (await llm.ainvoke(QUESTION)).additional_kwargs == {}


async def test_half_a_character_spelt_in_the_arguments_themselves_is_replaced():
    async with model([*call_tool("shout", '{"text": "a\\ud83d"}'), *finish(reason="tool_calls")]) as (llm, _, _):
        message = await llm.bind_tools([shout]).ainvoke(QUESTION)
    assert message.tool_calls[0]["args"] == {"text": "a\ufffd"}


async def test_figures_of_usage_that_are_not_whole_are_none_for_a_node():
    counted = Chunk({"choices": [], "usage": {"completion_tokens": 2}})
    async with model([*say("Hi"), chunk({}, "stop"), counted]) as (llm, run, _):
        assert (await llm.ainvoke(QUESTION)).usage_metadata is None
    assert (run.calls[0].usage.output_tokens, run.calls[0].estimated) == (2, True)
    assert run.calls[0].usage.input_tokens


async def test_a_schema_in_the_place_of_a_tool_is_given_a_legal_name_and_a_tool_keeps_its_own():
    async with model(BONJOUR) as (llm, _, provider):
        await llm.bind_tools([STRANGE_SCHEMA, Strange, add]).ainvoke(QUESTION)
        names = [sent["function"]["name"] for sent in provider.requests[0]["tools"]]
    assert names == ["My_city_please", "Ma_ville_s_il_vous_plait", "add"]


@pytest.mark.parametrize("choice", ["My city, please", "My_city_please"])
async def test_a_schema_in_the_place_of_a_tool_is_chosen_by_its_title_or_its_legal_name(choice):
    async with model(BONJOUR) as (llm, _, provider):
        await llm.bind_tools([STRANGE_SCHEMA, add], tool_choice=choice).ainvoke(QUESTION)
        assert provider.requests[0]["tool_choice"]["function"]["name"] == "My_city_please"
