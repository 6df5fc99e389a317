"""POST /completion on the wire: byte for byte what clients in the field read."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.live_server import LiveServer
from tests.provider_thread import play
from tests.scripted_provider import ScriptedProvider, finish, say
from tests.server_sent_events import parse_stream, text_of

MODEL = "gpt-4o"
SHARED = {
    "latency_s": float,
    "time_to_first_token_s": float,
    "emissions_kgCO2eq": float,
    "emissions_gCO2eq": float,
    "pricing": dict,
    "equivalences": dict,
    "impact": dict,
    "run_id": str,
    "request_id": str,
    "thread_id": type(None),
    "requested_model": str,
    "fallbacks": list,
    "sources": list,
    "cache": dict,
    "interrupt": type(None),
    "message_count": int,
    "usage_by_model": dict,
}
IMPACT = {"method", "scope", "zone", "zone_origin", "energy_kwh", "gwp_kgCO2eq", "wcf_liters", "estimated"} | {
    "input_tokens_counted",
    "unaccounted_models",
    "warnings",
}


async def ask(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    answer = await client.post("/completion", json={"message": "Raconte.", "model": MODEL, **body})
    assert answer.status_code == 200, answer.text
    return answer


async def test_a_stream_is_byte_for_byte_the_contracts(client: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    play(provider, [*say("Il", " était", " une fois"), *finish(25, 3)])
    answer = await ask(client, stream=True)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    lines = answer.content.split(b"\n\n")
    metadata = '"done": false, "metadata": {"model": "gpt-4o", "agent": "V2"}}'
    assert lines[0] == f'data: {{"content": "Il", {metadata}'.encode()
    assert lines[1] == f'data: {{"content": " était", {metadata}'.encode()
    assert lines[2] == f'data: {{"content": " une fois", {metadata}'.encode()
    assert lines[3].startswith(b'data: {"content": "", "done": true, "metadata": {')
    assert lines[4:] == [b""]


async def test_the_last_event_holds_what_the_run_consumed(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, [*say("Oui"), *finish(25, 98)])
    last = parse_stream((await ask(client, stream=True)).content)[-1]
    assert set(last) == {"content", "done", "metadata"}
    metadata = last["metadata"]
    counted = {"input_tokens": 25, "output_tokens": 98, "total_tokens": 123}
    assert metadata["usage"] == counted
    assert metadata["usage_by_model"] == {MODEL: counted}
    assert set(metadata) == {*SHARED, "model", "agent", "usage"}


async def test_a_whole_answer_has_the_contracts_shape(client: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    play(provider, [*say("Bon", "jour"), *finish(25, 98)])
    answer = await ask(client)
    content = answer.json()
    assert answer.headers["content-type"] == "application/json"
    assert list(content) == ["response", "model", "agent", "usage", "metadata"]
    assert content["response"] == "Bonjour"
    assert (content["model"], content["agent"]) == (MODEL, "V2")
    assert content["usage"] == {"prompt_tokens": 25, "completion_tokens": 98, "total_tokens": 123}
    assert set(content["metadata"]) == set(SHARED)


@pytest.mark.parametrize("stream", [True, False])
async def test_every_field_of_the_metadata_has_its_type(
    client: httpx.AsyncClient, provider: ScriptedProvider, stream: bool
) -> None:
    play(provider, [*say("Oui"), *finish(25, 98)])
    answer = await ask(client, stream=stream)
    metadata = (parse_stream(answer.content)[-1] if stream else answer.json())["metadata"]
    wrong = {name: metadata[name] for name, kind in SHARED.items() if not isinstance(metadata[name], kind)}
    assert not wrong
    assert metadata["emissions_gCO2eq"] == pytest.approx(metadata["emissions_kgCO2eq"] * 1000)
    assert metadata["pricing"]["currency"] == "EUR"
    price = metadata["pricing"]["by_model"][MODEL]
    assert price["total"] == pytest.approx(price["input"] + price["output"]) == metadata["pricing"]["total_cost"]
    assert set(metadata["equivalences"]) == {"water_liters", "car_km", "tgv_km", "smartphone_charges"}
    assert set(metadata["impact"]) >= IMPACT
    assert metadata["cache"] == {"hit": False, "saved": None}
    assert metadata["requested_model"] == MODEL
    assert metadata["request_id"] == answer.headers["x-request-id"]


async def test_a_figure_that_is_not_known_is_null(client: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    play(provider, [*say("Oui"), *finish(25, 98)])
    metadata = (await ask(client, model="gpt-6.1-terra")).json()["metadata"]
    assert metadata["emissions_kgCO2eq"] is None
    assert metadata["emissions_gCO2eq"] is None
    assert metadata["equivalences"]["car_km"] is None
    assert metadata["impact"]["unaccounted_models"] == ["gpt-6.1-terra"]


async def test_a_whole_answer_is_the_fold_of_the_stream(client: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    script = [*say("Un « œuf »", "\n", 'dit "coucou" 🥚'), *finish(7, 3)]
    play(provider, script, script)
    events = parse_stream((await ask(client, stream=True)).content)
    whole = (await ask(client)).json()
    assert whole["response"] == text_of(events) == 'Un « œuf »\ndit "coucou" 🥚'
    streamed = events[-1]["metadata"]
    for name in ("pricing", "requested_model", "message_count", "fallbacks", "sources", "cache", "thread_id"):
        assert whole["metadata"][name] == streamed[name], name
    # The rest differs from run to run, for emissions depend on the time the answer took.
    assert whole["metadata"]["impact"].keys() == streamed["impact"].keys()
    assert list(whole["usage"].values()) == list(streamed["usage"].values())


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(pieces=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=8))
def test_whatever_the_provider_says_arrives_whole_in_well_formed_events(
    server: LiveServer, provider: ScriptedProvider, pieces: list[str]
) -> None:
    play(provider, [*say(*pieces), *finish()])
    answer = httpx.post(
        f"{server.url}/completion",
        json={"message": "Raconte.", "model": MODEL, "stream": True},
        headers={"Authorization": f"Bearer {server.token()}"},
        trust_env=False,
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    events = parse_stream(answer.content)
    assert [event["content"] for event in events[:-1]] == [piece for piece in pieces if piece]
    assert all(event["metadata"] == {"model": MODEL, "agent": "V2"} for event in events[:-1])
    assert "error" not in events[-1]


async def test_progress_is_shown_only_to_those_who_ask(client: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    script = [*say("Oui"), *finish()]
    play(provider, script, script)
    assert b"event:" not in (await ask(client, stream=True)).content
    shown = (await ask(client, stream=True, events=True)).content.decode()
    named = [block for block in shown.split("\n\n") if block.startswith("event: ")]
    assert [block.split("\n")[0] for block in named] == ["event: node", "event: node"]
    assert [json.loads(block.split("\n")[1][6:])["status"] for block in named] == ["started", "finished"]
    others = "\n\n".join(block for block in shown.split("\n\n") if not block.startswith("event: "))
    assert text_of(parse_stream(others.encode())) == "Oui"


async def test_the_history_reaches_the_provider_in_order(client: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    play(provider, [*say("Oui"), *finish()])
    history = [
        {"role": "system", "content": "Sois bref."},
        {"role": "user", "content": "Un ?"},
        {"role": "assistant", "content": "Un."},
    ]
    content = (await ask(client, message="Deux ?", conversation_history=history)).json()
    sent = provider.requests[0]["messages"]
    assert [(m["role"], m["content"]) for m in sent[1:]] == [
        ("system", "Sois bref."),
        ("user", "Un ?"),
        ("assistant", "Un."),
        ("user", "Deux ?"),
    ]
    assert content["metadata"]["message_count"] == 5


async def test_a_first_message_and_its_answer_count_as_two(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, [*say("Oui"), *finish()])
    assert (await ask(client)).json()["metadata"]["message_count"] == 2


@pytest.mark.parametrize(
    ("asked", "sent"),
    [({}, 0.7), ({"temperature": None}, 0.7), ({"temperature": 0}, 0.0), ({"temperature": 2}, 2.0)],
)
async def test_the_temperature_reaches_the_provider(
    client: httpx.AsyncClient, provider: ScriptedProvider, asked: dict[str, Any], sent: float
) -> None:
    play(provider, [*say("Oui"), *finish()])
    await ask(client, **asked)
    assert provider.requests[0]["temperature"] == sent


async def test_the_longest_answer_reaches_the_provider(client: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    play(provider, [*say("Oui"), *finish()], [*say("Oui"), *finish()])
    await ask(client, max_tokens=12)
    await ask(client)
    limits = [{"max_tokens", "max_completion_tokens"} & set(request) for request in provider.requests]
    assert [len(limit) for limit in limits] == [1, 0]
    assert provider.requests[0][limits[0].pop()] == 12


async def test_without_a_model_the_default_one_answers(client: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    play(provider, [*say("Oui"), *finish()])
    content = (await client.post("/completion", json={"message": "Raconte."})).json()
    assert content["model"] == provider.requests[0]["model"] == "gpt-4o-mini"
    assert content["metadata"]["requested_model"] is None


async def test_an_empty_answer_is_an_answer(client: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    play(provider, [*say(), *finish(5, 0)], [*say(), *finish(5, 0)])
    assert (await ask(client)).json()["response"] == ""
    assert text_of(parse_stream((await ask(client, stream=True)).content)) == ""


async def test_what_means_nothing_is_accepted(client: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    """Clients that serialise every field they know send nulls and empty lists."""
    play(provider, [*say("Oui"), *finish()])
    nulls = ("conversation_history", "max_tokens", "metadata", "project_id", "resume", "temperature", "thread_id")
    await ask(client, cache=False, sources=[], **dict.fromkeys(nulls))


async def test_text_with_a_nul_reaches_the_provider(client: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    play(provider, [*say("a\x00b"), *finish()])
    content = (await ask(client, message="a\x00b")).json()
    assert provider.requests[0]["messages"][-1]["content"] == content["response"] == "a\x00b"
