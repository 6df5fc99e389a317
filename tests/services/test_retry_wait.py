"""The calls of one run wait out of one limit, and at the same time only once."""

import asyncio

import pytest

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


async def test_the_calls_of_a_run_share_one_limit() -> None:
    """An agent that calls its model three times holds its caller no longer than a single call would."""
    limited = [Status(429, {"error": {"message": "slow down"}}, (("Retry-After", "0.3"),))]
    async with model(limited, ANSWER, limited, ANSWER, model="gpt-4o") as (llm, run, provider):
        assert run.retry_wait is None
        await llm.ainvoke("one")
        assert run.retry_wait is not None
        left_s = run.retry_wait.left_s
        assert 7.0 < left_s <= 7.7
        await llm.ainvoke("two")
        assert run.retry_wait.left_s <= left_s - 0.3
        assert len(provider.requests) == 4
