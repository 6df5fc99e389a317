"""Any candidates with any outcomes: the text is exactly one candidate's, and every attempt is in the accounts."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from domain.errors import (
    BadRequest,
    ContextOverflow,
    ProviderCut,
    ProviderStalled,
    ProviderUnreachable,
)
from services.llm import failover
from services.llm.providers.provider import Delta
from tests.router_for_tests import END, ROLE, USAGE, Answer, Outcome, Table, refused, table

MAX_ATTEMPTS = failover.ATTEMPTS_OF_THE_LAST

errors = st.sampled_from([401, 402, 403, 404, 408, 429, 500, 503]).map(refused) | st.sampled_from(
    [
        ProviderCut("cut", retryable=True),
        ProviderCut("too large", retryable=False),
        ProviderStalled("silent", retryable=True),
        ProviderUnreachable("no route", retryable=True),
        BadRequest("no such option"),
        ContextOverflow("too long"),
    ]
)
early: st.SearchStrategy[list[Delta]] = st.lists(st.sampled_from([ROLE, USAGE]), max_size=2)
endings: st.SearchStrategy[list[Any]] = st.just([END, USAGE]) | errors.map(lambda error: [error])


@st.composite
def outcomes(draw: st.DrawFn, name: str) -> list[Outcome]:
    """As many outcomes as a candidate may have attempts. Its text names the candidate and the attempt."""
    return [
        [*draw(early), *([[f"<{name}{attempt}", ">"]] if draw(st.booleans()) else []), *draw(endings)]
        for attempt in range(MAX_ATTEMPTS)
    ]


@st.composite
def tables(draw: st.DrawFn) -> tuple[Table, dict[str, list[Outcome]]]:
    names = list("abcd"[: draw(st.integers(1, 4))])
    scripts = {name: draw(outcomes(name)) for name in names}
    missing = draw(st.sets(st.sampled_from(names), max_size=len(names) - 1))
    contexts = {name: draw(st.sampled_from([8, 16])) for name in names}
    # The router takes from the lists as it asks: the test keeps its own.
    kept = {name: list(its) for name, its in scripts.items()}
    return table(scripts, reasons=dict.fromkeys(missing, "no key"), contexts=contexts), kept


@examples(deadline=None, max_examples=300)
@given(drawn=tables())
def test_whatever_fails_one_candidate_answers_or_one_failure_is_told(
    drawn: tuple[Table, dict[str, list[Outcome]]],
) -> None:
    asked, scripts = drawn
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(failover, "FIRST_DELAY_S", 0.0)
        answer = asyncio.run(asked.ask())
    played = played_by(asked, scripts)
    check_answer(answer, played)
    check_accounts(asked, answer, played)


def played_by(asked: Table, scripts: dict[str, list[Outcome]]) -> list[tuple[str, Outcome]]:
    """The outcome of each call, in order."""
    left = {name: list(its) for name, its in scripts.items()}
    return [(name, left[name].pop(0)) for name in asked.provider.asked]


def check_answer(answer: Answer, played: list[tuple[str, Outcome]]) -> None:
    name, last = played[-1]
    words = [step for step in last if isinstance(step, list)]
    failure = next((step for step in last if isinstance(step, BaseException)), None)
    if words or failure is None:
        # Exactly what the last call said, from its first delta on, and nothing of the calls before it.
        assert answer.deltas == [step for step in last if not isinstance(step, BaseException)]
        assert answer.model == name
    else:
        assert (answer.deltas, answer.model) == ([], "")
    assert answer.error is failure
    for _, outcome in played[:-1]:
        assert not any(isinstance(step, list) for step in outcome), "a call that spoke was followed by another"
        # A mistake of the caller's own is not asked of another; that it is too long may be.
        assert not isinstance(outcome[-1], BadRequest) or isinstance(outcome[-1], ContextOverflow)


def check_accounts(asked: Table, answer: Answer, played: list[tuple[str, Outcome]]) -> None:
    assert [call.model for call in answer.calls] == [name for name, _ in played]
    assert [call.status for call in answer.calls] == ["failed"] * (len(played) - 1) + [
        "succeeded" if answer.error is None else "failed"
    ]
    for name in set(asked.provider.asked):
        assert asked.provider.asked.count(name) <= MAX_ATTEMPTS
    # Once given up, a candidate is not asked again; each one given up for another is a hop, and so is one not set up.
    order = list(dict.fromkeys(asked.provider.asked))
    assert [name for name, _ in played] == [name for one in order for name in [one] * asked.provider.asked.count(one)]
    hops = [model for model, _ in answer.left]
    assert [model for model in hops if model not in asked.provider.reasons] == order[:-1]
    assert len(set(hops)) == len(hops)
    assert all(reason for _, reason in answer.left)
    assert asked.provider.closed == len(played)
