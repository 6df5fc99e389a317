"""Spark through /v1: the caller's own credentials in three headers, a version, and what the vendor tells besides."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.openai.spark_headers import spark_credentials
from domain.errors import BadRequest
from tests.live_server import live_server
from tests.openai_wire import check_chunks, check_openai_error, hello, objects_of, text_of
from tests.postgres_for_tests import folder
from tests.spark_server import API_KEY, API_SECRET, APP_ID, SparkServer, refuse, say, spark_server

VALUES = {"X_APP_ID": APP_ID, "X_API_SECRET": API_SECRET, "X_API_KEY": API_KEY}


def as_sent(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


@given(st.tuples(*[st.lists(st.sampled_from("_-"), min_size=2, max_size=2)] * 3))
def test_every_spelling_of_the_headers_is_understood(separators: tuple[list[str], ...]) -> None:
    spelled = {
        "{0[0]}{1[0]}{0[1]}{1[1]}{0[2]}".format(name.split("_"), between): value
        for (name, value), between in zip(VALUES.items(), separators, strict=True)
    }
    credentials = spark_credentials(as_sent(spelled), needed=True)
    assert credentials is not None
    assert credentials.app_id == APP_ID
    assert credentials.api_secret.get_secret_value() == API_SECRET
    assert credentials.api_key.get_secret_value() == API_KEY


def test_some_of_three_are_an_error_where_spark_is_asked_and_nothing_elsewhere() -> None:
    partial = as_sent({"X-API-Key": "a gateway's own"})
    assert spark_credentials(partial, needed=False) is None
    with pytest.raises(BadRequest, match="X_APP_ID is missing"):
        spark_credentials(partial, needed=True)
    assert spark_credentials([(b"accept", b"*/*")], needed=True) is None


@pytest.fixture
async def spark() -> AsyncIterator[tuple[httpx.AsyncClient, SparkServer]]:
    """A server without credentials of its own, and the vendor behind it."""

    def answer(question: dict[str, Any]) -> Any:
        text = question["payload"]["message"]["text"][-1]["content"]
        return [refuse(11200, "no licence")] if text == "refuse" else say("Ni", " hao")

    async with spark_server(answer=answer) as vendor:
        urls = {"SPARK_BASE_URL": vendor.base_url, "SPARK_VISION_BASE_URL": vendor.base_url}
        with folder() as data_dir, live_server(data_dir, database=False, **urls) as server:
            async with server.client(headers=VALUES) as client:
                yield client, vendor


async def test_a_caller_asks_with_credentials_of_its_own(spark: tuple[httpx.AsyncClient, SparkServer]) -> None:
    client, vendor = spark
    whole = await client.post("/v1/chat/completions", json=hello("spark-api", version="v3.1"))
    content = whole.json()
    assert content["choices"][0]["message"]["content"] == "Ni hao"
    assert (content["version"], content["domain"]) == ("v3.1", "generalv3")
    assert content["usage"]["question_tokens"] == 4
    streamed = await client.post(
        "/v1/chat/completions", json=hello("spark-api", stream=True, stream_options={"include_usage": True})
    )
    chunks = objects_of(streamed.content)
    last = chunks[-1]
    check_chunks(list(chunks), include_usage=True)
    assert text_of(chunks) == "Ni hao"
    assert (last["version"], last["domain"], last["usage"]["question_tokens"]) == ("v1.1", "general", 4)
    assert vendor.paths == ["/v3.1/chat", "/v1.1/chat"]
    refused = await client.post("/v1/chat/completions", json=hello("spark-api", messages=[user("refuse")]))
    check_openai_error(refused, 403, "credential_not_allowed")
    without = dict.fromkeys(VALUES, "")
    missing = await client.post("/v1/chat/completions", json=hello("spark-api"), headers=without)
    assert "X_APP_ID" in check_openai_error(missing, 503, "model_unavailable")


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}
