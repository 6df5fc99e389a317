"""POST /completion refuses by name what it cannot do, in one shape."""

from typing import Any

import httpx
import pytest

from tests.api_errors import check_error, problems_by_field
from tests.live_server import LiveServer
from tests.scripted_provider import ScriptedProvider

HISTORY_LIMIT = 20


async def refused(client: httpx.AsyncClient, status: int, code: str, **body: Any) -> str:
    """The message of a refusal."""
    answer = await client.post("/completion", json={"message": "Raconte."} | body)
    return check_error(answer, status, code)


async def test_an_unknown_agent_is_named_with_the_known_ones(client: httpx.AsyncClient) -> None:
    message = await refused(client, 400, "unknown_agent", agent="V9")
    assert "'V9'" in message
    assert "V2" in message


async def test_an_unknown_model_is_named_with_the_known_ones(client: httpx.AsyncClient) -> None:
    message = await refused(client, 400, "unknown_model", model="gpt-0")
    assert "'gpt-0'" in message
    assert "gpt-4o" in message


async def test_an_agent_that_answers_from_a_project_needs_one(client: httpx.AsyncClient) -> None:
    assert "project_id" in await refused(client, 400, "bad_request", agent="RAG")
    assert "project_id" in await refused(client, 400, "bad_request", agent="V2", sources=["d1"])


async def test_a_project_needs_the_database(client: httpx.AsyncClient) -> None:
    await refused(client, 503, "database_unavailable", agent="RAG", project_id="p")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_model_without_its_key_names_the_setting(client: httpx.AsyncClient, stream: bool) -> None:
    message = await refused(client, 503, "model_unavailable", model="mistral-small-latest", stream=stream)
    assert "MISTRALAI_API_KEY" in message


@pytest.mark.parametrize("message", ["", " ", "\n\t "])
async def test_an_empty_message_is_refused(client: httpx.AsyncClient, message: str) -> None:
    assert "message" in await refused(client, 400, "bad_request", message=message)


async def test_unknown_fields_are_refused_by_name(client: httpx.AsyncClient) -> None:
    body = {"message": "a", "temprature": 1, "conversation_history": [{"role": "user", "content": "a", "name": "b"}]}
    answer = await client.post("/completion", json=body)
    assert "temprature" in check_error(answer, 400, "invalid_request")
    assert set(problems_by_field(answer)) == {"temprature", "conversation_history.0.name"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("message", 1),
        ("message", None),
        ("message", ["a"]),
        ("temperature", "x"),
        ("temperature", 3),
        ("temperature", -0.1),
        ("temperature", True),
        ("stream", "yes"),
        ("stream", 1),
        ("events", "no"),
        ("model", ""),
        ("model", 4),
        ("agent", None),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("conversation_history", "a"),
        ("project_id", "a\x00b"),
        ("sources", "a"),
    ],
)
async def test_a_wrong_value_is_refused_and_shown(client: httpx.AsyncClient, field: str, value: object) -> None:
    answer = await client.post("/completion", json={"message": "Raconte.", field: value})
    check_error(answer, 400, "invalid_request")
    assert repr(value) in problems_by_field(answer)[field]


async def test_a_label_that_is_no_text_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/completion", json={"message": "a", "metadata": {"team": 1}})
    check_error(answer, 400, "invalid_request")
    assert set(problems_by_field(answer)) == {"metadata.team"}


async def test_a_role_that_does_not_exist_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/completion", json={"message": "a", "conversation_history": [{"role": "tool", "content": "b"}]}
    )
    check_error(answer, 400, "invalid_request")
    assert "'tool'" in problems_by_field(answer)["conversation_history.0.role"]


async def test_a_missing_message_is_named(client: httpx.AsyncClient) -> None:
    answer = await client.post("/completion", json={})
    check_error(answer, 400, "invalid_request")
    assert set(problems_by_field(answer)) == {"message"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cache", True),
        ("cache", {"ttl": 1}),
    ],
)
async def test_what_does_not_work_yet_is_refused_by_name(client: httpx.AsyncClient, field: str, value: object) -> None:
    assert (await refused(client, 400, "not_supported_yet", **{field: value})).startswith(field)


async def test_what_belongs_to_a_thread_or_a_project_is_refused_without_one(client: httpx.AsyncClient) -> None:
    assert "thread_id" in await refused(client, 400, "bad_request", resume={"answer": "yes"})
    assert "thread_id" in await refused(client, 400, "bad_request", message="", resume=None)
    assert "thread_id" in await refused(client, 400, "bad_request", message=None, resume=None)
    assert "sources" in await refused(client, 400, "bad_request", sources=["d1"])
    assert await refused(client, 400, "invalid_request", thread_id="")


async def test_a_thread_needs_the_database(client: httpx.AsyncClient) -> None:
    assert "conversation_history" in await refused(client, 503, "database_unavailable", thread_id="a")


async def test_a_refusal_never_repeats_a_long_value(client: httpx.AsyncClient) -> None:
    assert len(await refused(client, 400, "not_supported_yet", cache="x" * 10_000)) < 400
    assert len(await refused(client, 400, "invalid_request", stream="x" * 10_000)) < 400


async def test_a_history_of_too_many_messages_is_refused(client: httpx.AsyncClient) -> None:
    history = [{"role": "user", "content": "a"}] * (HISTORY_LIMIT + 1)
    assert "MAX_HISTORY_MESSAGES" in await refused(client, 400, "bad_request", conversation_history=history)


async def test_too_many_labels_are_refused(client: httpx.AsyncClient) -> None:
    assert "metadata" in await refused(client, 400, "bad_request", metadata={str(i): "a" for i in range(33)})
    assert "metadata" in await refused(client, 400, "bad_request", metadata={"a": "b" * 600})


@pytest.mark.parametrize("content", ["{", "", "nothing", '{"message": "a"', "[1,]", '{"message": "a"} b'])
async def test_malformed_json_is_refused(client: httpx.AsyncClient, content: str) -> None:
    answer = await client.post("/completion", content=content, headers={"Content-Type": "application/json"})
    check_error(answer, 400, "invalid_request")


@pytest.mark.parametrize("content", ["[]", '"a"', "1", "null"])
async def test_json_that_is_no_object_is_refused(client: httpx.AsyncClient, content: str) -> None:
    answer = await client.post("/completion", content=content, headers={"Content-Type": "application/json"})
    check_error(answer, 400, "invalid_request")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None]
)
async def test_a_body_that_is_not_declared_as_json_is_unsupported_media(
    client: httpx.AsyncClient, content_type: str | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = await client.post("/completion", content=b'{"message": "a"}', headers=headers)
    assert "application/json" in check_error(answer, 415, "unsupported_media_type")


async def test_json_may_be_declared_with_its_charset(client: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    answer = await client.post("/completion", content=b'{"message": ""}', headers=headers)
    check_error(answer, 400, "bad_request")


async def test_without_a_credential_nothing_is_asked_of_a_provider(
    server: LiveServer, provider: ScriptedProvider
) -> None:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as stranger:
        answer = await stranger.post("/completion", json={"message": "a"})
    assert "Bearer" in check_error(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert provider.requests == []
