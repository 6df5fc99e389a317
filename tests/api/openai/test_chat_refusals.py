"""What /v1 refuses, and how it says so: OpenAI's error object, whatever went wrong and wherever."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live_server import LiveServer, live_server
from tests.openai_wire import JSON, check_openai_error, hello
from tests.provider_thread import play
from tests.scripted_provider import ScriptedProvider, Status, finish, say

BODY_LIMIT = 200_000
CHAT = "/v1/chat/completions"
TOOL = {"type": "function", "function": {"name": "f"}}
IMAGE = [{"type": "image_url", "image_url": {"url": "x"}}]


def saying(content: Any, role: str = "user", **more: Any) -> list[dict[str, Any]]:
    return [{"role": role, "content": content, **more}]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"temperature": 3}, "temperature", "from 0 to 2 (got 3)"),
        ({"temperature": True}, "temperature", "a number"),
        ({"top_p": "1"}, "top_p", "a number"),
        ({"n": 0}, "n", "from 1 to 8"),
        ({"n": 9}, "n", "from 1 to 8"),
        ({"max_tokens": 0}, "max_tokens", "whole number"),
        ({"stream": "yes"}, "stream", "true or false"),
        ({"stop": [1]}, "stop", "list of strings"),
        ({"top_logprobs": 2}, "top_logprobs", "logprobs: true"),
        ({"tools": [{"type": "retrieval"}]}, "tools", "function"),
        ({"tool_choice": "required"}, "tool_choice", "send `tools` too"),
        ({"tools": [TOOL], "tool_choice": "f"}, "tool_choice", '"auto"'),
        ({"tools": [TOOL], "model": "gpt-6.1-sol"}, "tools", "has no tools"),
        ({"response_format": {"type": "yaml"}}, "response_format", "json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema"),
        ({"functions": [{"name": "f"}]}, "functions", "`tools`"),
        ({"modalities": ["text", "audio"]}, "modalities", "sound"),
        ({"metadata": {"a": "b" * 600}}, "metadata", "characters"),
        ({"model": 4}, "model", "a string"),
        ({"messages": []}, "messages", "at least one"),
        ({"messages": "Hi"}, "messages", "a list"),
        ({"messages": ["Hi"]}, "messages.0", "an object"),
        ({"messages": saying("Hi", "robot")}, "messages.0.role", "developer"),
        ({"messages": saying("Hi", "function")}, "messages.0.role", "tool"),
        ({"messages": saying(None)}, "messages.0.content", "missing"),
        ({"messages": saying(4)}, "messages.0.content", "a string or a list of parts"),
        ({"messages": saying([])}, "messages.0.content", "list of parts"),
        ({"messages": saying([{"type": "text"}])}, "messages.0.content.0", "text"),
        ({"messages": saying([{"type": "input_audio"}])}, "messages.0.content.0", "not served"),
        ({"messages": saying(IMAGE, "system")}, "messages.0.content.0", "only messages of role user"),
        ({"messages": saying(IMAGE)}, "messages.0.content.0.image_url", "https"),
        ({"messages": saying("4", "tool")}, "messages.0.tool_call_id", "call"),
        ({"messages": saying(None, "assistant", tool_calls=[{"id": 1}])}, "messages.0.tool_calls.0", "arguments"),
        ({"messages": saying("Hi") * 22}, "messages", "MAX_HISTORY_MESSAGES"),
    ],
)
async def test_a_field_that_does_not_hold_is_refused_by_its_name(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str, words: str
) -> None:
    answer = await client.post(CHAT, json=hello() | fields)
    assert words in check_openai_error(answer, 400, "invalid_parameter", param)


@pytest.mark.parametrize(
    "url",
    ["http://example.com/a.png", "https://127.0.0.1/a.png", "https://169.254.169.254/latest", "file:///etc/passwd"],
)
async def test_an_image_is_never_fetched_from_where_it_should_not_be(client: httpx.AsyncClient, url: str) -> None:
    content = saying([{"type": "image_url", "image_url": {"url": url}}])
    answer = await client.post(CHAT, json=hello(messages=content))
    check_openai_error(answer, 400, "invalid_parameter", "messages.0.content.0.image_url")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [TOOL]),
        ("logprobs", True),
        ("stop", "\n"),
        ("seed", 0),
        ("response_format", {"type": "json_object"}),
        ("logit_bias", {"50256": -100}),
    ],
)
async def test_an_agent_refuses_by_name_what_it_would_have_to_drop(
    client: httpx.AsyncClient, name: str, value: Any
) -> None:
    answer = await client.post(CHAT, json=hello("V2", **{name: value}))
    assert "'V2'" in check_openai_error(answer, 400, "invalid_parameter", name)


@pytest.mark.parametrize("name", ["gpt-9", "agent:V9", "V2@gpt-9", "V9@gpt-4o", "mistral-embed", "@", "agent:"])
async def test_a_name_of_nothing_is_404_with_openais_code(client: httpx.AsyncClient, name: str) -> None:
    for stream in (True, False):
        answer = await client.post(CHAT, json=hello(name, stream=stream))
        check_openai_error(answer, 404, "model_not_found", "model")


async def test_a_model_without_its_key_says_which_setting_and_is_not_worth_retrying(client: httpx.AsyncClient) -> None:
    answer = await client.post(CHAT, json=hello("mistral-large-latest"))
    assert "MISTRALAI_API_KEY" in check_openai_error(answer, 503, "model_unavailable")
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("stream", [True, False])
async def test_an_agent_that_answers_from_a_project_needs_one(client: httpx.AsyncClient, stream: bool) -> None:
    answer = await client.post(CHAT, json=hello("RAG", stream=stream))
    assert "project_id" in check_openai_error(answer, 400, "bad_request")


async def test_what_is_for_agents_is_passed_over_where_a_model_answers(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, [*say("Oui"), *finish()])
    fields = {"project_id": "p", "sources": ["d"], "thread_id": "t"}
    answer = await client.post(CHAT, json=hello("gpt-4o", **fields))
    assert answer.json()["choices"][0]["message"]["content"] == "Oui"
    assert not fields.keys() & provider.requests[0].keys()


@pytest.mark.parametrize("body", [b"", b"{", b'{"model": "\\ud83d"}', b"[1]", b'"text"', b"\xff"])
async def test_a_body_that_is_no_json_object_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    assert "body" in check_openai_error(await client.post(CHAT, content=body, headers=JSON), 400, "bad_request")


async def test_a_body_of_another_type_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post(CHAT, content=b"{}", headers={"Content-Type": "text/plain"})
    assert "application/json" in check_openai_error(answer, 415, "unsupported_media_type")


async def test_a_body_over_the_limit_is_refused_with_and_without_its_length(client: httpx.AsyncClient) -> None:
    async def chunks() -> Any:
        for _ in range(8):
            yield b" " * (BODY_LIMIT // 4)

    for content in (b" " * (BODY_LIMIT + 1), chunks()):
        answer = await client.post(CHAT, content=content, headers=JSON)
        assert "MAX_BODY_BYTES" in check_openai_error(answer, 413, "payload_too_large")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nowhere", 404, "unknown_url"),
        ("POST", "/v1/completions", 404, "unknown_url"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
    ],
)
async def test_a_route_that_does_not_exist_is_told_in_the_same_shape(
    client: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    check_openai_error(await client.request(method, path), status, code)


@pytest.mark.parametrize("credential", [None, "Bearer", "Bearer sk-wrong", "Basic abc", "Bearer a.b.c"])
@pytest.mark.parametrize(("method", "path"), [("POST", CHAT), ("GET", "/v1/models"), ("POST", "/v1/embeddings")])
async def test_a_wrong_key_is_401_at_every_route(
    server: LiveServer, method: str, path: str, credential: str | None
) -> None:
    headers = {} if credential is None else {"Authorization": credential}
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as anybody:
        answer = await anybody.request(method, path, headers=headers, json=hello() if method == "POST" else None)
    check_openai_error(answer, 401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_the_callers_request_id_is_kept_on_errors_too(client: httpx.AsyncClient) -> None:
    answer = await client.post(CHAT, json={}, headers={"X-Request-ID": "mine-1"})
    assert answer.headers.get_list("x-request-id") == ["mine-1"]


def test_an_api_key_opens_the_door_outside_development(tmp_path: Path) -> None:
    key = "k" * 40
    environment = {"ENVIRONMENT": "production", "JWT_SECRET_KEY": "s" * 40, "API_KEYS": f"backend:{key}"}
    with live_server(tmp_path, database=False, **environment) as server:
        url = f"{server.url}/v1/models"
        answer = httpx.get(url, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=30)
        assert answer.status_code == 200
        check_openai_error(httpx.get(url, trust_env=False, timeout=30), 401, "invalid_api_key")


async def test_a_too_long_conversation_has_the_code_that_clients_look_for(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    # As often as the router looks for a model with more room.
    provider.compose = lambda _: [Status(400, {"error": {"code": "context_length_exceeded", "message": "too long"}})]
    try:
        check_openai_error(await client.post(CHAT, json=hello()), 400, "context_length_exceeded")
    finally:
        provider.compose = None
