"""Candidates in order, retries, fallback before the first word: who is asked, how often, and what the caller hears."""

import asyncio
import random
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from pydantic import SecretStr

from domain.errors import (
    BadRequest,
    ContentFiltered,
    ContextOverflow,
    ModelUnavailable,
    ProviderCut,
    ProviderError,
    ProviderStalled,
    ProviderUnreachable,
    RateLimitedByProvider,
    RouteurError,
)
from domain.usage import Call, TokenUsage
from services import retry_wait
from services.llm import failover
from services.llm.providers.provider import Delta
from services.llm.providers.spark_auth import SparkCredentials
from services.llm.router import Request
from tests.router_for_tests import (
    END,
    REASONING,
    ROLE,
    TOOL,
    USAGE,
    FakeProvider,
    catalogue_of,
    entry,
    rare,
    refused,
    router_of,
    table,
)

CUT = ProviderCut("cut", retryable=True)
STALLED = ProviderStalled("silent", retryable=True)
UNREACHABLE = ProviderUnreachable("no route", retryable=True)
OVERFLOW = ContextOverflow("too long")
ANSWERS: list[Delta] = [["Hi"], END, USAGE]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits before another attempt, which pass at once; the jitter is in the middle of its range."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(failover, "FIRST_DELAY_S", 0.25)
    monkeypatch.setattr(retry_wait, "asyncio", SimpleNamespace(sleep=sleep, get_running_loop=asyncio.get_running_loop))
    monkeypatch.setattr(failover, "random", SimpleNamespace(uniform=lambda low, high: (low + high) / 2))
    return waited


# Order


async def test_the_first_candidate_answers_and_nobody_else_is_asked() -> None:
    asked = table({"a": [ANSWERS], "b": []})
    answer = await asked.ask()
    assert (answer.text, answer.model, answer.left, answer.error) == ("Hi", "a", [], None)
    assert asked.provider.asked == ["a"]


async def test_candidates_are_asked_in_the_order_of_their_route(pauses: list[float]) -> None:
    asked = table({"a": [[refused(404)]], "b": [[refused(402)]], "c": [ANSWERS], "d": []})
    answer = await asked.ask()
    assert asked.provider.asked == ["a", "b", "c"]
    assert (answer.text, answer.model) == ("Hi", "c")
    assert answer.left == [("a", "answered 404"), ("b", "answered 402")]
    assert pauses == []


def test_a_route_leads_through_other_routes_and_names_each_model_once() -> None:
    catalogue = catalogue_of(["a", "b", "c"], {"outer": ["inner", "a", "c"], "inner": ["b", "a"], "a": ["a", "b"]})
    router = router_of(FakeProvider("p"), catalogue=catalogue)
    assert [model.id for model in router.plan("outer").candidates] == ["b", "a", "c"]
    assert [model.id for model in router.plan("a").candidates] == ["a", "b"]
    assert [model.id for model in router.plan("b").candidates] == ["b"]


async def test_a_model_without_a_route_has_no_stand_in() -> None:
    asked = table({"a": [[refused(404)]], "b": []})
    answer = await asked.ask("a")
    assert answer.error is not None
    assert (asked.provider.asked, answer.left) == (["a"], [])


async def test_when_nobody_answers_the_last_ones_failure_is_told_and_the_others_are_hops(pauses: list[float]) -> None:
    asked = table({"a": [[refused(402)]], "b": [[refused(404)]]})
    answer = await asked.ask()
    assert answer.error is not None
    assert str(answer.error) == "answered 404"
    assert answer.left == [("a", "answered 402")]
    assert (answer.model, answer.deltas) == ("", [])


async def test_a_candidate_that_is_not_set_up_is_a_hop_in_its_place() -> None:
    asked = table({"a": [[refused(404)]], "b": [], "c": [ANSWERS], "d": []}, reasons={"b": "no key", "d": "no key"})
    answer = await asked.ask()
    assert asked.provider.asked == ["a", "c"]
    # Not `d`: it was not its turn.
    assert answer.left == [("a", "answered 404"), ("b", "no key")]


async def test_a_candidate_whose_turn_never_came_is_no_hop() -> None:
    asked = table({"a": [ANSWERS], "b": []}, reasons={"b": "no key"})
    assert (await asked.ask()).left == []


async def test_a_callers_credential_makes_up_for_one_that_is_not_set_up() -> None:
    asked = table({"a": [ANSWERS]}, reasons={"a": "no key"})
    with pytest.raises(ModelUnavailable, match="no key"):
        asked.router.plan("r")
    answer = await asked.ask(credentials={"p": "mine"})
    assert answer.text == "Hi"
    assert asked.provider.calls[0].credential == "mine"


async def test_without_a_name_what_is_not_set_up_is_no_hop_and_the_chain_ends_at_the_local_model() -> None:
    catalogue = catalogue_of([entry("a"), entry("b"), entry("own", provider="local")])
    hosted = FakeProvider("p", scripts={"b": [[refused(402)]]}, reasons={"a": "no key"})
    router = router_of(hosted, FakeProvider("local", [["Hi"]]), catalogue=catalogue)
    hops: list[Any] = []
    request = Request([HumanMessage("Hi")], on_hop=hops.append)
    deltas = [delta async for delta in router.stream(router.plan(None), request)]
    assert (deltas, request.answering_model) == ([["Hi"]], "own")
    assert [(hop.model, hop.reason) for hop in hops] == [("b", "answered 402")]


# Another attempt


@pytest.mark.parametrize("error", [refused(500), refused(503), CUT, UNREACHABLE], ids=str)
async def test_a_hiccup_is_tried_again_and_the_caller_hears_nothing_of_it(
    error: RouteurError, pauses: list[float]
) -> None:
    asked = table({"a": [[error], ANSWERS], "b": []})
    answer = await asked.ask()
    assert (answer.text, answer.model, answer.left) == ("Hi", "a", [])
    assert pauses == [0.25]
    assert [call.status for call in answer.calls] == ["failed", "succeeded"]


async def test_attempts_are_bounded_to_two_for_each_and_three_for_the_last(pauses: list[float]) -> None:
    asked = table({"a": [[CUT]] * 9, "b": [[CUT]] * 9})
    answer = await asked.ask()
    assert asked.provider.asked == ["a", "a", "b", "b", "b"]
    assert pauses == [0.25, 0.25, 0.5]
    assert answer.error is CUT
    assert len(answer.calls) == 5


async def test_a_candidate_behind_which_none_is_set_up_is_the_last(pauses: list[float]) -> None:
    asked = table({"a": [[CUT]] * 9, "b": []}, reasons={"b": "no key"})
    answer = await asked.ask()
    assert asked.provider.asked == ["a"] * 3
    assert answer.error is CUT


async def test_no_two_waits_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failover, "FIRST_DELAY_S", 0.25)
    monkeypatch.setattr(random, "uniform", random.Random(7).uniform)  # noqa: S311 - jitter, not a secret
    waits = [failover._delay_s(CUT, attempt, 9, 60.0, is_last=True) for attempt in (1, 1, 2, 2, 3, 3)]
    assert len(set(waits)) == 6
    for wait, (low, high) in zip(waits, [(0.125, 0.375)] * 2 + [(0.25, 0.75)] * 2 + [(0.5, 1.5)] * 2, strict=True):
        assert wait is not None
        assert low <= wait <= high


@pytest.mark.parametrize("status", [429, 503])
async def test_the_last_candidate_is_waited_for_as_long_as_it_asks(status: int, pauses: list[float]) -> None:
    asked = table({"a": [[refused(status, retry_after_s=7.0)], ANSWERS]})
    assert (await asked.ask()).text == "Hi"
    # What it asked for, and then not at the same instant as everybody else who was told so.
    assert pauses == [7.25]


@pytest.mark.parametrize("status", [429, 503])
async def test_a_wait_is_not_sat_out_when_another_can_answer(status: int, pauses: list[float]) -> None:
    asked = table({"a": [[refused(status, retry_after_s=7.0)]], "b": [ANSWERS]})
    answer = await asked.ask()
    assert (answer.model, pauses) == ("b", [])
    assert answer.left == [("a", f"answered {status}")]


@pytest.mark.parametrize("status", [429, 503])
async def test_a_wait_above_the_limit_goes_on_to_the_caller(status: int, pauses: list[float]) -> None:
    asked = table({"a": [[refused(status, retry_after_s=40.0)]]})
    answer = await asked.ask()
    assert isinstance(answer.error, ProviderError)
    assert answer.error.retry_after_s == 40.0
    assert pauses == []


async def test_the_waits_of_all_attempts_share_one_limit(pauses: list[float]) -> None:
    asked = table({"a": [[refused(429, retry_after_s=5.0)], [refused(429, retry_after_s=5.0)]]})
    answer = await asked.ask()
    assert isinstance(answer.error, RateLimitedByProvider)
    assert answer.error.retry_after_s == 5.0
    assert pauses == [5.25]


async def test_the_waits_of_all_candidates_share_one_limit(pauses: list[float]) -> None:
    hiccup = ProviderUnreachable("no route", retryable=True)
    asked = table({"a": [[hiccup], [hiccup]], "b": [[refused(429, retry_after_s=7.9)]]})
    answer = await asked.ask()
    assert isinstance(answer.error, RateLimitedByProvider)
    assert pauses == [0.25]
    assert answer.left == [("a", "no route")]


async def test_no_wait_is_longer_than_what_is_left_of_the_limit(pauses: list[float]) -> None:
    asked = table({"a": [[refused(429, retry_after_s=8.0)], ANSWERS]})
    assert (await asked.ask()).text == "Hi"
    assert pauses == [8.0]


async def test_a_limit_without_a_delay_is_waited_for_a_little(pauses: list[float]) -> None:
    asked = table({"a": [[refused(429)], [refused(429)], ANSWERS]})
    assert (await asked.ask()).text == "Hi"
    assert pauses == [0.25, 0.5]


@pytest.mark.parametrize(
    "error", [STALLED, refused(401), refused(402), refused(403), refused(404), BadRequest("no"), OVERFLOW], ids=str
)
async def test_what_would_fail_again_is_not_tried_again(error: RouteurError, pauses: list[float]) -> None:
    asked = table({"a": [[error]]})
    answer = await asked.ask()
    assert answer.error is error
    assert (asked.provider.asked, pauses) == (["a"], [])


async def test_leaving_during_a_wait_ends_it_and_asks_nobody() -> None:
    asked = table({"a": [[refused(429, retry_after_s=7.0)]]})
    calls: list[Call] = []
    request = Request([HumanMessage("Hi")], on_call=calls.append)
    task = asyncio.ensure_future(anext(asked.router.stream(asked.router.plan("r"), request)))
    async with asyncio.timeout(30):
        while not calls:  # noqa: ASYNC110 - the wait begins when the call is counted
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert task.cancelled()
    assert asked.provider.asked == ["a"]
    assert [(call.status, call.usage) for call in calls] == [("failed", TokenUsage(0, 0))]


# Before the first word and after it


EARLY = [
    [ROLE],
    [rare(""), [""]],
    [USAGE],
    [END],
    [rare([{"type": "text", "text": ""}])],
    [rare(additional_kwargs={"vendor_fields": {"is_cached": False}})],
]


@pytest.mark.parametrize("early", EARLY)
async def test_what_means_nothing_to_a_reader_leaves_no_trace_of_a_failed_call(early: list[Delta]) -> None:
    asked = table({"a": [[*early, STALLED]], "b": [ANSWERS]})
    answer = await asked.ask()
    assert answer.deltas == ANSWERS
    assert (answer.model, answer.error) == ("b", None)


@pytest.mark.parametrize(
    "word",
    [["H"], REASONING, TOOL, rare("H"), rare([{"type": "thinking", "thinking": "hmm"}])],
    ids=["text", "reasoning", "tool call", "text in a rare chunk", "thinking"],
)
async def test_after_the_first_word_the_failure_is_the_callers(word: Delta) -> None:
    asked = table({"a": [[ROLE, word, CUT]], "b": []})
    answer = await asked.ask()
    assert answer.deltas == [ROLE, word]
    assert (answer.error, answer.model, answer.left) == (CUT, "a", [])
    assert asked.provider.asked == ["a"]


async def test_what_came_before_the_first_word_comes_in_its_place() -> None:
    asked = table({"a": [[ROLE, USAGE, ["H"], ["i"], END]]})
    assert (await asked.ask()).deltas == [ROLE, USAGE, ["H"], ["i"], END]


async def test_an_answer_of_nothing_but_its_end_is_an_answer() -> None:
    asked = table({"a": [[ROLE, END, USAGE]], "b": []})
    answer = await asked.ask()
    assert (answer.deltas, answer.model, answer.error) == ([ROLE, END, USAGE], "a", None)


async def test_each_call_is_counted_once_by_what_was_its_own() -> None:
    asked = table({"a": [[ROLE, USAGE, CUT], [refused(500)]], "b": [[["Hi"], rare(usage_metadata=COUNTED), END]]})
    answer = await asked.ask()
    assert [(call.model, call.status, call.usage, call.estimated) for call in answer.calls] == [
        ("a", "failed", TokenUsage(3, 2), False),
        ("a", "failed", TokenUsage(0, 0), False),
        ("b", "succeeded", TokenUsage(9, 1), False),
    ]
    assert [call.error_code for call in answer.calls] == ["provider_cut", "provider_refused", None]
    assert asked.provider.closed == 3


COUNTED: Any = {"input_tokens": 9, "output_tokens": 1, "total_tokens": 10}


# Mistakes that another model does not cure


@pytest.mark.parametrize("error", [BadRequest("no such option"), ContentFiltered("audit")], ids=str)
async def test_the_callers_own_mistakes_are_not_asked_of_another(error: RouteurError) -> None:
    asked = table({"a": [[error]], "b": []})
    answer = await asked.ask()
    assert (answer.error, asked.provider.asked, answer.left) == (error, ["a"], [])


async def test_a_fault_of_our_own_is_not_covered_by_another_model() -> None:
    asked = table({"a": [[KeyError("oops")]], "b": []})
    answer = await asked.ask()
    assert isinstance(answer.error, KeyError)
    assert [call.status for call in answer.calls] == ["failed"]


async def test_a_model_that_became_unavailable_since_it_was_chosen_has_its_stand_in() -> None:
    asked = table({"a": [[ModelUnavailable("not started")]], "b": [ANSWERS]})
    answer = await asked.ask()
    assert (answer.model, answer.left) == ("b", [("a", "not started")])


# Cooling candidates


async def test_a_candidate_that_cools_is_passed_over_in_its_place_and_asked_again_later(pauses: list[float]) -> None:
    asked = table({"a": [[refused(429)], ANSWERS], "b": [ANSWERS, ANSWERS]})
    await asked.ask()
    second = await asked.ask()
    assert (second.model, second.left) == ("b", [("a", "cooling down for 5 s after: answered 429")])
    asked.clock.now_s += 5.1
    third = await asked.ask()
    assert (third.model, third.left) == ("a", [])
    assert asked.provider.asked == ["a", "b", "b", "a"]


async def test_a_candidate_that_cools_behind_the_one_that_answers_is_no_hop(pauses: list[float]) -> None:
    asked = table({"a": [ANSWERS], "b": [[refused(402)]]})
    await asked.ask("b")
    answer = await asked.ask()
    assert (answer.model, answer.left) == ("a", [])


async def test_when_all_cool_they_are_asked_in_any_case(pauses: list[float]) -> None:
    asked = table({"a": [[refused(402)], ANSWERS], "b": [[refused(402)]]})
    assert (await asked.ask()).error is not None
    answer = await asked.ask()
    assert (answer.text, answer.model, answer.left) == ("Hi", "a", [])


async def test_a_lone_model_that_cools_is_asked_in_any_case(pauses: list[float]) -> None:
    asked = table({"a": [[refused(401)], ANSWERS]})
    assert (await asked.ask("a")).error is not None
    model = asked.router.catalogue.get("a")
    assert model is not None
    assert asked.router.cooling_reason(model) == "cooling down for 5 s after: answered 401"
    assert (await asked.ask("a")).text == "Hi"
    assert asked.router.cooling_reason(model) is None


def a_key(secret: str) -> SparkCredentials:
    return SparkCredentials("app", SecretStr(secret), SecretStr("key"))


async def test_one_callers_bad_key_never_cools_anothers(pauses: list[float]) -> None:
    asked = table({"a": [[refused(401)], ANSWERS, ANSWERS], "b": [ANSWERS, ANSWERS]})
    assert (await asked.ask(credentials={"p": a_key("bad")})).model == "b"
    assert (await asked.ask(credentials={"p": a_key("good")})).model == "a"
    assert (await asked.ask()).model == "a"
    again = await asked.ask(credentials={"p": a_key("bad")})
    assert again.model == "b"
    assert again.left == [("a", "cooling down for 5 s after: answered 401")]
