"""A run that is left, or ended by the server: its provider is left too, and what it consumed is counted."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from langgraph.graph import MessagesState

from domain.errors import (
    RunTimeout,
    ShuttingDown,
)
from domain.runs import Finished, RunEvent, Started, Tokens
from services import completion as completion_module
from services.llm.chat_model import RouteurChatModel
from services.run_context import RunContext
from tests.house_for_tests import (
    House,
    agent,
    ask,
    assert_grammar,
    events_of,
    failure_of,
    finish_of,
    house_of,
    sync_answers,
    text_of,
    the_row,
    until,
)
from tests.scripted_provider import (
    Stall,
    Step,
    finish,
    say,
)

BONJOUR: list[Step] = [*say("Bon", "jour"), *finish(10, 2)]
ENDLESS: list[Step] = [*say("Bon", "jour"), Stall()]
WAIT_S = 30.0


async def hang_up_after_the_first_piece(house: House, request: Any) -> None:
    async with asyncio.timeout(WAIT_S), aclosing(house.service.stream(request)) as events:
        async for event in events:
            if isinstance(event, Tokens):
                return


@pytest.mark.parametrize("with_events", [False, True], ids=["plain", "with events"])
async def test_a_client_that_hangs_up_leaves_the_provider_at_once_and_is_counted(with_events):
    async with house_of(ENDLESS) as (house, provider):
        await hang_up_after_the_first_piece(house, ask(events=with_events))
        await asyncio.wait_for(provider.left_early.wait(), WAIT_S)
        row = the_row(house)
        assert (row.status, row.error_code, row.estimated) == ("cancelled", None, True)
        assert (row.input_tokens or 0) > 0
        assert (row.output_tokens or 0) > 0
        assert [call["status"] for call in row.calls] == ["cancelled"]
        assert house.service.running == 0


async def test_a_client_whose_task_is_cancelled_is_counted_too():
    async with house_of(ENDLESS) as (house, provider):
        reading = asyncio.create_task(events_of(house, ask()))
        await until(lambda: provider.answering == 1)
        reading.cancel()
        await asyncio.wait({reading}, timeout=WAIT_S)
        assert reading.cancelled()
        await asyncio.wait_for(provider.left_early.wait(), WAIT_S)
        assert the_row(house).status == "cancelled"


async def test_a_client_that_leaves_before_anything_is_counted_too():
    async with house_of(repeat=False) as (house, _):
        stream = house.service.stream(ask())
        assert isinstance(await anext(stream), Started)
        await stream.aclose()
        assert (the_row(house).status, the_row(house).calls) == ("cancelled", ())


async def test_a_client_that_leaves_after_the_end_changes_nothing():
    async with house_of(BONJOUR) as (house, _):
        async with aclosing(house.service.stream(ask())) as events:
            async for event in events:
                if isinstance(event, Finished):
                    break
        assert the_row(house).status == "succeeded"


async def test_a_plain_functions_answer_streams_and_is_counted():
    async with house_of(BONJOUR, agents=agent(sync_answers)) as (house, _):
        events = await events_of(house, ask("mine"))
        assert text_of(events) == "Bonjour"
        assert finish_of(events).report.usage.output_tokens == 2


async def test_hanging_up_on_a_plain_function_leaves_the_provider_and_counts_its_call():
    async with house_of(ENDLESS, agents=agent(sync_answers)) as (house, provider):
        await hang_up_after_the_first_piece(house, ask("mine"))
        await asyncio.wait_for(provider.left_early.wait(), WAIT_S)
        row = the_row(house)
        assert (row.status, row.estimated) == ("cancelled", True)
        assert [call["status"] for call in row.calls] == ["cancelled"]


async def test_a_plain_function_that_takes_too_long_leaves_the_provider_and_its_call_is_in_the_report():
    async with house_of(ENDLESS, agents=agent(sync_answers), run_timeout_s=2.0) as (house, provider):
        events = await events_of(house, ask("mine"))
        assert isinstance(failure_of(events), RunTimeout)
        assert [call.status for call in finish_of(events).report.calls] == ["cancelled"]
        await asyncio.wait_for(provider.left_early.wait(), WAIT_S)


async def test_a_plain_function_cannot_call_on_after_its_run_has_ended():
    tried: list[BaseException] = []

    def node(llm: RouteurChatModel) -> Any:
        def answer(state: MessagesState) -> dict[str, Any]:
            for _ in range(2):
                try:
                    llm.invoke(state["messages"])
                except BaseException as error:  # noqa: BLE001 - looked at below
                    tried.append(error)
            return {}

        return answer

    async with house_of(ENDLESS, agents=agent(node)) as (house, provider):
        await hang_up_after_the_first_piece(house, ask("mine"))
        await until(lambda: len(tried) == 2)
        assert len(provider.requests) == 1
        assert len(the_row(house).calls) == 1


async def test_an_agent_that_swallows_its_cancellation_does_not_hold_the_client(monkeypatch, caplog):
    monkeypatch.setattr(completion_module, "CANCEL_WAIT_S", 0.1)
    begun, release, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def node(_: RouteurChatModel) -> Any:
        async def answer(_: MessagesState) -> dict[str, Any]:
            begun.set()
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            ended.set()
            return {}

        return answer

    async with house_of(agents=agent(node)) as (house, _):
        tasks = len(asyncio.all_tasks())
        stream = house.service.stream(ask("mine"))
        await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.wait_for(begun.wait(), WAIT_S)
        waiting.cancel()
        await asyncio.wait({waiting}, timeout=WAIT_S)
        assert waiting.cancelled()
        assert the_row(house).status == "cancelled"
        assert "does not end" in caplog.text
        release.set()
        await asyncio.wait_for(ended.wait(), WAIT_S)
        await until(lambda: len(asyncio.all_tasks()) == tasks)


# Shutting down


def text_so_far(run: RunContext) -> str:
    return "".join(piece for pieces in run.sent for piece in pieces)


async def test_runs_that_are_interrupted_say_so_and_report_what_they_consumed():
    async with house_of(ENDLESS, ENDLESS, agents=agent(sync_answers)) as (house, _):
        reading = [asyncio.create_task(events_of(house, ask(name))) for name in ("echo", "mine")]
        await until(lambda: [text_so_far(run) for run in house.service._going.values()] == ["Bonjour", "Bonjour"])
        assert house.service.running == 2
        house.service.interrupt_all()
        for events in await asyncio.gather(*reading):
            assert_grammar(events)
            assert text_of(events) == "Bonjour"
            assert isinstance(failure_of(events), ShuttingDown)
            assert [call.status for call in finish_of(events).report.calls] == ["cancelled"]
        assert {(row.status, row.error_code) for row in house.ledger.rows} == {("failed", "shutting_down")}


async def test_a_run_that_is_interrupted_before_its_first_step_does_not_hang():
    async with house_of() as (house, _):
        stream = house.service.stream(ask())
        events: list[RunEvent] = [await anext(stream)]
        house.service.interrupt_all()
        async with asyncio.timeout(WAIT_S):
            events += [event async for event in stream]
        assert_grammar(events)
        assert isinstance(failure_of(events), ShuttingDown)
