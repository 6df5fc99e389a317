"""The calls of one run wait out of one limit, and at the same time only once."""

import asyncio

import pytest
from langchain_core.messages import AIMessage

from domain.errors import RateLimitedByProvider
from services.retry_wait import RetryWait
from tests.house_for_tests import model
from tests.scripted_provider import Status, Step, finish, say

ANSWER: list[Step] = [*say("Hi"), *finish()]


async def test_waits_one_after_another_add_up_and_those_at_once_do_not() -> None:
    wait = RetryWait(8.0)
    await wait.sleep(0.05)
    assert wait.left_s == pytest.approx(7.95)
    await asyncio.gather(wait.sleep(0.2), wait.sleep(0.1), wait.sleep(0.2))
    assert wait.left_s == pytest.approx(7.75, abs=0.02)


async def test_a_wait_that_is_left_counts_and_holds_up_no_other() -> None:
    wait = RetryWait(8.0)
    waiting = asyncio.create_task(wait.sleep(5.0))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert wait.left_s == pytest.approx(3.0)
    await wait.sleep(0.01)
    assert wait.left_s == pytest.approx(2.99)


async def test_a_wait_beside_another_may_last_as_long_as_that_one_and_what_is_left() -> None:
    wait = RetryWait(8.0)
    assert wait.longest_s == 8.0
    waiting = asyncio.create_task(wait.sleep(5.0))
    await asyncio.sleep(0)
    assert (wait.left_s, wait.longest_s) == (pytest.approx(3.0), pytest.approx(8.0, abs=0.1))
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert wait.longest_s == wait.left_s == pytest.approx(3.0)


def limited_for(seconds: str) -> list[Step]:
    return [Status(429, {"error": {"message": "slow down"}}, (("Retry-After", seconds),))]


async def test_calls_at_the_same_time_may_all_wait_as_long_as_one_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is refused twice: waits that came one after another would be six times as long."""
    monkeypatch.setattr("services.llm.failover.FIRST_DELAY_S", 0.02)
    refused = [limited_for("0.5")] * 6
    async with model(*refused, ANSWER, ANSWER, ANSWER, model="gpt-4o") as (llm, run, _):
        run.retry_wait = RetryWait(1.4)
        started = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*(llm.ainvoke("Hi") for _ in range(3)))
        assert [answer.text for answer in answers] == ["Hi"] * 3
        assert asyncio.get_running_loop().time() - started >= 1.0
        assert 0 <= run.retry_wait.left_s <= 0.4


async def test_calls_at_the_same_time_wait_no_longer_than_the_limit() -> None:
    async with model(limited_for("0.3"), limited_for("0.6"), ANSWER, model="gpt-4o") as (llm, run, _):
        run.retry_wait = RetryWait(0.5)
        first, second = await asyncio.gather(llm.ainvoke("Hi"), llm.ainvoke("Hi"), return_exceptions=True)
    assert sorted([type(first), type(second)], key=str) == sorted([AIMessage, RateLimitedByProvider], key=str)


async def test_the_calls_of_a_run_share_one_limit() -> None:
    """An agent that calls its model three times holds its caller no longer than a single call would."""
    async with model(limited_for("0.3"), ANSWER, limited_for("0.3"), ANSWER, model="gpt-4o") as (llm, run, provider):
        assert run.retry_wait is None
        await llm.ainvoke("one")
        assert run.retry_wait is not None
        left_s = run.retry_wait.left_s
        assert 7.0 < left_s <= 7.7
        await llm.ainvoke("two")
        assert run.retry_wait.left_s <= left_s - 0.3
        assert len(provider.requests) == 4
