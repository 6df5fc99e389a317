"""From a name and texts to vectors: what is refused, who serves, and what the accounts say of it."""

import asyncio
import base64
import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.catalogue import Catalogue, ModelEntry, load_catalogue
from config.impact_factors import load_impact_factors
from config.settings import Settings
from core.http_client import HttpClient
from domain.errors import (
    BadRequest,
    ContextOverflow,
    ModelUnavailable,
    ProviderCut,
    ProviderRefused,
    RouteurError,
    UnknownModel,
)
from domain.reports import Report
from domain.usage import Call, LocalWork, TokenUsage
from services.accounting.accountant import Accountant
from services.accounting.metadata import record_calls, report_metadata
from services.embeddings.embedder import BatchLimits, Embedder, EmbeddingCall, Vector, as_base64
from services.embeddings.factory import create_embedders
from services.embeddings.service import EmbeddingLimits, EmbeddingRequest, EmbeddingService, _batches
from tests.embeddings_server import HalfAnAnswer, Said, Silence, embeddings_server, vectors
from tests.loaded_embedder import loaded_embedder
from tests.scripted_provider import API_KEY
from tests.wire_reader import http_client

CATALOGUE = load_catalogue()
THREE_TEXTS = BatchLimits(max_texts=3, max_chars=100)
ENDPOINT = {"name": "ollama", "base_url": "http://127.0.0.1:9/v1"}


@dataclass
class FakeEmbedder:
    """Remembers what it was asked, and answers with one number a text: its length."""

    name: str = "openai"
    batch: BatchLimits = THREE_TEXTS
    missing: str | None = None
    failures: list[BaseException | None] = field(default_factory=list)
    asked: list[list[str]] = field(default_factory=list)

    def unavailable_reason(self, model: ModelEntry) -> str | None:
        return self.missing

    async def embed(self, call: EmbeddingCall) -> list[Vector]:
        self.asked.append(list(call.texts))
        if self.failures and (failure := self.failures.pop(0)):
            raise failure
        call.input_tokens = 10 * len(call.texts)
        return [array("f", [len(text)]) for text in call.texts]


def service_of(embedder: Embedder, limits: EmbeddingLimits | None = None) -> EmbeddingService:
    return EmbeddingService(CATALOGUE, {embedder.name: embedder}, limits)


def ask(*texts: str, model: str = "text-embedding-3-small", dimensions: int | None = None) -> EmbeddingRequest:
    return EmbeddingRequest(model, texts, dimensions)


@lru_cache(maxsize=1)
def accountant() -> Accountant:
    return Accountant(CATALOGUE, load_impact_factors(), Settings(_env_file=None))


def report_of(*calls: Call) -> Report:
    return accountant().report(calls, latency_s=1.0, time_to_first_token_s=None)


# Who serves


async def test_texts_come_back_as_vectors_in_their_order_and_each_call_is_counted_once():
    embedder, told = FakeEmbedder(), []
    answer = await service_of(embedder).embed(ask("a", "bb", "ccc", "dddd"), told.append)
    assert [list(vector) for vector in answer.vectors] == [[1], [2], [3], [4]]
    assert embedder.asked == [["a", "bb", "ccc"], ["dddd"]]
    assert list(answer.calls) == told
    assert [call.usage for call in told] == [TokenUsage(30, 0), TokenUsage(10, 0)]
    assert {(call.model, call.provider, call.status, call.estimated) for call in told} == {
        ("text-embedding-3-small", "openai", "succeeded", False)
    }
    assert answer.model == "text-embedding-3-small"


@pytest.mark.parametrize("name", ["text-embedding-9", "gpt-4o", "default", ""])
async def test_a_name_that_is_no_embedding_model_is_refused_with_those_that_are(name):
    known = [model.id for model in CATALOGUE.models if model.type == "embedding"]
    with pytest.raises(UnknownModel) as refusal:
        await service_of(FakeEmbedder()).embed(ask("a", model=name))
    expected = f"unknown embedding model {name!r}; known embedding models: {', '.join(known)}"
    assert refusal.value.message == expected


@pytest.mark.parametrize(
    ("model", "setting"),
    [("text-embedding-3-large", "OPENAI_API_KEY"), ("mistral-embed", "MISTRALAI_API_KEY"), ("nomic", "ENDPOINT_KEYS")],
)
async def test_a_model_whose_key_is_missing_says_which_setting_gives_it(model, setting):
    catalogue = with_endpoint(needs_key=True)
    with pytest.raises(ModelUnavailable, match=f"{model!r} cannot serve now: .*needs the setting {setting}"):
        await real_service(catalogue, {}).embed(ask("a", model=model))


async def test_a_provider_that_gives_no_embeddings_is_named():
    with pytest.raises(ModelUnavailable, match="the provider 'mistral' gives no embeddings"):
        await service_of(FakeEmbedder()).embed(ask("a", model="mistral-embed"))


async def test_a_route_leads_to_the_first_embedding_model_that_can_serve():
    content = CATALOGUE.model_dump()
    content["routes"] = [{"name": "vectors", "candidates": ["gpt-4o", "mistral-embed", "text-embedding-3-small"]}]
    content["default"] = ["gpt-4o"]
    service = EmbeddingService(
        Catalogue.model_validate(content),
        {"openai": FakeEmbedder(), "mistral": FakeEmbedder("mistral", missing="no key")},
    )
    assert service.resolve("vectors").id == "text-embedding-3-small"
    assert service.unavailable_reason(service.resolve("vectors")) is None


# What is refused before anything is sent


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ((), BadRequest, "there is nothing to embed"),
        (("a", ""), BadRequest, "text 1 is empty"),
        (("a", " \n"), BadRequest, "text 1 is empty"),
        (("a",) * 6, BadRequest, "6 texts are too many: give 5 at most"),
        (("a", "b" * 41), ContextOverflow, "text 1 has 41 characters, over 40"),
        (("a" * 40, "b" * 40, "c"), BadRequest, "81 characters are too many: give 80 at most"),
        (("a", "\ud83d"), BadRequest, "text 1 holds half of a surrogate pair"),
    ],
)
async def test_texts_that_cannot_be_embedded_are_refused_by_their_place(texts, error, message):
    embedder, told = FakeEmbedder(), []
    limits = EmbeddingLimits(max_texts=5, max_text_chars=40, max_chars=80)
    with pytest.raises(error, match=message):
        await service_of(embedder, limits).embed(ask(*texts), told.append)
    assert (embedder.asked, told) == ([], [])


@pytest.mark.parametrize(
    ("model", "dimensions", "message"),
    [
        ("mistral-embed", 512, r"'mistral-embed' have one length \(1024\): leave out `dimensions`"),
        ("use-multilingual-v3", 512, r"have one length \(512\)"),
        ("text-embedding-3-small", 1537, "gives 1 to 1536"),
        ("text-embedding-3-small", 0, "dimensions=0: .* gives 1 to 1536"),
    ],
)
async def test_lengths_that_a_model_cannot_give_are_refused(model, dimensions, message):
    embedders = {name: FakeEmbedder(name) for name in ("openai", "mistral", "local")}
    with pytest.raises(BadRequest, match=message):
        await EmbeddingService(CATALOGUE, embedders).embed(ask("a", model=model, dimensions=dimensions))


@given(
    texts=st.lists(st.text(min_size=1, max_size=12), max_size=20),
    limits=st.builds(BatchLimits, st.integers(1, 5), st.integers(1, 20)),
)
def test_batches_hold_every_text_once_in_order_and_within_the_limits(texts, limits):
    batches = list(_batches(texts, limits))
    assert [text for batch in batches for text in batch] == texts
    for batch in batches:
        assert 0 < len(batch) <= limits.max_texts
        assert len(batch) == 1 or sum(map(len, batch)) <= limits.max_chars


# What is counted when it goes wrong


@pytest.mark.parametrize(
    ("failure", "usage", "estimated", "status", "code"),
    [
        (ProviderRefused("no", retryable=False), TokenUsage(0, 0), False, "failed", "provider_refused"),
        (ModelUnavailable("no"), TokenUsage(0, 0), False, "failed", "model_unavailable"),
        (ContextOverflow("long"), TokenUsage(0, 0), False, "failed", "context_overflow"),
        (ProviderCut("cut", retryable=True), TokenUsage(5, 0), True, "failed", "provider_cut"),
        (asyncio.CancelledError(), TokenUsage(5, 0), True, "cancelled", None),
        (ZeroDivisionError(), TokenUsage(5, 0), True, "failed", None),
    ],
)
async def test_a_call_that_fails_is_counted_after_those_that_did_not(failure, usage, estimated, status, code):
    told: list[Call] = []
    with pytest.raises(type(failure)):
        await service_of(FakeEmbedder(failures=[None, failure])).embed(ask("a", "b", "c", "d" * 20), told.append)
    good, bad = told
    assert (good.usage, good.status) == (TokenUsage(30, 0), "succeeded")
    assert (bad.usage, bad.estimated, bad.status, bad.error_code) == (usage, estimated, status, code)


# The accounts


async def test_a_hosted_embedding_is_priced_by_its_input_and_its_impact_is_not_known():
    answer = await service_of(FakeEmbedder(batch=BatchLimits(100, 1_000))).embed(ask(*["word"] * 100))
    run = report_of(*answer.calls)
    assert (run.usage.input_tokens, run.usage.output_tokens) == (1_000, 0)
    assert run.price.total_usd == pytest.approx(1_000 * 0.02e-6)
    assert run.price.by_model["text-embedding-3-small"].output_eur == 0.0
    assert run.impact.unaccounted_models == ("text-embedding-3-small",)
    assert (run.impact.gwp, run.impact.energy, run.impact.wcf) == (None, None, None)
    assert report_metadata(run)["emissions_kgCO2eq"] is None
    [row] = record_calls(run)
    assert (row["input_tokens"], row["output_tokens"], row["gwp_kgco2eq"]) == (1_000, 0, None)


@pytest.mark.parametrize(
    ("model", "per_mtok_usd"),
    [("text-embedding-3-small", 0.02), ("text-embedding-3-large", 0.13), ("mistral-embed", 0.1)],
)
def test_hosted_embeddings_have_their_list_price(model, per_mtok_usd):
    entry = CATALOGUE.get(model)
    assert entry is not None
    call = Call(model, entry.provider, TokenUsage(1_000_000, 0), False, "succeeded", 1.0)
    assert report_of(call).price.total_usd == pytest.approx(per_mtok_usd)


def test_every_hosted_embedding_of_the_catalogue_is_unaccounted_rather_than_free_of_emissions():
    for entry in CATALOGUE.models:
        if entry.type == "embedding" and entry.provider != "local":
            call = Call(entry.id, entry.provider, TokenUsage(1_000, 0), False, "succeeded", 1.0)
            assert report_of(call).impact.unaccounted_models == (entry.id,)


def test_a_local_embedding_costs_nothing_and_emits_what_its_work_took():
    work = LocalWork(cpu_s=3_600, ram_gb_s=3_600)
    run = report_of(Call("use-multilingual-v3", "local", TokenUsage(10, 0), False, "succeeded", 1.0, None, work))
    assert run.price.total_eur == 0.0
    assert run.impact.energy is not None
    assert run.impact.energy.min == pytest.approx((0.74 + 0.392) / 1000)
    assert run.impact.by_model["use-multilingual-v3"].method == "cpu-time"
    unmeasured = report_of(Call("use-multilingual-v3", "local", TokenUsage(10, 0), False, "succeeded", 1.0))
    assert unmeasured.impact.unaccounted_models == ("use-multilingual-v3",)


# All of it together


async def test_openai_mistral_and_an_endpoint_are_asked_at_their_addresses_and_with_their_keys():
    async with embeddings_server(vectors, answer_of(1024), vectors) as server, http_client() as http:
        catalogue = with_endpoint(base_url=server.base_url, needs_key=True)
        service = real_service(catalogue, {"base_url": server.base_url, "key": API_KEY}, http)
        for model in ("text-embedding-3-small", "mistral-embed"):
            await service.embed(ask("Bonjour", model=model))
        answer = await service.embed(ask("Bonjour", model="nomic"))
        assert [request["model"] for request in server.requests] == ["text-embedding-3-small", "mistral-embed", "nomic"]
    run = report_of(*answer.calls)
    assert (answer.model, run.price.total_eur, run.impact.unaccounted_models) == ("nomic", None, ("nomic",))


async def test_the_local_model_serves_through_the_service_and_is_accounted_for():
    service = real_service(CATALOGUE, {})
    answer = await service.embed(ask(*["Quelle est la cotisation annuelle ?"] * 70, model="use-multilingual-v3"))
    assert [len(vector) for vector in answer.vectors] == [512] * 70
    assert len(answer.calls) == 2
    run = report_of(*answer.calls)
    assert run.impact.unaccounted_models == ()
    assert run.impact.energy is not None
    assert run.impact.energy.mean > 0
    assert not run.estimated


@pytest.mark.parametrize(("answer", "consumed"), [(Said({"error": "busy"}, 503), 0), (HalfAnAnswer(), 1)])
async def test_a_failure_on_the_wire_is_raised_and_counted(answer, consumed):
    told: list[Call] = []
    async with embeddings_server(answer) as server, http_client() as http:
        service = real_service(CATALOGUE, {"base_url": server.base_url, "key": API_KEY}, http)
        with pytest.raises(RouteurError):
            await service.embed(ask("Bonjour"), told.append)
    assert [(call.status, call.usage) for call in told] == [("failed", TokenUsage(consumed, 0))]


async def test_a_client_who_hangs_up_is_counted():
    told: list[Call] = []
    async with embeddings_server(Silence()) as server, http_client() as http:
        service = real_service(CATALOGUE, {"base_url": server.base_url, "key": API_KEY}, http)
        task = asyncio.create_task(service.embed(ask("Bonjour"), told.append))
        async with asyncio.timeout(30):
            while not server.requests:  # noqa: ASYNC110 - a request has no event of its own
                await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [(call.status, call.estimated) for call in told] == [("cancelled", True)]


@given(vector=st.lists(st.floats(width=32, allow_nan=False), max_size=20))
def test_base64_is_32_bit_little_endian(vector):
    assert list(struct.unpack(f"<{len(vector)}f", base64.b64decode(as_base64(vector)))) == vector


def answer_of(dimensions: int):
    return lambda body: vectors({**body, "dimensions": dimensions})


def with_endpoint(**fields: object) -> Catalogue:
    content = CATALOGUE.model_dump()
    content["endpoints"] = [{**ENDPOINT, **fields}]
    context = {"tokens": 2_048, "source": "a test", "checked": "2026-11-20"}
    content["models"] = [
        *content["models"],
        {"id": "nomic", "provider": "ollama", "type": "embedding", "description": "", "context": context},
    ]
    return Catalogue.model_validate(content)


def real_service(
    catalogue: Catalogue, configured: Mapping[str, str], http: HttpClient | None = None
) -> EmbeddingService:
    key, base_url = configured.get("key"), configured.get("base_url", "http://127.0.0.1:9/v1")
    settings = Settings(
        _env_file=None,
        openai_api_key=key,
        openai_base_url=base_url,
        mistralai_api_key=key,
        mistral_base_url=base_url,
        provider_stall_timeout_s=30,
    )
    keys = {"ollama": settings.openai_api_key} if settings.openai_api_key else {}
    embedders = create_embedders(catalogue, settings, http or HttpClient(1.0), loaded_embedder(), keys)
    return EmbeddingService(catalogue, embedders)
