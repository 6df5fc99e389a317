"""POST /v1/embeddings: vectors in OpenAI's format, refused by the field that does not hold."""

import asyncio
import base64
import json
from array import array
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.embeddings_server import Said, Silence, embeddings_server, vectors
from tests.live_server import LiveServer, live_server, wait_until
from tests.openai_wire import check_openai_error
from tests.scripted_provider import API_KEY

LOCAL = "use-multilingual-v3"


async def embed(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post("/v1/embeddings", json={"model": LOCAL, "input": "Le chat dort.", **body})


async def test_the_answer_has_openais_fields_and_our_impact(client: httpx.AsyncClient) -> None:
    content = (await embed(client, input=["Le chat dort.", "The cat sleeps.", "La bourse a chuté."])).json()
    assert set(content) == {"object", "data", "model", "usage", "impact"}
    assert (content["object"], content["model"]) == ("list", LOCAL)
    assert [item["index"] for item in content["data"]] == [0, 1, 2]
    assert all(set(item) == {"object", "index", "embedding"} for item in content["data"])
    cat, same, other = (item["embedding"] for item in content["data"])
    assert closeness(cat, same) > closeness(cat, other)
    assert content["usage"]["total_tokens"] == content["usage"]["prompt_tokens"] > 0
    assert content["impact"]["cost_eur"] == 0.0
    assert content["impact"]["gwp_kgCO2eq"]["mean"] > 0


def closeness(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_base64_holds_the_same_numbers(client: httpx.AsyncClient) -> None:
    (text,) = (await embed(client, encoding_format="base64")).json()["data"]
    (numbers,) = (await embed(client, encoding_format="float")).json()["data"]
    assert array("f", base64.b64decode(text["embedding"])).tolist() == pytest.approx(numbers["embedding"], abs=1e-6)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"input": [1, 2, 3]}, "input", "send the text"),
        ({"input": [[1, 2], [3]]}, "input", "send the text"),
        ({"input": []}, "input", "a list of strings"),
        ({"input": None}, "input", "a list of strings"),
        ({"input": ["a", 1]}, "input", "a list of strings"),
        ({"model": None}, "model", "GET /v1/models"),
        ({"encoding_format": "int8"}, "encoding_format", "base64"),
        ({"encoding_format": ["float"]}, "encoding_format", "base64"),
        ({"dimensions": 0}, "dimensions", "from 1"),
    ],
)
async def test_a_field_that_does_not_hold_is_refused_by_its_name(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str, words: str
) -> None:
    assert words in check_openai_error(await embed(client, **fields), 400, "invalid_parameter", param)


async def test_what_the_model_cannot_do_is_refused(client: httpx.AsyncClient) -> None:
    check_openai_error(await embed(client, dimensions=16), 400, "bad_request")
    check_openai_error(await embed(client, input="  "), 400, "bad_request")
    check_openai_error(await embed(client, model="gpt-4o"), 404, "model_not_found", "model")


async def test_a_hosted_model_is_asked_priced_and_given_up_when_the_client_leaves(tmp_path: Path) -> None:
    async with embeddings_server(vectors, Said({"error": {"message": "no"}}, 401), Silence()) as provider:
        environment = {"OPENAI_API_KEY": API_KEY, "OPENAI_BASE_URL": provider.base_url}
        with live_server(tmp_path, database=False, **environment) as server:
            await check_hosted(server)
            async with server.client() as client:
                going = asyncio.create_task(embed(client, model="text-embedding-3-small"))
                await asyncio.to_thread(wait_until, lambda: len(provider.requests) == 3, 30, "the provider is asked")
                going.cancel()
                await asyncio.wait_for(provider.left_early.wait(), 30)
            await asyncio.to_thread(wait_until, lambda: len(statuses(server)) == 3, 30, "the third one is counted")
            assert statuses(server) == ["succeeded", "failed", "cancelled"]


async def check_hosted(server: LiveServer) -> None:
    async with server.client() as client:
        answer = await embed(client, model="text-embedding-3-small", input=["a", "bb"], dimensions=8)
        content = answer.json()
        assert [item["embedding"][0] for item in content["data"]] == [0.125, 0.25]
        assert content["impact"]["cost_eur"] > 0
        assert content["impact"]["unaccounted_models"] == ["text-embedding-3-small"]
        refused = await embed(client, model="text-embedding-3-small")
        check_openai_error(refused, 502, "provider_refused")
        assert refused.headers["x-should-retry"] == "false"


def statuses(server: LiveServer) -> list[str]:
    """Of the ledger's rows, which wait on disk, for this server has no database."""
    lines = [line for path in (server.data_dir / "ledger").glob("*.jsonl") for line in path.read_bytes().splitlines()]
    return [json.loads(line)["status"] for line in lines]
