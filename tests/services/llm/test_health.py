"""A deployment that fails cools for some seconds: after which failures, for whom, for how long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from domain.errors import ProviderCut, ProviderError, ProviderStalled, ProviderUnreachable
from services.llm.health import Health, deployment_key
from services.llm.providers.spark_auth import SparkCredentials
from tests.router_for_tests import Clock, entry, refused

MODEL = entry("m")
KEY = deployment_key(MODEL, None)
CUT = ProviderCut("cut", retryable=True)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock)


def play(health: Health, outcomes: str) -> None:
    """`x` fails, anything else succeeds."""
    for outcome in outcomes:
        if outcome == "x":
            health.failed(KEY, CUT)
        else:
            health.succeeded(KEY)


def test_a_deployment_that_was_never_asked_does_not_cool(health: Health) -> None:
    assert health.cooling(KEY) is None


@pytest.mark.parametrize("status", [401, 402, 404, 408, 429])
def test_one_answer_of_these_is_enough_to_cool(status: int, health: Health, clock: Clock) -> None:
    health.failed(KEY, refused(status))
    assert health.cooling(KEY) == f"cooling down for 5 s after: answered {status}"
    clock.now_s += 4.9
    assert health.cooling(KEY) == f"cooling down for 1 s after: answered {status}"
    clock.now_s += 0.2
    assert health.cooling(KEY) is None


@pytest.mark.parametrize(
    "error",
    [
        *map(refused, (400, 403, 409, 413, 422, 425, 500, 502, 503)),
        CUT,
        ProviderStalled("silent", retryable=True),
        ProviderUnreachable("no route", retryable=True),
    ],
    ids=str,
)
def test_one_of_any_other_kind_is_not(error: ProviderError, health: Health) -> None:
    health.failed(KEY, error)
    assert health.cooling(KEY) is None


@pytest.mark.parametrize(
    ("outcomes", "cools"),
    [
        ("xxxx", False),
        ("xxxxx", True),
        ("..xxx", True),
        ("...xx", False),
        ("...xxx", False),
        ("...xxxx", True),
        ("." * 20 + "x" * 20, False),
        ("." * 20 + "x" * 21, True),
    ],
)
def test_more_than_half_of_at_least_five_calls_a_minute_cool(outcomes: str, cools: bool, health: Health) -> None:
    play(health, outcomes)
    assert (health.cooling(KEY) is not None) is cools


def test_calls_of_over_a_minute_ago_do_not_count(health: Health, clock: Clock) -> None:
    play(health, "....")
    clock.now_s += 61
    play(health, "xxxx")
    assert health.cooling(KEY) is None
    play(health, "x")
    assert health.cooling(KEY) is not None
    clock.now_s += 61
    play(health, "x")
    assert health.cooling(KEY) is None


def test_a_deployment_that_answers_does_not_cool_any_longer(health: Health) -> None:
    health.failed(KEY, refused(429))
    health.succeeded(KEY)
    assert health.cooling(KEY) is None


@pytest.mark.parametrize(("asked_s", "cools_s"), [(None, 5), (1.0, 5), (17.0, 17), (60.0, 60), (3600.0, 60)])
def test_what_the_provider_asked_for_is_honoured_up_to_a_minute(
    asked_s: float | None, cools_s: float, health: Health, clock: Clock
) -> None:
    health.failed(KEY, refused(429, retry_after_s=asked_s))
    clock.now_s += cools_s - 0.1
    assert health.cooling(KEY) is not None
    clock.now_s += 0.2
    assert health.cooling(KEY) is None


def test_models_and_credentials_cool_apart(health: Health) -> None:
    def mine(secret: str) -> SparkCredentials:
        return SparkCredentials("app", SecretStr(secret), SecretStr("key"))

    health.failed(deployment_key(MODEL, mine("bad")), refused(401))
    assert health.cooling(deployment_key(MODEL, mine("bad"))) is not None
    assert health.cooling(deployment_key(MODEL, mine("good"))) is None
    assert health.cooling(KEY) is None
    health.failed(KEY, refused(429))
    assert health.cooling(deployment_key(entry("other"), None)) is None


def test_a_key_shows_nothing_of_the_secret() -> None:
    assert "hidden" not in repr(
        deployment_key(MODEL, SparkCredentials("app", SecretStr("hidden"), SecretStr("hidden")))
    )


def test_callers_who_do_not_come_back_are_forgotten(health: Health, clock: Clock) -> None:
    for number in range(500):
        health.failed(deployment_key(MODEL, number), refused(401))
    clock.now_s += 130
    health.succeeded(KEY)
    assert len(health._records) == 1


def test_a_minute_of_calls_takes_no_more_room_however_many_there_are(health: Health, clock: Clock) -> None:
    for _ in range(120):
        play(health, ".x" * 50)
        clock.now_s += 1
    (record,) = health._records.values()
    assert len(record.seconds) <= 61


@given(steps=st.lists(st.tuples(st.booleans(), st.floats(0, 20)), max_size=60))
def test_the_share_is_that_of_the_last_minute_whatever_came_before(steps: list[tuple[bool, float]]) -> None:
    clock, seen = Clock(), list[tuple[int, bool]]()
    health = Health(clock)
    for failed, pause_s in steps:
        clock.now_s += pause_s
        seen.append((int(clock.now_s), failed))
        if failed:
            health.failed(KEY, CUT)
        else:
            health.succeeded(KEY)
        recent = [its for second, its in seen if second > clock.now_s - 60]
        record = health._records[KEY]
        assert (record.calls, record.failures) == (len(recent), sum(recent))
        if failed and len(recent) >= 5 and sum(recent) * 2 > len(recent):
            assert health.cooling(KEY) is not None
