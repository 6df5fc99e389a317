"""The router: which model serves a name, what it says when none can, and one count for each call."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from config.settings import Settings
from core.http_client import HttpClient
from domain.errors import ConfigurationError, ModelUnavailable, ProviderCut, ProviderRefused, UnknownModel
from domain.usage import Call, TokenUsage
from services.llm.factory import create_local_runtime, create_router
from services.llm.providers.provider import Delta, ModelCall
from services.llm.router import Request
from tests.router_for_tests import CATALOGUE, USAGE, FakeProvider, router_of


async def play(*script: Delta | BaseException) -> tuple[list[Delta], list[Call], BaseException | None]:
    provider, calls, deltas = FakeProvider("openai", list(script)), [], []
    router, failure = router_of(provider), None
    stream = router.stream(router.plan("gpt-4o"), Request([HumanMessage("Hi")], on_call=calls.append))
    try:
        async with aclosing(stream):
            async for delta in stream:
                deltas.append(delta)  # noqa: PERF401 - those before a failure are kept
    except BaseException as error:  # noqa: BLE001 - handed to the test
        failure = error
    assert provider.closed == 1
    return deltas, calls, failure


# Names


def test_a_model_answers_to_its_id_and_to_its_aliases():
    router = router_of(*map(FakeProvider, {model.provider for model in CATALOGUE.models}))
    for model in CATALOGUE.models:
        if model.type == "llm":
            assert all(router.resolve(name) is model for name in (model.id, *model.aliases))


@pytest.mark.parametrize("name", ["gpt-0", "", "GPT-4O", "gpt-4o\n"])
def test_an_unknown_model_is_told_with_the_known_ones(name):
    with pytest.raises(UnknownModel, match=r"known models: .*gpt-4o-mini"):
        router_of(FakeProvider("openai")).resolve(name)


def test_a_model_that_is_no_language_model_is_unknown_here():
    router = router_of(FakeProvider("openai"), FakeProvider("mistral"))
    others = [model.id for model in CATALOGUE.models if model.type != "llm"]
    assert "text-embedding-3-small" in others
    for name in others:
        with pytest.raises(UnknownModel, match=r"known models: (?!.*embed)"):
            router.resolve(name)


def test_a_model_without_its_provider_says_so():
    with pytest.raises(ModelUnavailable, match="'mistral' is not set up"):
        router_of(FakeProvider("openai")).resolve("mistral-small-latest")


def test_a_model_that_cannot_serve_says_why():
    with pytest.raises(ModelUnavailable, match="needs a key"):
        router_of(FakeProvider("openai", reason="needs a key")).resolve("gpt-4o")


def test_without_a_name_the_first_default_that_can_serve_answers():
    both = router_of(FakeProvider("openai"), FakeProvider("mistral"))
    without_openai = router_of(FakeProvider("openai", reason="needs a key"), FakeProvider("mistral"))
    assert both.resolve(None).id == "gpt-4o-mini"
    assert without_openai.resolve(None).id == "mistral-small-latest"


def test_the_configured_default_goes_before_the_catalogues_and_has_them_as_stand_ins():
    openai, mistral = FakeProvider("openai"), FakeProvider("mistral")
    router = router_of(openai, mistral, default_model="mistral-large-latest")
    assert [model.id for model in router.plan(None).candidates] == [
        "mistral-large-latest",
        "gpt-4o-mini",
        "mistral-small-latest",
    ]
    mistral.reason = "needs a key"
    assert [model.id for model in router.plan(None).candidates] == ["gpt-4o-mini"]


def test_a_default_that_is_in_the_chain_already_is_asked_once():
    router = router_of(FakeProvider("openai"), FakeProvider("mistral"), default_model="mistral-small-latest")
    assert [model.id for model in router.plan(None).candidates] == ["mistral-small-latest", "gpt-4o-mini"]


def test_when_none_can_serve_every_reason_is_told_once():
    with pytest.raises(ModelUnavailable) as caught:
        router_of(FakeProvider("openai", reason="no key"), FakeProvider("mistral", reason="no key")).resolve(None)
    assert "gpt-4o-mini: no key; mistral-small-latest: no key" in caught.value.message


def test_the_context_is_the_providers():
    router = router_of(FakeProvider("openai"))
    assert router.context_tokens(router.resolve("gpt-4o")) == 1234


# The factory


def settings(**more: Any) -> Settings:
    return Settings(
        _env_file=None, **{"openai_api_key": None, "mistralai_api_key": None, "local_model": "none", **more}
    )


@pytest.mark.parametrize(
    ("name", "setting"), [("gpt-4o", "OPENAI_API_KEY"), ("mistral-small-latest", "MISTRALAI_API_KEY")]
)
def test_a_missing_key_is_named_by_its_setting(name, setting):
    router = create_router(CATALOGUE, settings(), HttpClient(1.0), None)
    with pytest.raises(ModelUnavailable, match=setting):
        router.resolve(name)


@pytest.mark.parametrize("name", ["gpt-0", "qwen"])
def test_a_default_model_outside_the_catalogue_stops_the_start(name):
    with pytest.raises(ConfigurationError, match=f"DEFAULT_MODEL='{name}'"):
        create_router(CATALOGUE, settings(default_model=name), HttpClient(1.0), None)


def test_a_local_model_that_is_not_local_stops_the_start():
    with pytest.raises(ConfigurationError, match="LOCAL_MODEL='gpt-4o'"):
        create_local_runtime(CATALOGUE, settings(local_model="gpt-4o"))


def test_a_local_base_url_serves_the_one_local_model_and_says_how_to_serve_another():
    chosen = settings(local_model="smollm2-135m-instruct", local_base_url="http://127.0.0.1:1/v1")
    router = create_router(CATALOGUE, chosen, HttpClient(1.0), None)
    assert router.resolve("smollm2-135m-instruct").provider == "local"
    with pytest.raises(ModelUnavailable, match="LOCAL_MODEL=qwen2"):
        router.resolve("qwen2.5-coder-0.5b-instruct")


# Counting


async def test_an_answer_is_counted_once():
    deltas, calls, failure = await play(["Bon", "jour"], USAGE)
    assert (deltas, failure) == ([["Bon", "jour"], USAGE], None)
    assert [(call.status, call.usage, call.estimated) for call in calls] == [("succeeded", TokenUsage(3, 2), False)]


async def test_a_refused_call_is_counted_as_nothing():
    _, calls, failure = await play(ProviderRefused("no", retryable=False))
    assert isinstance(failure, ProviderRefused)
    assert [(call.status, call.usage, call.error_code) for call in calls] == [
        ("failed", TokenUsage(0, 0), "provider_refused")
    ]


async def test_a_cut_answer_is_counted_by_what_came():
    deltas, calls, failure = await play(["Half"], ProviderCut("cut", retryable=True))
    assert deltas == [["Half"]]
    assert isinstance(failure, ProviderCut)
    assert [(call.status, call.estimated, call.usage.output_tokens) for call in calls] == [("failed", True, 1)]


async def test_a_fault_that_nobody_foresaw_is_a_failed_call_and_not_a_cancelled_one():
    _, calls, failure = await play(["Half"], KeyError("oops"))
    assert isinstance(failure, KeyError)
    assert [(call.status, call.estimated) for call in calls] == [("failed", True)]


async def test_a_call_that_is_left_is_counted_as_cancelled_and_its_provider_closed():
    provider, calls = FakeProvider("openai", [["a"], ["b"]]), []
    router = router_of(provider)
    stream = router.stream(router.plan("gpt-4o"), Request([], on_call=calls.append))
    await anext(stream)
    await stream.aclose()
    assert provider.closed == 1
    assert [(call.status, call.usage.output_tokens) for call in calls] == [("cancelled", 1)]


async def test_a_call_whose_task_is_cancelled_is_counted_as_cancelled():
    calls: list[Call] = []
    begun = asyncio.Event()

    class Silent(FakeProvider):
        async def stream(self, call: ModelCall) -> AsyncGenerator[Delta]:
            begun.set()
            await asyncio.Event().wait()
            yield ["never"]

    router = router_of(Silent("openai"))
    stream = router.stream(router.plan("gpt-4o"), Request([], on_call=calls.append))
    task = asyncio.ensure_future(anext(stream))
    await begun.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert [call.status for call in calls] == ["cancelled"]


async def test_what_was_asked_reaches_the_provider_and_later_changes_do_not():
    provider = FakeProvider("openai", [["a"]])
    router = router_of(provider)
    messages: list[Any] = [HumanMessage("Hi")]
    parameters: dict[str, Any] = {"temperature": 0.2}
    stream = router.stream(router.plan("gpt-4o"), Request(messages, parameters, ["END"]))
    messages.clear()
    parameters.clear()
    assert [delta async for delta in stream] == [["a"]]
    assert [message.text for message in provider.calls[0].messages] == ["Hi"]
    assert (provider.calls[0].parameters, provider.calls[0].stop) == ({"temperature": 0.2}, ["END"])
