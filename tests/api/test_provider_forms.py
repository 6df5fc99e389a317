"""What a provider sends in whatever form, at every door, streamed and whole: one answer, or one error in its words."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.provider_thread import play
from tests.scripted_provider import Chunk, ContentType, ScriptedProvider, Status, Step

ATTEMPTS = 3
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
DOORS = {
    "a model, streamed": ("/v1/chat/completions", "gpt-4o", True),
    "a model, whole": ("/v1/chat/completions", "gpt-4o", False),
    "an agent, streamed": ("/v1/chat/completions", "V2@gpt-4o", True),
    "an agent, whole": ("/v1/chat/completions", "V2@gpt-4o", False),
    "natively, streamed": ("/completion", "gpt-4o", True),
    "natively, whole": ("/completion", "gpt-4o", False),
}
EVERY_DOOR = pytest.mark.parametrize("door", DOORS)
MODEL_DOORS = pytest.mark.parametrize("door", ["a model, streamed", "a model, whole"])


@dataclass
class Answer:
    """What a door answered, read as its clients read it."""

    status: int
    raw: str
    text: str = ""
    reason: str | None = None
    message: dict[str, Any] = field(default_factory=dict)
    retry_after: str | None = None
    calls: list[dict[str, Any]] = field(default_factory=list)
    error: dict[str, Any] | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    estimated: bool | None = None


async def call(client: httpx.AsyncClient, door: str) -> Answer:
    path, model, streamed = DOORS[door]
    body: dict[str, Any] = {"model": model, "stream": streamed}
    if path == "/completion":
        body["message"] = "Raconte."
    else:
        body["messages"] = [{"role": "user", "content": "Raconte."}]
    if door.startswith("a model"):
        body["tools"] = TOOLS
    if streamed and path != "/completion":
        body["stream_options"] = {"include_usage": True}
    response = await client.post(path, json=body)
    answer = Answer(response.status_code, response.text, retry_after=response.headers.get("retry-after"))
    if response.headers["content-type"].startswith("text/event-stream"):
        blocks = [block for block in response.text.split("\n\n") if block.startswith("data: {")]
        objects = [json.loads(block[6:]) for block in blocks]
    else:
        objects = [response.json()]
    for each in objects:
        read_native(answer, each) if path == "/completion" else read_openai(answer, each)
    return answer


def read_native(answer: Answer, body: dict[str, Any]) -> None:
    answer.text += body.get("content", "") + body.get("response", "")
    metadata = body.get("metadata", {})
    answer.error = body.get("error") or metadata.get("error")
    answer.usage = metadata.get("usage") or body.get("usage") or {}
    answer.estimated = metadata.get("impact", {}).get("estimated")


def read_openai(answer: Answer, body: dict[str, Any]) -> None:
    answer.error = body.get("error")
    answer.usage = body.get("usage") or answer.usage
    for choice in body.get("choices", ()):
        content = choice.get("delta") or choice.get("message") or {}
        answer.text += content.get("content") or ""
        answer.reason = choice["finish_reason"] or answer.reason
        answer.message |= {key: value for key, value in content.items() if key not in {"content", "tool_calls"}}
        for position, fragment in enumerate(content.get("tool_calls") or ()):
            index = fragment.get("index", position)
            if index == len(answer.calls):
                answer.calls.append({**fragment, "function": dict(fragment["function"])})
            else:
                answer.calls[index]["function"]["arguments"] += fragment["function"]["arguments"]


def event(delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [choice], "model": "m", **more}).encode() + b"\n\n"


def text(piece: str, reason: str | None = None) -> bytes:
    return event({"content": piece}, reason)


def weather(city: str, call_id: str | None, **more: Any) -> dict[str, Any]:
    function = {"name": "weather", "arguments": json.dumps({"city": city})}
    return {"id": call_id, "type": "function", "function": function, **more}


STOP, DONE = event({}, "stop"), b"data: [DONE]\n\n"
WHOLE = json.dumps(
    {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Bonjour"}, "finish_reason": "stop"}]}
).encode()
JSON, PLAIN = ContentType("application/json"), ContentType("text/plain")

ANSWERS: dict[str, list[Step]] = {
    "events": [Chunk(text("Bon") + text("jour") + STOP + DONE)],
    "events in a plain text": [PLAIN, Chunk(text("Bon") + text("jour") + STOP + DONE)],
    "events in octets": [ContentType("application/octet-stream"), Chunk(text("Bonjour") + STOP)],
    "events called JSON": [JSON, Chunk(text("Bon") + text("jour") + STOP + DONE)],
    "a whole object": [JSON, Chunk(WHOLE)],
    "a whole object called events": [ContentType("text/event-stream"), Chunk(WHOLE)],
    "a whole object and done": [JSON, Chunk(WHOLE + b"\n\n" + DONE)],
    "no blank line at the end": [Chunk(text("Bon")), Chunk((text("jour") + STOP).rstrip())],
    "a finish reason on every event": [Chunk(text("Bon", "stop")), Chunk(text("jour", "stop")), Chunk(DONE)],
    "carriage returns": [Chunk((text("Bon") + text("jour") + STOP).replace(b"\n", b"\r"))],
}


@EVERY_DOOR
@pytest.mark.parametrize("script", ANSWERS.values(), ids=ANSWERS.keys())
async def test_an_answer_is_the_same_in_every_form(
    client: httpx.AsyncClient, provider: ScriptedProvider, door: str, script: list[Step]
) -> None:
    play(provider, script)
    answer = await call(client, door)
    assert (answer.status, answer.text, answer.error) == (200, "Bonjour", None)
    assert answer.reason == (None if door.startswith("natively") else "stop")


@EVERY_DOOR
async def test_an_emoji_in_two_events_is_one(client: httpx.AsyncClient, provider: ScriptedProvider, door: str) -> None:
    halves = b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n'
    play(provider, [Chunk(halves % b"a\\ud83d"), Chunk(halves % b"\\ude00" + halves % b"b\\ud83d" + STOP)])
    assert (await call(client, door)).text == "a😀b\ufffd"


CALLS: dict[str, list[bytes]] = {
    "without index": [event({"tool_calls": [weather("Paris", "a")]}), event({"tool_calls": [weather("Rome", "b")]})],
    "both index 0": [
        event({"tool_calls": [weather("Paris", "a", index=0)]}),
        event({"tool_calls": [weather("Rome", "b", index=0)]}),
    ],
    "in one event": [event({"tool_calls": [weather("Paris", "a"), weather("Rome", "b")]})],
    "repeated": [
        event({"tool_calls": [weather("Paris", "a")]}),
        event({"tool_calls": [weather("Paris", "a")]}),
        event({"tool_calls": [weather("Rome", "b")]}),
    ],
    "without ids": [event({"tool_calls": [weather("Paris", None)]}), event({"tool_calls": [weather("Rome", None)]})],
}


@MODEL_DOORS
@pytest.mark.parametrize("reason", ["tool_calls", "stop", "eos", "function_call"])
@pytest.mark.parametrize("events", CALLS.values(), ids=CALLS.keys())
async def test_two_tool_calls_arrive_as_two_and_are_to_be_made(
    client: httpx.AsyncClient, provider: ScriptedProvider, door: str, events: list[bytes], reason: str
) -> None:
    play(provider, [*map(Chunk, events), Chunk(event({}, reason) + DONE)])
    answer = await call(client, door)
    functions = [tool_call["function"] for tool_call in answer.calls]
    assert functions == [weather("Paris", "")["function"], weather("Rome", "")["function"]]
    assert len({tool_call["id"] for tool_call in answer.calls}) == 2
    assert all(tool_call["id"] and tool_call["type"] == "function" for tool_call in answer.calls)
    assert answer.reason == "tool_calls"


@MODEL_DOORS
@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_reasoning_reaches_the_caller_under_either_of_its_names(
    client: httpx.AsyncClient, provider: ScriptedProvider, door: str, name: str
) -> None:
    play(provider, [Chunk(event({name: "Hm."}) + text("Oui") + STOP)])
    answer = await call(client, door)
    assert (answer.message["reasoning_content"], answer.text) == ("Hm.", "Oui")
    assert answer.message["reasoning"] == "Hm.", "whichever name the provider used"


@MODEL_DOORS
async def test_what_only_the_vendor_knows_reaches_the_caller(
    client: httpx.AsyncClient, provider: ScriptedProvider, door: str
) -> None:
    signature = {"google": {"thought_signature": "c2ln"}}
    annotations = [{"type": "url_citation", "url_citation": {"url": "https://example.org"}}]
    first = event({"annotations": annotations, "tool_calls": [weather("Paris", "a", extra_content=signature)]})
    play(provider, [Chunk(first), Chunk(event({"provider_specific_fields": {"x": 1}}, "tool_calls"))])
    answer = await call(client, door)
    assert answer.calls[0]["extra_content"] == signature
    assert answer.message["annotations"] == annotations
    assert answer.message["provider_specific_fields"] == {"x": 1}


# Errors under status 200

WORDS = "the prompt is not allowed here"
ERRORS: dict[str, bytes] = {
    "an object with a code": json.dumps({"error": {"message": WORDS, "code": 402}}).encode(),
    "an object that says so": json.dumps({"object": "error", "message": WORDS, "code": 400}).encode(),
}
FORMS: dict[str, Callable[[bytes], bytes]] = {
    "as a body": lambda error: error,
    "as the first event": lambda error: b"data: " + error + b"\n\n",
    "as a field": lambda error: b"error: " + error + b"\n\n",
    "as a typed event": lambda error: b"event: error\ndata: " + error,
}


@EVERY_DOOR
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
async def test_an_error_under_status_200_reaches_the_caller_in_the_providers_words(
    client: httpx.AsyncClient, provider: ScriptedProvider, door: str, form: Callable[[bytes], bytes], error: bytes
) -> None:
    play(provider, [JSON, Chunk(form(error))])
    answer = await call(client, door)
    assert (answer.text, answer.reason) == ("", None)
    assert answer.error is not None
    assert WORDS in answer.error["message"]


@EVERY_DOOR
async def test_an_error_in_the_middle_reaches_the_caller_in_the_providers_words(
    client: httpx.AsyncClient, provider: ScriptedProvider, door: str
) -> None:
    play(provider, [Chunk(text("Bon") + b'data: {"error": {"message": "%b", "code": 400}}\n\n' % WORDS.encode())])
    answer = await call(client, door)
    assert answer.error is not None
    assert WORDS in answer.error["message"]
    assert answer.reason is None


@EVERY_DOOR
async def test_a_used_up_quota_has_its_own_code_and_is_called_once(
    client: httpx.AsyncClient, provider: ScriptedProvider, door: str
) -> None:
    error = {"error": {"message": "check your plan", "code": "insufficient_quota"}}
    play(provider, [Status(429, error, (("Retry-After", "2"),))])
    answer = await call(client, door)
    assert (answer.status, answer.retry_after) == (429, None), "no other try can succeed"
    assert answer.error is not None
    assert answer.error["code"] == answer.error.get("type", "insufficient_quota") == "insufficient_quota"
    assert "check your plan" in answer.error["message"]


BROKEN: dict[str, bytes] = {
    "no JSON": b"data: {oops\n\n",
    "a delta that is none": event(5),  # type: ignore[arg-type]
    "calls that are none": event({"tool_calls": [5]}),
    "a content that is none": event({"content": 5}),
    "log probabilities that are none": event({"content": "a"}, "stop", choices=5),
    "cut": text("Bon")[:20],
    "a page": b"<html><body>busy</body></html>",
}


@EVERY_DOOR
@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN.keys())
async def test_no_message_to_a_caller_names_a_class_of_python(
    client: httpx.AsyncClient, provider: ScriptedProvider, door: str, body: bytes
) -> None:
    # What the caller has begun to read is not tried again; of what is read whole, nothing has been given.
    attempts = ATTEMPTS if body.startswith(b"<") or door.endswith("whole") else 1
    play(provider, *[[Chunk(body if body.startswith(b"<") else text("Bon") + body)]] * attempts)
    answer = await call(client, door)
    assert answer.error is not None
    assert not re.search(r"\b[A-Z]\w*(Error|Exception|Timeout|Disconnected)\b|Payload", answer.raw), answer.raw


# Usage

USAGES: dict[str, tuple[Any, int | None, int | None, bool]] = {
    "whole": ({"prompt_tokens": 30, "completion_tokens": 5, "total_tokens": 35}, 30, 5, False),
    "in words": ({"prompt_tokens": "30", "completion_tokens": "5"}, 30, 5, False),
    "total and output": ({"completion_tokens": 5, "total_tokens": 35}, 30, 5, False),
    "output alone": ({"completion_tokens": 5}, None, 5, True),
    "output beside null": (
        {"prompt_tokens": None, "completion_tokens": 5, "prompt_tokens_details": None},
        None,
        5,
        True,
    ),
    "input alone": ({"prompt_tokens": 30}, 30, None, True),
    "total alone": ({"total_tokens": 35}, None, None, True),
    "negative": ({"prompt_tokens": -1, "completion_tokens": 5}, None, 5, True),
    "zero": ({"prompt_tokens": 0, "completion_tokens": 5}, None, 5, True),
    "no object": (5, None, None, True),
}


@EVERY_DOOR
@pytest.mark.parametrize(("usage", "read", "written", "estimated"), USAGES.values(), ids=USAGES.keys())
async def test_a_figure_that_was_not_counted_is_estimated_and_never_0(
    client: httpx.AsyncClient,
    provider: ScriptedProvider,
    door: str,
    usage: Any,
    read: int | None,
    written: int | None,
    estimated: bool,
) -> None:
    last = b'data: {"choices": [], "usage": %b}\n\n' % json.dumps(usage).encode()
    play(provider, [Chunk(text("Bon") + text("jour") + STOP + last + DONE)])
    answer = await call(client, door)
    assert answer.text == "Bonjour"
    content = answer.usage
    found = [
        content.get("prompt_tokens", content.get("input_tokens")),
        content.get("completion_tokens", content.get("output_tokens")),
    ]
    assert all(figure > 0 for figure in found)
    assert [figure for figure, due in zip(found, (read, written), strict=True) if due is not None] == [
        due for due in (read, written) if due is not None
    ]
    assert sum(found) == content["total_tokens"]
    if answer.estimated is not None:
        assert answer.estimated is estimated
