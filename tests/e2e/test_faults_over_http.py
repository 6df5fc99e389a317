"""A provider's faults as callers see them over real HTTP: the status or the last event, who answered, and the row.

Without a name the chain goes from OpenAI's model, whose provider is at fault, to Mistral's, whose provider is well;
named, OpenAI's model is alone.
"""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.faults import FAULTS, Fault
from tests.live_server import LiveServer, live_server
from tests.postgres_for_tests import folder
from tests.provider_thread import check_all_was_asked, forget, play, provider_in_thread
from tests.scripted_provider import API_KEY, ScriptedProvider, Status, Step, finish, say
from tests.server_sent_events import parse_stream, text_of

FAULTY, GOOD = "gpt-4o-mini", "mistral-small-latest"
BONJOUR: list[Step] = [*say("Bon", "jour"), *finish(10, 2)]
BY_NAME = {fault.name: fault for fault in FAULTS}
BEFORE = [
    BY_NAME[name]
    for name in (
        "401",
        "404",
        "429",
        "500",
        "503",
        "a stall with comments",
        "garbage before the first token",
        "a cut at once",
        "a cut before the first token",
        "an end before the first token",
        "another content type",
        "half a JSON",
        "an error with 200",
    )
]
AFTER = [fault for fault in FAULTS if fault.spoke]


@pytest.fixture(scope="module")
def _providers() -> Iterator[tuple[ScriptedProvider, ScriptedProvider]]:
    with provider_in_thread() as faulty, provider_in_thread() as good:
        yield faulty, good


@pytest.fixture(scope="module")
def house(_providers: tuple[ScriptedProvider, ScriptedProvider]) -> Iterator[LiveServer]:
    faulty, good = _providers
    with (
        folder() as data_dir,
        live_server(
            data_dir,
            OPENAI_API_KEY=API_KEY,
            OPENAI_BASE_URL=faulty.base_url,
            MISTRAL_API_KEY=API_KEY,
            MISTRAL_BASE_URL=good.base_url,
            PROVIDER_STALL_TIMEOUT_S="1.5",
            LEDGER_FLUSH_S="0.02",
        ) as server,
    ):
        yield server


@pytest.fixture
def faulty(_providers: tuple[ScriptedProvider, ScriptedProvider], house: LiveServer) -> Iterator[ScriptedProvider]:
    """OpenAI's side, warm: enough good answers came that one fault's failures are not most of its calls."""
    provider = _providers[0]
    forget(provider)
    play(provider, *[BONJOUR] * 4)
    for _ in range(4):
        assert post(house, "warm", model=FAULTY).status_code == 200
    forget(provider)
    yield provider
    check_all_was_asked(provider)


@pytest.fixture
def good(_providers: tuple[ScriptedProvider, ScriptedProvider]) -> Iterator[ScriptedProvider]:
    forget(_providers[1])
    yield _providers[1]
    check_all_was_asked(_providers[1])


def post(house: LiveServer, request_id: str, **body: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {house.token()}", "X-Request-ID": request_id}
    content = {"message": "Raconte.", **body}
    return httpx.post(f"{house.url}/completion", json=content, headers=headers, trust_env=False, timeout=60)


def the_row(house: LiveServer, request_id: str) -> dict[str, Any]:
    (row,) = house.wait_for_rows(1, "request_id = %s", request_id)
    return dict(row)


@pytest.mark.parametrize(
    ("fault", "stream"),
    # What is read whole falls back as long as it is not complete: none of it has been given.
    [*[(fault, stream) for fault in BEFORE for stream in (True, False)], *[(fault, False) for fault in AFTER]],
    ids=str,
)
def test_a_fault_before_anything_is_given_is_answered_by_the_next_model_and_named(
    fault: Fault, stream: bool, house: LiveServer, faulty: ScriptedProvider, good: ScriptedProvider
) -> None:
    play(faulty, *[fault.script] * fault.attempts)
    play(good, BONJOUR)
    request_id = f"pair-{fault}-{stream}".replace(" ", "-")
    answer = post(house, request_id, stream=stream)
    assert answer.status_code == 200, answer.text
    if stream:
        events = parse_stream(answer.content)
        text, metadata = text_of(events), events[-1]["metadata"]
        assert "error" not in events[-1]
        assert {event["metadata"]["model"] for event in events} == {GOOD}
    else:
        text, metadata = answer.json()["response"], answer.json()["metadata"]
        assert answer.json()["model"] == GOOD
    assert text == "Bonjour"
    (hop,) = metadata["fallbacks"]
    assert hop["model"] == FAULTY
    assert fault.reason in hop["reason"]
    row = the_row(house, request_id)
    assert (row["status"], row["error_code"], row["requested_model"], row["model"]) == ("succeeded", None, None, GOOD)
    assert [(call["model"], call["status"], call["error_code"]) for call in row["calls"]] == [
        *[(FAULTY, "failed", fault.code)] * fault.attempts,
        (GOOD, "succeeded", None),
    ]
    assert row["output_tokens"] > 2 if fault.spoke else row["output_tokens"] == 2
    assert row["estimated"] is (fault.spent != "nothing")


@pytest.mark.parametrize(
    ("name", "stream"),
    [
        ("401", False),
        ("404", True),
        ("429", True),
        ("500", True),
        ("503", False),
        ("a cut before the first token", True),
    ],
)
def test_a_fault_of_a_model_alone_is_an_error_with_its_status(
    name: str, stream: bool, house: LiveServer, faulty: ScriptedProvider, good: ScriptedProvider
) -> None:
    fault = BY_NAME[name]
    play(faulty, *[fault.script] * fault.attempts_alone)
    request_id = f"alone-{fault}".replace(" ", "-")
    answer = post(house, request_id, stream=stream, model=FAULTY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (fault.status, fault.code)
    assert API_KEY not in answer.text
    row = the_row(house, request_id)
    assert (row["status"], row["error_code"], row["model"]) == ("failed", fault.code, FAULTY)
    assert [call["status"] for call in row["calls"]] == ["failed"] * fault.attempts_alone


@pytest.mark.parametrize("fault", AFTER, ids=str)
def test_a_fault_after_the_first_token_is_told_and_no_other_model_is_called(
    fault: Fault, house: LiveServer, faulty: ScriptedProvider, good: ScriptedProvider
) -> None:
    play(faulty, fault.script)
    request_id = f"after-{fault}".replace(" ", "-")
    answer = post(house, request_id, stream=True)
    assert answer.status_code == 200
    events = parse_stream(answer.content)
    assert text_of(events) == "Half"
    assert events[-1]["error"]["code"] == fault.code
    assert events[-1]["metadata"]["fallbacks"] == []
    row = the_row(house, request_id)
    assert (row["status"], row["error_code"], row["estimated"]) == ("failed", fault.code, True)
    (call,) = row["calls"]
    assert (call["status"], call["output_tokens"] >= 1) == ("failed", True)


def test_a_provider_that_refuses_for_a_while_is_not_asked_meanwhile(
    house: LiveServer, faulty: ScriptedProvider, good: ScriptedProvider
) -> None:
    play(faulty, [Status(429, {"error": "slow down"}, (("Retry-After", "30"),))])
    play(good, BONJOUR, BONJOUR)
    first, second = (post(house, f"cooling-{number}").json() for number in range(2))
    assert first["model"] == second["model"] == GOOD
    (hop,) = second["metadata"]["fallbacks"]
    assert hop["model"] == FAULTY
    assert hop["reason"].startswith("cooling down for ")
    assert len(faulty.requests) == 1
    row = the_row(house, "cooling-1")
    assert [call["model"] for call in row["calls"]] == [GOOD]


def test_a_plain_models_run_leaves_a_row_that_names_no_agent(house: LiveServer, faulty: ScriptedProvider) -> None:
    play(faulty, BONJOUR)
    headers = {"Authorization": f"Bearer {house.token()}", "X-Request-ID": "plain"}
    body = {"model": FAULTY, "messages": [{"role": "user", "content": "Raconte."}]}
    answer = httpx.post(f"{house.url}/v1/chat/completions", json=body, headers=headers, trust_env=False, timeout=60)
    assert answer.status_code == 200
    row = the_row(house, "plain")
    assert (row["agent"], row["model"], row["status"]) == (None, FAULTY, "succeeded")
    assert row["cost_eur"] == answer.json()["impact"]["cost_eur"]
