"""Each fault of a provider, in each form of asking: the events, who is named, and what the ledger keeps.

A route of two candidates, the first of which is at fault; and the faulty one alone. Nothing that was cut ends cleanly.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from langgraph.graph import MessagesState

from config.catalogue import Route
from domain.errors import InternalError, RouteurError
from domain.runs import Finished, Hop, ModelDelta, RunEvent, RunRecord, RunRequest, Started, Tokens
from services.llm.chat_model import RouteurChatModel
from tests.faults import FAULTS, Fault
from tests.house_for_tests import (
    CATALOGUE,
    House,
    agent,
    ask,
    assert_grammar,
    events_of,
    failure_of,
    finish_of,
    open_house,
    text_of,
    the_row,
    until,
)
from tests.router_for_tests import FakeProvider
from tests.scripted_provider import (
    Cut,
    ScriptedProvider,
    Stall,
    Status,
    Step,
    call_tool,
    finish,
    say,
    scripted_provider,
)

FAULTY, GOOD = "gpt-4o-mini", "mistral-small-latest"
PAIR = CATALOGUE.model_copy(update={"routes": (Route(name="pair", candidates=(FAULTY, GOOD)),)})
BONJOUR: list[Step] = [*say("Bon", "jour"), *finish(10, 2)]
STALL_S = 0.5
RUN_S = 1.0
WAIT_S = 30.0
FORMS = {
    "an agent": {"agent": "echo", "stream": True},
    "a model, streamed": {"agent": None, "stream": True},
    "a model, whole": {"agent": None, "stream": False},
}

each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
each_fault = pytest.mark.parametrize("fault", FAULTS, ids=str)


def is_whole(request: RunRequest) -> bool:
    """Whether the provider is asked for the answer in one piece."""
    return request.agent is None and not request.stream


@asynccontextmanager
async def faulty_house(
    faulty: ScriptedProvider, good: ScriptedProvider, fault: Fault | None = None, *, whole: bool = False
) -> AsyncIterator[House]:
    """With short limits only for the fault that nothing else ends: a stall, or the run itself where it is whole."""
    limits = {} if fault is None or not fault.lasts else {"run_timeout_s": RUN_S} if whole else {"stall_s": STALL_S}
    async with open_house(faulty, mistral_url=good.base_url, catalogue=PAIR, **limits) as house:
        yield house


async def with_a_stand_in(fault: Fault, request: RunRequest) -> tuple[list[RunEvent], RunRecord]:
    """The faulty one's fault for ever, and a good candidate behind it, which is asked when it is its turn."""
    async with (
        scripted_provider(list(fault.script), repeat=True) as faulty,
        scripted_provider(BONJOUR, repeat=True) as good,
        faulty_house(faulty, good, fault, whole=is_whole(request)) as house,
    ):
        events = await events_of(house, request)
        row = the_row(house)
        assert len(faulty.requests) + len(good.requests) == len(row.calls)
        return events, row


async def alone(fault: Fault, request: RunRequest) -> tuple[list[RunEvent], RunRecord]:
    async with (
        scripted_provider(list(fault.script), repeat=True) as faulty,
        scripted_provider() as good,
        faulty_house(faulty, good, fault, whole=is_whole(request)) as house,
    ):
        events = await events_of(house, request)
        row = the_row(house)
        assert len(faulty.requests) == len(row.calls)
        return events, row


@each_form
@each_fault
async def test_a_fault_with_a_stand_in(fault: Fault, form: dict[str, Any]) -> None:
    request = ask(model="pair", **form)
    events, row = await with_a_stand_in(fault, request)
    whole = is_whole(request)
    if whole and fault.lasts:
        check_ended_by_the_run(events, row)
    elif fault.spoke and not whole:
        check_cut_short(events, row, fault)
    else:
        check_stood_in_for(events, row, fault, whole=whole)
    check_sums(events, row)


@each_form
@each_fault
async def test_a_fault_alone(fault: Fault, form: dict[str, Any]) -> None:
    request = ask(model=FAULTY, **form)
    events, row = await alone(fault, request)
    whole = is_whole(request)
    if whole and fault.lasts:
        check_ended_by_the_run(events, row)
    elif fault.spoke and not whole:
        check_cut_short(events, row, fault)
    else:
        check_failed(events, row, fault, whole=whole)
    check_sums(events, row)


def check_stood_in_for(events: list[RunEvent], row: RunRecord, fault: Fault, *, whole: bool) -> None:
    assert (text_of(events), failure_of(events)) == ("Bonjour", None)
    assert {event.model for event in events if isinstance(event, Tokens)} == {GOOD}
    end = finish_of(events)
    assert (end.model, end.message_count) == (GOOD, 2)
    (hop,) = end.fallbacks
    check_hop(hop, fault)
    assert (row.status, row.error_code, row.requested_model, row.model) == ("succeeded", None, "pair", GOOD)
    *failed, answered = row.calls
    assert len(failed) == fault.attempts
    check_failed_calls(failed, fault, whole=whole)
    assert (answered["model"], answered["status"], answered["estimated"]) == (GOOD, "succeeded", False)
    assert (answered["input_tokens"], answered["output_tokens"]) == (10, 2)


def check_hop(hop: Hop, fault: Fault) -> None:
    assert hop.model == FAULTY
    assert hop.reason.startswith("openai ")
    # In one piece, another sentence says the same of an answer that cannot be read.
    assert fault.reason in hop.reason or "not JSON" in hop.reason


def check_failed(events: list[RunEvent], row: RunRecord, fault: Fault, *, whole: bool) -> None:
    assert text_of(events) == ""
    error = failure_of(events)
    assert isinstance(error, RouteurError)
    assert (error.code, error.status) == (fault.code, fault.status)
    assert [type(event).__name__ for event in events] == ["Started", "Failed", "Finished"]
    end = finish_of(events)
    assert (end.fallbacks, end.model, end.message_count) == ((), FAULTY, 1)
    assert (row.status, row.error_code, row.model) == ("failed", fault.code, FAULTY)
    assert row.time_to_first_token_s is None
    assert len(row.calls) == fault.attempts_alone
    check_failed_calls(row.calls, fault, whole=whole)


def check_cut_short(events: list[RunEvent], row: RunRecord, fault: Fault) -> None:
    """The reader has half an answer: it is told, and nobody else is asked."""
    assert text_of(events) == "Half"
    error = failure_of(events)
    assert isinstance(error, RouteurError)
    assert error.code == fault.code
    assert fault.reason in error.message
    end = finish_of(events)
    assert (end.fallbacks, end.model, end.message_count) == ((), FAULTY, 1)
    assert (row.status, row.error_code) == ("failed", fault.code)
    assert row.time_to_first_token_s is not None
    (call,) = row.calls
    assert (call["status"], call["error_code"], call["estimated"]) == ("failed", fault.code, True)
    assert (call["output_tokens"] or 0) >= 1


def check_ended_by_the_run(events: list[RunEvent], row: RunRecord) -> None:
    """In one piece, silence is no fault: only the run's own limit ends it, and what was written is not known."""
    assert text_of(events) == ""
    error = failure_of(events)
    assert isinstance(error, RouteurError)
    assert (error.code, finish_of(events).fallbacks) == ("run_timeout", ())
    assert (row.status, row.error_code, row.output_tokens) == ("failed", "run_timeout", None)
    (call,) = row.calls
    assert (call["status"], call["output_tokens"], call["estimated"]) == ("cancelled", None, True)


def check_failed_calls(calls: Sequence[Mapping[str, Any]], fault: Fault, *, whole: bool) -> None:
    for call in calls:
        assert (call["model"], call["status"], call["error_code"]) == (FAULTY, "failed", fault.code)
        consumed = (call["input_tokens"], call["output_tokens"], call["estimated"])
        if fault.spent == "nothing":
            assert consumed == (0, 0, False)
            assert (call["cost_eur"], call["gwp_kgco2eq"]) == (0, 0)
        elif whole:
            assert consumed == (4, None, True)
            assert (call["cost_eur"], call["gwp_kgco2eq"]) == (None, None)
        else:
            assert consumed == (4, 0, True)


def check_sums(events: list[RunEvent], row: RunRecord) -> None:
    """The report, the row and its calls say the same; one unknown makes the sum unknown."""
    assert_grammar(events)
    assert isinstance(events[0], Started)
    report = finish_of(events).report
    assert (row.input_tokens, row.output_tokens) == (report.usage.input_tokens, report.usage.output_tokens)
    for sum_of_row, name in ((row.input_tokens, "input_tokens"), (row.output_tokens, "output_tokens")):
        parts = [call[name] for call in row.calls]
        assert sum_of_row == (None if None in parts else sum(parts))
    costs = [call["cost_eur"] for call in row.calls]
    assert row.cost_eur == (None if None in costs else pytest.approx(sum(costs)))
    assert row.cost_eur == report.price.total_eur
    assert row.estimated == report.estimated == any(call["estimated"] for call in row.calls)
    assert (row.gwp_kgco2eq is None) == any(call["gwp_kgco2eq"] is None for call in row.calls)
    assert row.latency_s >= max(call["latency_s"] for call in row.calls)


@each_form
async def test_a_provider_that_is_not_there_has_its_stand_in(form: dict[str, Any]) -> None:
    async with scripted_provider() as faulty, scripted_provider(BONJOUR) as good:
        faulty.base_url = "http://127.0.0.1:1/v1"
        async with faulty_house(faulty, good) as house:
            events = await events_of(house, ask(model="pair", **form))
            row = the_row(house)
    fault = Fault("refused", (), "provider_unreachable", "cannot be reached", spent="nothing")
    check_stood_in_for(events, row, fault, whole=False)
    check_sums(events, row)


@pytest.mark.parametrize("ending", [[], [Cut()]], ids=["end", "cut"])
async def test_half_a_tool_call_never_ends_cleanly_and_nobody_else_adds_to_it(ending: list[Step]) -> None:
    fault = Fault("", (*call_tool("add", '{"a"'), *ending), "provider_cut", "")
    events, row = await with_a_stand_in(fault, ask(None, model="pair", stream=True))
    fragments = [event for event in events if isinstance(event, ModelDelta)]
    assert fragments
    assert all(event.finish_reason is None and event.model == FAULTY for event in fragments)
    assert isinstance(failure_of(events), RouteurError)
    assert (row.status, row.model, len(row.calls)) == ("failed", FAULTY, 1)


@pytest.mark.parametrize("form", [FORMS["a model, streamed"], FORMS["a model, whole"]], ids=["streamed", "whole"])
async def test_a_model_alone_says_the_same_in_either_form(form: dict[str, Any]) -> None:
    script = [*say("Let me"), *call_tool("add", '{"a": 1}'), *finish(7, 3, "tool_calls")]
    async with scripted_provider(script) as faulty, scripted_provider() as good, faulty_house(faulty, good) as house:
        events = await events_of(house, ask(model=FAULTY, **form))
        assert faulty.requests[0]["stream"] is form["stream"]
    assert text_of(events) == "Let me"
    rare = [event for event in events if isinstance(event, ModelDelta)]
    arguments = [part["function"]["arguments"] for event in rare for part in event.content.get("tool_calls", ())]
    assert "".join(arguments) == '{"a": 1}'
    assert [event.finish_reason for event in rare if event.finish_reason] == ["tool_calls"]
    end = events[-1]
    assert isinstance(end, Finished)
    assert (end.report.usage.input_tokens, end.report.usage.output_tokens) == (7, 3)


# Leaving, and faults of our own


async def leave_when(holds: Callable[[House], bool], house: House, request: RunRequest) -> RunRecord:
    """Hang up once this holds."""
    async with aclosing(house.service.stream(request)) as events:
        await anext(events)
        waiting = asyncio.ensure_future(anext(events))
        await until(lambda: holds(house))
        waiting.cancel()
        await asyncio.wait({waiting}, timeout=WAIT_S)
    return the_row(house)


async def test_leaving_a_whole_answer_closes_the_connection_and_its_price_is_not_known() -> None:
    async with scripted_provider([Stall()]) as faulty, scripted_provider() as good, faulty_house(faulty, good) as house:
        row = await leave_when(lambda _: faulty.answering == 1, house, ask(None, model="pair"))
        await asyncio.wait_for(faulty.left_early.wait(), WAIT_S)
    assert (row.status, row.estimated, row.input_tokens, row.output_tokens) == ("cancelled", True, 4, None)
    assert (row.cost_eur, row.gwp_kgco2eq, row.energy_kwh, row.wcf_liters) == (None, None, None, None)
    assert [(call["status"], call["output_tokens"]) for call in row.calls] == [("cancelled", None)]


@each_form
async def test_leaving_while_another_attempt_is_waited_for_asks_nobody_and_is_counted(form: dict[str, Any]) -> None:
    busy: list[Step] = [Status(429, {"error": "busy"}, (("Retry-After", "7"),))]
    async with scripted_provider(busy) as faulty, scripted_provider() as good, faulty_house(faulty, good) as house:

        def has_failed(house: House) -> bool:
            return any(context.calls for context in house.service._going.values())

        row = await leave_when(has_failed, house, ask(model=FAULTY, **form))
    assert (row.status, row.output_tokens, row.cost_eur) == ("cancelled", 0, 0)
    assert [call["status"] for call in row.calls] == ["failed"]


async def test_a_model_passed_over_at_each_of_an_agents_calls_is_one_hop() -> None:
    def node(llm: RouteurChatModel) -> Any:
        async def answer(state: MessagesState) -> dict[str, Any]:
            await llm.ainvoke(state["messages"])
            return {"messages": [await llm.ainvoke(state["messages"])]}

        return answer

    routes = (Route(name="open", candidates=("openai/gpt-oss-120b", FAULTY)),)
    catalogue = CATALOGUE.model_copy(update={"routes": routes})
    async with (
        scripted_provider(BONJOUR, BONJOUR) as provider,
        open_house(provider, agent(node), catalogue=catalogue) as house,
    ):
        end = finish_of(await events_of(house, ask("mine", model="open")))
    assert end.fallbacks == (Hop("openai/gpt-oss-120b", "'openai/gpt-oss-120b' needs the setting HF_TOKEN"),)
    assert (end.model, len(end.report.calls)) == (FAULTY, 2)


async def test_a_fault_of_our_own_is_not_laid_at_an_agents_door_where_there_is_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with scripted_provider() as faulty, scripted_provider() as good, faulty_house(faulty, good) as house:
        house.router._servers["openai"] = FakeProvider("openai", [KeyError("oops")])  # type: ignore[index]
        events = await events_of(house, ask(None, model="pair", request_id="req-9"))
        row = the_row(house)
    error = failure_of(events)
    assert isinstance(error, InternalError)
    assert "req-9" in error.message
    assert "KeyError" in caplog.text
    assert (row.status, row.error_code) == ("failed", "internal_error")
    assert [call["status"] for call in row.calls] == ["failed"]
