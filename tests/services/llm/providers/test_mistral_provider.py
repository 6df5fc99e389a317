"""Mistral: its own names on the wire, its own reasons at the end, and usage wherever it puts it."""

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from pydantic import SecretStr

from config.catalogue import Capabilities, ModelEntry, load_catalogue
from core.http_client import HttpClient
from domain.errors import BadRequest, ProviderCut
from services.llm.message import WholeMessage
from services.llm.providers.mistral import Mistral
from services.llm.providers.provider import ModelCall
from tests.scripted_provider import API_KEY, DONE, Chunk, ScriptedProvider, Step, chunk, say, scripted_provider

MESSAGES = [SystemMessage("Be brief"), HumanMessage("Hi")]
COUNTED = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


def model(**capabilities: bool) -> ModelEntry:
    entry = load_catalogue().get("mistral-small-latest")
    assert entry is not None
    return entry.model_copy(update={"capabilities": Capabilities(**capabilities)})


def mistral(base_url: str = "http://nowhere/v1", http: HttpClient | None = None, key: str | None = API_KEY) -> Mistral:
    return Mistral("mistral", http or HttpClient(1.0), base_url, SecretStr(key) if key else None, 20.0)


def payload(entry: ModelEntry | None = None, stop: list[str] | None = None, **parameters: Any) -> dict[str, Any]:
    return mistral()._payload(ModelCall(entry or model(), list(MESSAGES), parameters, stop))


def test_a_bare_call_leaves_every_choice_to_mistral():
    assert payload() == {
        "model": "mistral-small-latest",
        "messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}],
        "stream": True,
    }


def test_parameters_take_mistrals_names():
    sent = payload(seed=3, max_completion_tokens=7, temperature=0.2, stop=["END"])
    assert (sent["random_seed"], sent["max_tokens"], sent["temperature"], sent["stop"]) == (3, 7, 0.2, ["END"])
    assert not {"seed", "max_completion_tokens"} & set(sent)


def test_a_model_that_takes_no_temperature_is_sent_none():
    assert "temperature" not in payload(model(temperature=False), temperature=0.2)


@pytest.mark.parametrize(
    ("ours", "mistrals"),
    [("required", "any"), ("auto", "auto"), ("none", "none"), ({"type": "function"}, {"type": "function"})],
)
def test_a_required_tool_is_any_tool(ours, mistrals):
    assert payload(tool_choice=ours)["tool_choice"] == mistrals


def test_what_changes_nothing_in_an_answer_is_left_out():
    sent = payload(
        logprobs=False,
        top_logprobs=2,
        logit_bias={},
        stream_options={},
        user="me",
        safety_identifier="u-1",
        service_tier="auto",
        store=True,
        metadata={"a": "b"},
    )
    assert set(sent) == {"model", "messages", "stream"}


def test_what_changes_an_answer_and_mistral_takes_is_passed_on():
    asked = {"reasoning_effort": "high", "prompt_mode": "reasoning", "prediction": {"type": "content", "content": "a"}}
    asked |= {"parallel_tool_calls": False, "presence_penalty": 0.5, "prompt_cache_key": "k", "safe_prompt": True}
    assert asked.items() <= payload(**asked).items()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logprobs", True),
        ("logit_bias", {"50256": -100}),
        ("verbosity", "low"),
        ("web_search_options", {}),
        ("web_search_options", {"search_context_size": "low"}),
    ],
)
def test_what_changes_an_answer_and_mistral_has_not_is_refused_by_name(name, value):
    with pytest.raises(BadRequest, match=f"'mistral-small-latest' takes no '{name}'"):
        payload(**{name: value})


def test_calls_do_not_see_one_anothers_parameters():
    provider = mistral()
    first = provider._payload(ModelCall(model(), list(MESSAGES), {"temperature": 0.2}, ["END"]))
    second = provider._payload(ModelCall(model(), list(MESSAGES)))
    assert first["stop"] == ["END"]
    assert set(second) == {"model", "messages", "stream"}


def test_a_tool_call_and_its_answer_keep_one_id():
    asked = AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "call_1"}])
    call = ModelCall(model(), [*MESSAGES, asked, ToolMessage("2", tool_call_id="call_1")])
    *_, assistant, answer = mistral()._payload(call)["messages"]
    assert assistant["tool_calls"][0]["id"] == answer["tool_call_id"]


def test_a_missing_key_is_named_by_its_setting():
    assert "MISTRALAI_API_KEY" in (mistral(key=None).unavailable_reason(model()) or "")
    assert mistral().unavailable_reason(model()) is None


async def whole(*script: Step) -> AIMessage:
    async with scripted_provider(script) as provider:
        return await ask(provider, {})


async def ask(provider: ScriptedProvider, parameters: dict[str, Any]) -> AIMessage:
    http, gathered = HttpClient(1.0), WholeMessage()
    await http.open()
    try:
        call = ModelCall(model(), list(MESSAGES), parameters)
        async with aclosing(mistral(provider.base_url, http).stream(call)) as deltas:
            async for delta in deltas:
                gathered.add(delta)
    finally:
        await http.close()
    message = gathered.generation().message
    assert isinstance(message, AIMessage)
    return message


def last(reason: str, **more: Any) -> list[Step]:
    return [chunk({"content": ""}, reason, **more), DONE]


def as_blocks(*blocks: dict[str, Any]) -> Sequence[Step]:
    return [chunk({"role": "assistant", "content": list(blocks)})]


@pytest.mark.parametrize(
    ("mistrals", "ours"),
    [("stop", "stop"), ("length", "length"), ("model_length", "length"), ("tool_calls", "tool_calls")],
)
async def test_the_reason_of_the_end_is_one_of_openais_and_comes_once(mistrals, ours):
    message = await whole(*say("Bon", "jour"), *last(mistrals, usage=COUNTED))
    assert message.content == "Bonjour"
    assert message.response_metadata == {"finish_reason": ours, "model_name": "scripted-2026"}


async def test_an_answer_that_mistral_could_not_finish_is_an_error():
    with pytest.raises(ProviderCut):
        await whole(*say("Half"), *last("error"))


@pytest.mark.parametrize(
    "ending",
    [last("stop", usage=COUNTED), [chunk({}, "stop"), Chunk({"choices": [], "usage": COUNTED}), DONE]],
    ids=["beside the last choice", "alone"],
)
async def test_usage_is_read_where_it_comes(ending):
    message = await whole(*say("Hi"), *ending)
    assert message.usage_metadata == {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}


async def test_no_usage_is_none_and_not_zero():
    message = await whole(*say("Hi"), *last("stop"))
    assert message.usage_metadata is None


async def test_a_tool_call_comes_whole_in_one_chunk():
    called = {"id": "abcdefghi", "index": 0, "function": {"name": "add", "arguments": '{"a": 1}'}}
    message = await whole(chunk({"role": "assistant", "content": "", "tool_calls": [called]}, "tool_calls"), DONE)
    assert message.tool_calls == [{"name": "add", "args": {"a": 1}, "id": "abcdefghi", "type": "tool_call"}]


async def test_two_tool_calls_are_two_tool_calls():
    called = [
        {"id": f"abcdefgh{index}", "index": index, "function": {"name": "add", "arguments": f'{{"a": {index}}}'}}
        for index in range(2)
    ]
    message = await whole(chunk({"content": "", "tool_calls": called}, "tool_calls"), DONE)
    assert [call["args"] for call in message.tool_calls] == [{"a": 0}, {"a": 1}]


async def test_thinking_is_not_part_of_the_text():
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hmm"}]}
    message = await whole(*as_blocks(thought), *as_blocks({"type": "text", "text": "Hi"}), *last("stop"))
    assert message.text == "Hi"


async def test_a_chunk_that_cannot_be_read_is_mistrals_fault():
    with pytest.raises(ProviderCut, match="cannot be read"):
        await whole(*say("Hi"), Chunk({"choices": [{"delta": {"tool_calls": [5]}}]}))


async def test_the_wire_carries_mistrals_names():
    async with scripted_provider([*say("Hi"), *last("stop")]) as provider:
        await ask(provider, {"seed": 3, "max_tokens": 7})
        assert provider.requests[0]["random_seed"] == 3
        assert provider.requests[0]["max_tokens"] == 7
