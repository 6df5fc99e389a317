"""Embeddings over HTTP: vectors in the order of the texts, every failure told as what it is."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from config.catalogue import ModelEntry, load_catalogue
from core.http_client import HttpClient
from domain.errors import (
    BadRequest,
    ContextOverflow,
    InsufficientQuota,
    ProviderCut,
    ProviderError,
    ProviderRefused,
    ProviderStalled,
    ProviderUnreachable,
    RateLimitedByProvider,
)
from services.embeddings import api
from services.embeddings.api import ApiEmbedder
from services.embeddings.embedder import EmbeddingCall
from services.llm.providers.whole_call import reading
from tests.embeddings_server import (
    Answer,
    EmbeddingsServer,
    HalfAnAnswer,
    Said,
    Silence,
    embeddings_server,
    vector_of,
    vectors,
)
from tests.scripted_provider import API_KEY
from tests.wire_reader import http_client

CATALOGUE = load_catalogue()
TEXTS = ["a cat", "two small dogs", "x"]


def small() -> ModelEntry:
    model = CATALOGUE.get("text-embedding-3-small")
    assert model is not None
    return model


def embedder_at(
    base_url: str, http: HttpClient, *, key: str | None = API_KEY, timeout_s: float = 30.0, needs: str | None = None
) -> ApiEmbedder:
    secret = None if key is None else SecretStr(key)
    return ApiEmbedder("fake", http, base_url, secret, timeout_s, key_setting=needs)


async def embed(answer: Answer, *, timeout_s: float = 30.0, **fields: Any) -> tuple[list[Any], EmbeddingCall]:
    async with embeddings_server(answer) as server, http_client() as http:
        call = EmbeddingCall(**{"model": small(), "texts": TEXTS, **fields})
        found = await embedder_at(server.base_url, http, timeout_s=timeout_s).embed(call)
        return [vector.tolist() for vector in found], call


def item(place: int | None, embedding: Any) -> dict[str, Any]:
    return {"embedding": embedding} if place is None else {"index": place, "embedding": embedding}


def said(*items: dict[str, Any], **more: Any) -> Said:
    return Said({"data": list(items), **more})


async def test_each_text_has_its_vector_and_the_providers_count_is_kept():
    found, call = await embed(vectors)
    assert found == [vector_of(text, 1536) for text in TEXTS]
    assert (call.input_tokens, call.local_work) == (6, None)


async def test_half_a_character_in_a_text_is_replaced():
    async with embeddings_server(vectors) as server, http_client() as http:
        await embedder_at(server.base_url, http).embed(EmbeddingCall(small(), ["a\ud83d"]))
    assert server.requests[0]["input"] == ["a\ufffd"]


async def test_vectors_are_put_in_the_order_of_the_texts_whatever_order_they_come_in():
    def shuffled(body: dict[str, Any]) -> Said:
        answer = vectors(body)
        answer.body["data"].reverse()
        return answer

    found, _ = await embed(shuffled)
    assert found == [vector_of(text, 1536) for text in TEXTS]


async def test_vectors_that_are_not_numbered_are_taken_in_their_order():
    rows = [vector_of(text, 1536) for text in TEXTS]
    found, call = await embed(said(*(item(None, row) for row in rows)))
    assert found == rows
    assert call.input_tokens is None


async def test_shorter_vectors_are_asked_for_and_checked():
    found, _ = await embed(vectors, dimensions=8)
    assert [len(row) for row in found] == [8, 8, 8]


async def test_an_endpoint_without_a_key_is_sent_none_and_the_models_name_on_the_wire():
    model = small().model_copy(update={"wire_name": "nomic", "dimensions": None})
    async with embeddings_server(vectors, key=None) as server, http_client() as http:
        await embedder_at(server.base_url + "/", http, key=None).embed(EmbeddingCall(model, ["x"]))
        assert server.requests == [{"model": "nomic", "input": ["x"]}]


@pytest.mark.parametrize(
    "answer",
    [
        Said(b"not json"),
        Said([]),
        Said({}),
        Said({"data": None}),
        said(),
        said(item(0, [0.5] * 1536)),
        said(*(item(0, [0.5] * 1536) for _ in TEXTS)),
        said(*(item(place, [0.5] * 1536) for place in (0, 1, 3))),
        said(*(item(place, [0.5] * 1536) for place in (0, 1, 2, 3))),
        said(*(item(place, [0.5] * 1535) for place in range(3))),
        said(*(item(place, []) for place in range(3))),
        said(*(item(place, ["a"] * 1536) for place in range(3))),
        said(*(item(place, [None] * 1536) for place in range(3))),
        said(*(item(place, [1e300] * 1536) for place in range(3))),
        said(*(item(place, "AAAA") for place in range(3))),
        Said({"data": ["a", "b", "c"]}),
        Said({"data": [item(place, [0.5] * 1536) for place in range(3)], "usage": "none"}),
    ],
)
async def test_an_answer_that_makes_no_sense_is_the_providers_failure(answer):
    with pytest.raises(ProviderCut, match="fake sent embeddings that cannot be read") as failure:
        await embed(answer)
    assert failure.value.retryable


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None}, {"prompt_tokens": 0}, {"prompt_tokens": "3"}])
async def test_a_count_that_is_missing_or_empty_is_not_known(usage):
    _, call = await embed(said(*(item(place, [0.5] * 1536) for place in range(3)), usage=usage))
    assert call.input_tokens is None


@pytest.mark.parametrize(
    ("status", "body", "error", "retryable"),
    [
        (400, {"error": {"message": "no such option"}}, BadRequest, None),
        (400, {"error": {"message": "This model's maximum context length is 8192 tokens"}}, ContextOverflow, None),
        (401, {"error": {"message": f"wrong key {API_KEY}"}}, ProviderRefused, False),
        (402, {"error": "You have depleted your credits"}, InsufficientQuota, False),
        (429, {"error": {"message": "slow down"}}, RateLimitedByProvider, True),
        (500, b"<html>oops</html>", ProviderRefused, True),
        (307, b"", ProviderRefused, False),
    ],
)
async def test_a_refusal_means_what_it_means_for_completions(status, body, error, retryable):
    headers = (("Retry-After", "7"), ("Location", "/v1/elsewhere"))
    with pytest.raises(error) as failure:
        await embed(Said(body, status, headers))
    assert API_KEY not in failure.value.message
    if isinstance(failure.value, ProviderError):
        assert (failure.value.upstream_status, failure.value.retryable) == (status, retryable)
    if isinstance(failure.value, RateLimitedByProvider):
        assert failure.value.retry_after_s == 7


async def test_a_provider_that_says_nothing_is_left_after_the_timeout():
    with pytest.raises(ProviderStalled, match=r"fake gave no embeddings in 0\.1 s"):
        await embed(Silence(), timeout_s=0.1)


async def test_a_connection_that_breaks_in_the_answer_is_told():
    with pytest.raises(ProviderCut, match="fake broke the connection"):
        await embed(HalfAnAnswer())


async def test_a_provider_that_is_not_there_is_told():
    async with http_client() as http:
        with pytest.raises(ProviderUnreachable, match="fake cannot be reached"):
            await embedder_at("http://127.0.0.1:9/v1", http).embed(EmbeddingCall(small(), ["x"]))


async def test_an_answer_without_end_is_given_up_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr(api, "MAX_ANSWER_BYTES", 10_000)
    with pytest.raises(ProviderCut, match="over 10000 bytes"):
        await embed(vectors)


async def test_a_caller_who_leaves_closes_the_connection():
    async with embeddings_server(Silence()) as server, http_client() as http:
        task = asyncio.create_task(embedder_at(server.base_url, http).embed(EmbeddingCall(small(), ["x"])))
        await asked(server)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.left_early.wait(), 30)


async def asked(server: EmbeddingsServer) -> None:
    async with asyncio.timeout(30):
        while not server.requests:  # noqa: ASYNC110 - a request has no event of its own
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("key", "reason"), [(None, "'text-embedding-3-small' needs the setting SOME_KEY"), ("k", None)]
)
async def test_a_missing_key_is_named_by_its_setting(key, reason):
    embedder = embedder_at("http://127.0.0.1:9/v1", HttpClient(1.0), key=key, needs="SOME_KEY")
    assert embedder.unavailable_reason(small()) == reason


@given(
    body=st.recursive(
        st.none() | st.integers() | st.text() | st.floats(),
        lambda s: st.lists(s) | st.dictionaries(st.sampled_from(["data", "embedding", "index", "usage"]), s),
    )
)
def test_no_answer_at_all_makes_anything_but_a_providers_failure(body):
    try:
        with reading("fake", "embeddings"):
            api._input_tokens(body)
            api._vectors(body, count=1, dimensions=None)
    except ProviderCut:
        pass
