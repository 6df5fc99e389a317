"""Any run at all: its events keep their order and its figures add up."""

import asyncio
from contextlib import aclosing
from typing import Any

from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from langgraph.graph import MessagesState

from domain.runs import RunEvent, RunRecord, Started
from services.llm.chat_model import RouteurChatModel
from tests.house_for_tests import (
    agent,
    ask,
    assert_grammar,
    failure_of,
    finish_of,
    open_house,
    the_row,
)
from tests.scripted_provider import (
    Chunk,
    Cut,
    Status,
    Step,
    chunk,
    finish,
    say,
    scripted_provider,
)

say_steps = st.lists(st.text(min_size=1, max_size=3), max_size=3).map(lambda pieces: say(*pieces))
endings = st.sampled_from(
    [
        finish(3, 4),
        [chunk({}, "stop")],
        [],
        [Cut()],
        [Chunk(b"data: {oops\n\n")],
        [Chunk({"error": {"message": "late"}})],
        [chunk({}, "error")],
    ]
)
refused = st.sampled_from([400, 401, 404, 429, 500]).map(lambda status: [Status(status, {"error": "no"})])
scripts = refused | st.tuples(say_steps, endings).map(lambda both: [*both[0], *both[1]])


def several(count: int) -> Any:
    """A node that asks the model several times, whatever becomes of it."""

    def node(llm: RouteurChatModel) -> Any:
        async def answer(state: MessagesState) -> dict[str, Any]:
            for turn in range(count):
                message = await llm.bind(model=("gpt-4o", "mistral-small-latest")[turn % 2]).ainvoke(state["messages"])
            return {"messages": [message]}

        return answer

    return node


@examples(deadline=None, max_examples=60)
@given(played=st.lists(scripts, min_size=1, max_size=3), events=st.booleans(), stop_after=st.none() | st.integers(1, 3))
def test_any_run_keeps_the_order_of_its_events_and_its_sums(played, events, stop_after):
    asyncio.run(_any_run(played, events=events, stop_after=stop_after))


async def _any_run(played: list[list[Step]], *, events: bool, stop_after: int | None) -> None:
    # A call that fails before its first word is asked again: it plays what comes next, then the last script for ever.
    left = list(played)
    async with (
        scripted_provider(compose=lambda _: left.pop(0) if len(left) > 1 else left[0]) as provider,
        open_house(provider, agent(several(len(played)))) as house,
    ):
        heard: list[RunEvent] = []
        async with asyncio.timeout(60), aclosing(house.service.stream(ask("mine", events=events))) as stream:
            async for event in stream:
                heard.append(event)
                if len(heard) == stop_after:
                    break
        row = the_row(house)
        assert isinstance(heard[0], Started)
        assert row.input_tokens == sum(call["input_tokens"] for call in row.calls)
        assert row.output_tokens == sum(call["output_tokens"] for call in row.calls)
        assert row.estimated == any(call["estimated"] for call in row.calls)
        if stop_after is None:
            assert_grammar(heard)
            _assert_sums(heard, row)
            assert len(provider.requests) == len(row.calls)


def _assert_sums(events: list[RunEvent], row: RunRecord) -> None:
    report = finish_of(events).report
    assert report.usage.input_tokens == sum(call.usage.input_tokens or 0 for call in report.calls)
    assert report.usage.output_tokens == sum(call.usage.output_tokens or 0 for call in report.calls)
    assert report.usage.total_tokens == sum(usage.total_tokens or 0 for usage in report.usage_by_model.values())
    assert row.cost_eur == report.price.total_eur
    assert row.status == ("failed" if failure_of(events) else "succeeded")
    assert {call.status for call in report.calls} <= {"succeeded", "failed"}
    assert failure_of(events) is None or report.calls[-1].status == "failed"
