"""A history goes over the wire as it came: calls to the letter, reasoning, and what vendors add to messages."""

import json
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from pydantic import SecretStr

from config.catalogue import ModelEntry, load_catalogue
from core.http_client import HttpClient
from domain.messages import Message
from services.graph_run import as_langchain
from services.llm.providers.mistral import Mistral
from services.llm.providers.openai_compatible import (
    is_openai_itself,
    openai_adapter,
    openai_payload,
)
from services.llm.providers.provider import ModelCall
from services.llm.providers.quirks import AS_OPENAI, Quirks

OPENAI_ITSELF = Quirks(refuses_unknown_fields=True)
SIGNATURE = {"google": {"thought_signature": "c2ln"}}


def model() -> ModelEntry:
    entry = load_catalogue().get("gpt-4o")
    assert entry is not None
    return entry


def raw_call(arguments: str, call_id: str = "call_1", **more: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "weather", "arguments": arguments}, **more}


def assistant(*calls: dict[str, Any], **fields: Any) -> Message:
    more: dict[str, Any] = {"tool_calls": list(calls)} if calls else {}
    return Message("assistant", "", {**more, **({"vendor_fields": fields} if fields else {})})


def sent(*messages: Any, quirks: Quirks = AS_OPENAI) -> list[dict[str, Any]]:
    converted = [as_langchain(each) if isinstance(each, Message) else each for each in messages]
    payload = openai_payload(openai_adapter("gpt-4o", is_openai=True), ModelCall(model(), converted), quirks)
    return list(payload["messages"])


def sent_to_mistral(*messages: Any) -> list[dict[str, Any]]:
    converted = [as_langchain(each) if isinstance(each, Message) else each for each in messages]
    mistral = Mistral("mistral", HttpClient(1.0), "http://nowhere/v1", SecretStr("k"), 20.0)
    return list(mistral._payload(ModelCall(model(), converted))["messages"])


LETTERS = [
    '{"city":"Paris"}',
    '{ "city" : "Paris" }',
    '{"city": "Gen\\u00e8ve"}',
    "null",
    "[]",
    "5",
    '"Paris"',
    "{'city': 'Paris'}",
    '{"city": "Par',
    '{"n": ' + "9" * 5_000 + "}",
    "[" * 3_000,
]


@pytest.mark.parametrize("arguments", LETTERS, ids=lambda text: text[:20])
@pytest.mark.parametrize("quirks", [AS_OPENAI, OPENAI_ITSELF], ids=["compatible", "openai"])
def test_the_arguments_of_a_call_are_sent_to_the_letter(arguments: str, quirks: Quirks) -> None:
    (out,) = sent(assistant(raw_call(arguments)), quirks=quirks)
    assert out["tool_calls"] == [raw_call(arguments)]


@pytest.mark.parametrize("arguments", LETTERS, ids=lambda text: text[:20])
def test_mistral_is_sent_them_to_the_letter_too(arguments: str) -> None:
    (out,) = sent_to_mistral(assistant(raw_call(arguments)))
    assert out["tool_calls"][0]["function"] == {"name": "weather", "arguments": arguments}


def test_mistral_is_sent_ids_of_its_own_form_and_the_answers_match_them() -> None:
    call, answer = sent_to_mistral(
        assistant(raw_call("5", "call_abcdefghij")), ToolMessage("4 °C", tool_call_id="call_abcdefghij")
    )
    assert call["tool_calls"][0]["id"] == answer["tool_call_id"]
    assert len(answer["tool_call_id"]) == 9


def test_mistral_is_sent_the_prefix_mark_of_the_last_message_alone() -> None:
    """It is Mistral's own, goes on with the message instead of answering it, and stands nowhere else."""
    marked = assistant(prefix=True, mark=1)
    *before, last = sent_to_mistral(Message("user", "Hi"), marked, Message("user", "And?"), marked)
    assert last == {"role": "assistant", "content": "", "prefix": True}
    assert not any("prefix" in message for message in before)
    assert "prefix" not in sent_to_mistral(marked, Message("user", "Hi", {"vendor_fields": {"prefix": True}}))[-1]


def test_calls_keep_their_order_whether_their_arguments_can_be_read_or_not() -> None:
    calls = [raw_call("5", "a"), raw_call('{"city":"Paris"}', "b"), raw_call("null", "c")]
    (out,) = sent(assistant(*calls))
    assert out["tool_calls"] == calls


def test_a_call_that_a_node_has_changed_is_sent_as_the_node_left_it() -> None:
    message = as_langchain(assistant(raw_call('{"city":"Paris"}')))
    assert isinstance(message, AIMessage)
    message.tool_calls[0]["args"] = {"city": "Lyon"}
    (out,) = sent(message)
    assert json.loads(out["tool_calls"][0]["function"]["arguments"]) == {"city": "Lyon"}


def test_a_graph_sees_the_calls_that_it_can_make_and_those_that_it_cannot() -> None:
    message = as_langchain(assistant(raw_call("null", "a"), raw_call('{"city":"Paris"}', "b")))
    assert isinstance(message, AIMessage)
    assert [(call["id"], call["args"]) for call in message.tool_calls] == [("b", {"city": "Paris"})]
    assert [(call["id"], call["args"]) for call in message.invalid_tool_calls] == [("a", "null")]


def test_fields_that_vendors_add_go_back_to_endpoints_that_are_not_openais() -> None:
    call = raw_call("{}", extra_content=SIGNATURE)
    messages = [
        Message("user", "Hi", {"vendor_fields": {"cache_control": {"type": "ephemeral"}}}),
        assistant(call, reasoning_content="hm", reasoning_details=[{"type": "x"}]),
        Message("tool", "4 °C", {"tool_call_id": "call_1", "vendor_fields": {"is_error": False}}),
    ]
    user, asked, answer = sent(*messages)
    assert user == {"role": "user", "content": "Hi", "cache_control": {"type": "ephemeral"}}
    assert asked["tool_calls"] == [call]
    assert (asked["reasoning_content"], asked["reasoning_details"]) == ("hm", [{"type": "x"}])
    assert answer == {"role": "tool", "content": "4 °C", "tool_call_id": "call_1", "is_error": False}


def test_openai_itself_is_sent_nothing_that_it_does_not_know() -> None:
    parts = [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]
    call = raw_call("{}", extra_content=SIGNATURE)
    call["function"]["extra"] = 1
    user, asked = sent(
        Message("user", parts, {"vendor_fields": {"a": 1}}),
        assistant(call, reasoning_content="hm", a=1),
        quirks=OPENAI_ITSELF,
    )
    assert user == {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    assert asked == {"role": "assistant", "content": None, "tool_calls": [raw_call("{}")]}


def test_parts_keep_what_vendors_add_to_them_elsewhere() -> None:
    parts = [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]
    assert sent(Message("user", parts))[0]["content"] == parts


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_a_models_reasoning_goes_back_with_its_tool_calls_and_not_without(name: str) -> None:
    call = {"name": "weather", "args": {"city": "Paris"}, "id": "a"}
    calling = AIMessage("", tool_calls=[call], additional_kwargs={name: "hm"})
    saying = AIMessage("4 °C", additional_kwargs={name: "hm"})
    first, second = sent(calling, saying)
    assert first[name] == "hm"
    assert name not in second
    assert name not in sent(calling, quirks=OPENAI_ITSELF)[0]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_that_is_empty_goes_back_with_tool_calls_too(name: str) -> None:
    """Models that think insist on the field, and not on words in it."""
    call = {"name": "weather", "args": {"city": "Paris"}, "id": "a"}
    empty = AIMessage("", tool_calls=[call], additional_kwargs={name: ""})
    (out,) = sent(empty)
    assert out[name] == ""
    assert name not in sent(AIMessage("4 °C", additional_kwargs={name: ""}))[0]
    assert name not in sent(empty, quirks=OPENAI_ITSELF)[0]


def test_what_a_graph_keeps_beside_its_messages_for_itself_stays_there() -> None:
    (out,) = sent(HumanMessage("Hi", additional_kwargs={"seen_at": object(), "score": 3}))
    assert out == {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("base_url", "is_it"),
    [
        ("https://api.openai.com/v1", True),
        ("https://eu.api.openai.com/v1", True),
        ("https://mine.openai.azure.com/openai/v1", True),
        ("http://127.0.0.1:8000/v1", False),
        ("https://api.openai.com.example.org/v1", False),
        ("https://openrouter.ai/api/v1", False),
    ],
)
def test_openai_itself_is_known_by_its_address(base_url: str, is_it: bool) -> None:
    assert is_openai_itself(base_url) is is_it
