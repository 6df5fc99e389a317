"""What goes over OpenAI's wire: each parameter under the name its endpoint takes, and nothing the model refuses."""

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from config.catalogue import Capabilities, Catalogue, ModelEntry, load_catalogue
from core.http_client import HttpClient
from services.llm.providers.openai_compatible import (
    OpenAICompatible,
    openai_adapter,
    openai_payload,
)
from services.llm.providers.provider import ModelCall

CATALOGUE: Catalogue = load_catalogue()
MESSAGES = [SystemMessage("Be brief"), HumanMessage("Hi")]


def model(name: str = "gpt-4o", *, temperature: bool = True) -> ModelEntry:
    entry = CATALOGUE.get("gpt-4o")
    assert entry is not None
    return entry.model_copy(update={"id": name, "capabilities": Capabilities(temperature=temperature)})


def payload(
    entry: ModelEntry | None = None, *, is_openai: bool = True, stop: list[str] | None = None, **parameters: Any
) -> dict[str, Any]:
    entry = entry or model()
    call = ModelCall(entry, list(MESSAGES), parameters, stop)
    return openai_payload(openai_adapter(entry.name_on_wire, is_openai=is_openai), call)


@pytest.mark.parametrize("is_openai", [True, False])
def test_a_bare_call_sends_the_messages_and_asks_for_a_stream_with_usage_and_nothing_else(is_openai):
    assert payload(is_openai=is_openai) == {
        "model": "gpt-4o",
        "messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_openai_takes_max_completion_tokens():
    sent = payload(max_tokens=7)
    assert sent["max_completion_tokens"] == 7
    assert "max_tokens" not in sent


def test_the_others_take_max_tokens():
    sent = payload(is_openai=False, max_tokens=7)
    assert sent["max_tokens"] == 7
    assert "max_completion_tokens" not in sent


def test_a_model_that_takes_no_temperature_is_sent_none():
    assert payload(temperature=0.2)["temperature"] == 0.2
    assert "temperature" not in payload(model(temperature=False), temperature=0.2)


def test_the_catalogues_reasoning_models_are_sent_no_temperature():
    reasoning = [entry for entry in CATALOGUE.models if entry.id.startswith("gpt-6")]
    assert reasoning
    for entry in reasoning:
        assert "temperature" not in payload(entry, temperature=0.2)


def test_the_o_series_hears_the_system_as_a_developer():
    assert [message["role"] for message in payload(model("o3"))["messages"]] == ["developer", "user"]


def test_the_wire_name_is_what_the_provider_is_asked_for():
    assert payload(model().model_copy(update={"wire_name": "gpt-4o-2024-11-20"}))["model"] == "gpt-4o-2024-11-20"


@pytest.mark.parametrize("is_openai", [True, False])
def test_stop_tools_and_response_format_pass_as_they_are(is_openai):
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
    chosen = {"type": "function", "function": {"name": "add"}}
    shape = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    options = {"tools": [tool], "tool_choice": chosen, "response_format": shape, "seed": 1, "top_p": 0.5}
    sent = payload(is_openai=is_openai, stop=["END"], **options)
    assert {name: sent[name] for name in options} == options
    assert sent["stop"] == ["END"]


def test_a_caller_cannot_turn_the_stream_off():
    assert payload(stream=False, stream_options={})["stream_options"] == {"include_usage": True}
    assert payload(stream=False)["stream"] is True


def test_the_run_s_parameters_are_left_as_they_were():
    parameters = {"temperature": 0.2, "max_tokens": 7}
    call = ModelCall(model(temperature=False), list(MESSAGES), parameters)
    openai_payload(openai_adapter("gpt-4o", is_openai=True), call)
    assert parameters == {"temperature": 0.2, "max_tokens": 7}


def test_a_tool_call_and_its_answer_go_out_in_openais_shape():
    asked = AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "call_1"}])
    call = ModelCall(model(), [*MESSAGES, asked, ToolMessage("2", tool_call_id="call_1")])
    *_, assistant, answer = openai_payload(openai_adapter("gpt-4o", is_openai=True), call)["messages"]
    assert assistant["tool_calls"][0] == {
        "type": "function",
        "id": "call_1",
        "function": {"name": "add", "arguments": '{"a": 1}'},
    }
    assert (answer["role"], answer["tool_call_id"], answer["content"]) == ("tool", "call_1", "2")


def test_an_adapter_is_made_once_a_model():
    provider = OpenAICompatible("openai", HttpClient(1.0), "http://nowhere/v1", None, 1.0, is_openai=True)
    assert provider._adapter(model()) is provider._adapter(model())
    assert provider._adapter(model()) is not provider._adapter(model("o3"))


def test_the_context_is_the_smaller_of_the_models_and_the_endpoints():
    unbounded = OpenAICompatible("openai", HttpClient(1.0), "http://nowhere/v1", None, 1.0)
    bounded = OpenAICompatible("local", HttpClient(1.0), "http://nowhere/v1", None, 1.0, context_limit=4096)
    assert unbounded.context_tokens(model()) == model().context.tokens
    assert bounded.context_tokens(model()) == 4096
