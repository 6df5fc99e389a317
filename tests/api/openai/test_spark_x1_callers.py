"""Spark X1 through /v1: over HTTP, with the caller's own credentials, streamed and whole."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest

from tests.live_server import live_server
from tests.openai_wire import (
    check_chunks,
    check_openai_error,
    hello,
    objects_of,
    objects_of_a_failed_stream,
    text_of,
)
from tests.postgres_for_tests import folder
from tests.spark_http_server import DONE, USAGE, SparkHttpServer, Step, begin, coded, event, say, spark_http_server
from tests.spark_server import API_KEY, API_SECRET, APP_ID

VALUES = {"X-APP-ID": APP_ID, "X-API-SECRET": API_SECRET, "X-API-KEY": API_KEY}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
SCRIPTS: dict[str, Sequence[Step]] = {
    "Raconte.": [event(reasoning_content="Hm"), *say("Ni", " hao")],
    "use a tool": [event(USAGE, tool_calls=[CALL]), DONE],
    "be refused": [coded(11200, "no licence")],
    "be audited": [*begin("Once"), coded(10014)],
    "break": [*begin("Once"), coded(10012)],
}


@pytest.fixture
async def x1() -> AsyncIterator[tuple[httpx.AsyncClient, SparkHttpServer]]:
    """A server without credentials of its own, and the vendor behind it."""
    async with spark_http_server(answer=lambda body: SCRIPTS[body["messages"][-1]["content"]]) as vendor:
        with (
            folder() as data_dir,
            live_server(data_dir, database=False, SPARK_HTTP_BASE_URL=vendor.base_url) as server,
        ):
            async with server.client(headers=VALUES) as client:
                yield client, vendor


def asked(text: str, **fields: Any) -> dict[str, Any]:
    return hello("x1", messages=[{"role": "user", "content": text}], **fields)


async def test_a_caller_asks_x1_with_credentials_of_its_own(x1: tuple[httpx.AsyncClient, SparkHttpServer]) -> None:
    client, vendor = x1
    path = "/v1/chat/completions"
    await check_whole(client, path)
    assert vendor.asked["max_tokens"] == 77
    await check_streamed(client, path)
    called = await client.post(path, json=asked("use a tool", tools=[TOOL]))
    choice = called.json()["choices"][0]
    assert (choice["finish_reason"], choice["message"]["tool_calls"][0]["id"]) == ("tool_calls", "call_1")
    refused = await client.post(path, json=asked("be refused"))
    check_openai_error(refused, 403, "credential_not_allowed")
    audited = objects_of((await client.post(path, json=asked("be audited", stream=True))).content)
    assert (text_of(audited), audited[-1]["choices"][0]["finish_reason"]) == ("Once", "content_filter")
    broken, error = objects_of_a_failed_stream((await client.post(path, json=asked("break", stream=True))).content)
    assert (text_of(broken), error["error"]["code"]) == ("Once", "provider_refused")
    missing = await client.post(path, json=hello("x1"), headers=dict.fromkeys(VALUES, ""))
    assert "SPARK_API_KEY" in check_openai_error(missing, 503, "model_unavailable")
    partial = await client.post(path, json=hello("x1"), headers={"X-APP-ID": ""})
    assert "X_APP_ID" in check_openai_error(partial, 400, "bad_request")
    assert set(vendor.bearers) == {f"Bearer {API_KEY}:{API_SECRET}"}


async def check_whole(client: httpx.AsyncClient, path: str) -> None:
    whole = await client.post(path, json=hello("x1", max_completion_tokens=77, version="v3.1", top_p=0.5))
    content = whole.json()
    choice = content["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Ni hao", "stop")
    assert choice["message"]["reasoning_content"] == "Hm"
    assert (content["model"], content["domain"]) == ("x1", "x1")
    assert "version" not in content
    assert content["usage"] == USAGE


async def check_streamed(client: httpx.AsyncClient, path: str) -> None:
    streamed = await client.post(path, json=hello("x1", stream=True, stream_options={"include_usage": True}))
    chunks = objects_of(streamed.content)
    thought = [part["delta"].get("reasoning_content") for chunk in chunks for part in chunk["choices"]]
    assert [piece for piece in thought if piece] == ["Hm"]
    assert chunks[-1]["usage"] == USAGE
    assert text_of(chunks) == "Ni hao"
    check_chunks(chunks, include_usage=True)
