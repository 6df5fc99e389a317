"""The one run path: whatever happens to a run, its events come in order, its figures add up, and its row is written."""

import asyncio
import dataclasses
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from domain.errors import (
    AgentFailed,
    BadRequest,
    ModelUnavailable,
    ProviderCut,
    ProviderRefused,
    ProviderStalled,
    RateLimitedByProvider,
    RunTimeout,
    UnknownAgent,
    UnknownModel,
)
from domain.messages import Message
from domain.runs import Failed, Finished, Started, Tokens
from services.llm.chat_model import RouteurChatModel
from tests.house_for_tests import (
    agent,
    ask,
    assert_grammar,
    events_of,
    failure_of,
    finish_of,
    house_of,
    open_house,
    text_of,
    the_row,
)
from tests.scripted_provider import (
    Cut,
    Stall,
    Status,
    Step,
    Wait,
    finish,
    say,
    scripted_provider,
)

BONJOUR: list[Step] = [*say("Bon", "jour"), *finish(10, 2)]
ENDLESS: list[Step] = [*say("Bon", "jour"), Stall()]


# Success


async def test_an_answer_comes_in_pieces_then_its_report():
    async with house_of(BONJOUR) as (house, _):
        events = await events_of(house, ask(model="gpt-4o"))
        assert_grammar(events)
        assert text_of(events) == "Bonjour"
        assert failure_of(events) is None
        end = finish_of(events)
        assert (end.report.usage.input_tokens, end.report.usage.output_tokens) == (10, 2)
        assert (end.model, end.message_count, end.report.estimated) == ("gpt-4o", 2, False)
        assert isinstance(events[0], Started)
        assert (events[0].run_id, events[0].agent, events[0].model) == (end.run_id, "echo", "gpt-4o")


async def test_the_row_says_what_the_report_says():
    async with house_of(BONJOUR) as (house, _):
        request = ask(model="gpt-4o", project_id="p", stream=True, request_id="req-7")
        end = finish_of(await events_of(house, request))
        row = the_row(house)
    assert (row.run_id, row.request_id, row.subject, row.project_id) == (end.run_id, "req-7", "tester", "p")
    assert (row.agent, row.requested_model, row.model, row.stream) == ("echo", "gpt-4o", "gpt-4o", True)
    assert (row.status, row.error_code, row.message_count) == ("succeeded", None, 2)
    assert (row.input_tokens, row.output_tokens, row.cost_eur) == (10, 2, end.report.price.total_eur)
    assert row.time_to_first_token_s is not None
    assert 0 < row.time_to_first_token_s <= row.latency_s
    assert [call["status"] for call in row.calls] == ["succeeded"]


async def test_the_row_is_written_before_the_end_is_told():
    async with house_of(BONJOUR) as (house, _):
        rows_at: dict[type, int] = {}
        async for event in house.service.stream(ask()):
            rows_at[type(event)] = len(house.ledger.rows)
    assert rows_at == {Started: 0, Tokens: 0, Finished: 1}


async def test_the_conversation_reaches_the_model_in_its_roles():
    async with house_of(BONJOUR) as (house, provider):
        spoken = (Message("system", "s"), Message("user", "u"), Message("assistant", "a"), Message("user", "v"))
        events = await events_of(house, dataclasses.replace(ask(), messages=spoken))
        sent = [(message["role"], message["content"]) for message in provider.requests[0]["messages"]]
        assert sent == [("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "v")]
        assert finish_of(events).message_count == 5


async def test_temperature_and_max_tokens_reach_the_wire_only_when_they_are_asked_for():
    async with house_of(BONJOUR, BONJOUR) as (house, provider):
        await events_of(house, ask(temperature=0.0, max_tokens=9))
        await events_of(house, ask())
        asked, silent = provider.requests
        assert (asked["temperature"], asked["max_completion_tokens"]) == (0.0, 9)
        assert not {"temperature", "max_completion_tokens"} & set(silent)


async def test_an_unknown_agent_or_model_is_refused_at_once_and_leaves_no_row():
    async with house_of() as (house, _):
        for request, error in ((ask("nobody"), UnknownAgent), (ask(model="gpt-0"), UnknownModel)):
            with pytest.raises(error):
                await anext(house.service.stream(request))
        with pytest.raises(ModelUnavailable):
            await anext(house.service.stream(ask(model="smollm2-135m-instruct")))
        assert house.ledger.rows == []
        assert house.service.running == 0


async def test_sixty_four_runs_at_once_do_not_mix_their_answers():
    def echo(asked: dict[str, Any]) -> list[Step]:
        text = asked["messages"][-1]["content"]
        return [step for _ in range(5) for step in (*say(text), Wait(0.002))] + finish(1, 5)

    async with scripted_provider(compose=echo) as provider, open_house(provider) as house:
        runs = (events_of(house, ask(text=f"<{number}>")) for number in range(64))
        heard = [text_of(events) for events in await asyncio.gather(*runs)]
        assert heard == [f"<{number}>" * 5 for number in range(64)]
        assert len({row.run_id for row in house.ledger.rows}) == 64
        assert {row.output_tokens for row in house.ledger.rows} == {5}


# Failure


async def test_a_failure_before_the_first_token_is_told_then_the_report():
    async with house_of([Status(429, {"error": "slow down"}, (("Retry-After", "70"),))]) as (house, _):
        events = await events_of(house, ask(model="gpt-4o"))
        assert [type(event) for event in events] == [Started, Failed, Finished]
        error = failure_of(events)
        assert isinstance(error, RateLimitedByProvider)
        assert error.retry_after_s == 70
        end = finish_of(events)
        assert end.report.usage.total_tokens == 0
        assert (end.report.price.total_eur, end.message_count) == (0.0, 1)
        row = the_row(house)
        assert (row.status, row.error_code, row.estimated) == ("failed", "rate_limited_by_provider", False)
        assert row.time_to_first_token_s is None


async def test_a_failure_after_the_first_token_comes_after_the_text_and_is_counted():
    async with house_of([*say("Half"), Cut()]) as (house, _):
        events = await events_of(house, ask())
        assert_grammar(events)
        assert text_of(events) == "Half"
        assert isinstance(failure_of(events), ProviderCut)
        end = finish_of(events)
        assert end.report.estimated
        assert (end.report.usage.output_tokens or 0) > 0
        assert (the_row(house).status, the_row(house).error_code) == ("failed", "provider_cut")


async def test_a_stalled_provider_ends_the_run():
    async with house_of(ENDLESS, stall_s=1.0) as (house, _):
        events = await events_of(house, ask())
        assert text_of(events) == "Bonjour"
        assert isinstance(failure_of(events), ProviderStalled)


async def test_a_run_that_takes_too_long_is_ended_and_its_provider_left():
    async with house_of(ENDLESS, run_timeout_s=2.0) as (house, provider):
        events = await events_of(house, ask())
        assert_grammar(events)
        assert text_of(events) == "Bonjour"
        assert isinstance(failure_of(events), RunTimeout)
        assert [call.status for call in finish_of(events).report.calls] == ["cancelled"]
        await asyncio.wait_for(provider.left_early.wait(), 30)
        assert the_row(house).error_code == "run_timeout"


def raises(error: BaseException) -> Any:
    async def answer(_: MessagesState) -> dict[str, Any]:
        raise error

    return lambda _: answer


async def test_an_agents_own_failure_is_told_neutrally_and_logged_whole(caplog):
    async with house_of(agents=agent(raises(ValueError("secret detail")))) as (house, _):
        events = await events_of(house, ask("mine", request_id="req-9"))
        assert [type(event) for event in events] == [Started, Failed, Finished]
        error = failure_of(events)
    assert isinstance(error, AgentFailed)
    assert "secret" not in error.message
    assert "'mine'" in error.message
    assert "req-9" in error.message
    assert "ValueError: secret detail" in caplog.text
    assert "Traceback" in caplog.text


async def test_a_timeout_of_the_agents_own_is_not_the_runs():
    async with house_of(agents=agent(raises(TimeoutError("a tool was slow")))) as (house, _):
        assert isinstance(failure_of(await events_of(house, ask("mine"))), AgentFailed)


async def test_an_agent_that_cancels_itself_fails_and_does_not_hang():
    async with house_of(agents=agent(raises(asyncio.CancelledError()))) as (house, _):
        events = await events_of(house, ask("mine"))
        assert_grammar(events)
        assert isinstance(failure_of(events), AgentFailed)
        assert the_row(house).status == "failed"


async def test_an_error_of_the_house_raised_by_an_agent_is_told_as_it_is():
    async with house_of(agents=agent(raises(BadRequest("name a city")))) as (house, _):
        assert failure_of(await events_of(house, ask("mine"))).message == "name a city"  # type: ignore[union-attr]


async def test_the_errors_of_models_asked_together_are_not_the_agents():
    def node(llm: RouteurChatModel) -> Any:
        async def answer(state: MessagesState) -> dict[str, Any]:
            async with asyncio.TaskGroup() as group:
                group.create_task(llm.ainvoke(state["messages"]))
                group.create_task(llm.ainvoke(state["messages"]))
            return {}

        return answer

    down: list[Step] = [Status(402, {"error": "down"})]
    async with scripted_provider(down, repeat=True) as provider, open_house(provider, agent(node)) as house:
        events = await events_of(house, ask("mine", model="gpt-4o"))
        assert isinstance(failure_of(events), ProviderRefused)
        assert len(finish_of(events).report.calls) == 2


def create_endless_graph(llm: RouteurChatModel) -> StateGraph[Any]:
    graph: StateGraph[Any] = StateGraph(MessagesState)
    graph.add_node("again", lambda _: {})
    graph.add_edge(START, "again")
    graph.add_conditional_edges("again", lambda _: "again", ["again", END])
    return graph


async def test_an_agent_that_never_ends_is_ended():
    async with house_of(agents={"mine": create_endless_graph}) as (house, _):
        error = failure_of(await events_of(house, ask("mine")))
        assert isinstance(error, AgentFailed)
        assert "50 steps" in error.message


async def test_an_agent_that_survives_its_models_failure_succeeds():
    def node(llm: RouteurChatModel) -> Any:
        async def answer(state: MessagesState) -> dict[str, Any]:
            try:
                return {"messages": [await llm.ainvoke(state["messages"])]}
            except ProviderRefused:
                return {"messages": [AIMessage("Nobody is there")]}

        return answer

    down: list[Step] = [Status(500, {"error": "down"})]
    async with house_of(down, down, down, agents=agent(node)) as (house, _):
        events = await events_of(house, ask("mine", model="gpt-4o"))
        assert (text_of(events), failure_of(events)) == ("Nobody is there", None)
        assert [call.status for call in finish_of(events).report.calls] == ["failed"] * 3
        assert the_row(house).status == "succeeded"


# What is left of a run whose process dies


async def test_the_row_of_a_run_that_was_cut_off_keeps_its_settled_calls():
    seen = []

    def node(llm: RouteurChatModel) -> Any:
        async def answer(state: Any) -> Any:
            first = await llm.ainvoke("One?")
            second = await llm.ainvoke("Two?")
            return {"messages": [AIMessage(f"{first.text} {second.text}")]}

        return answer

    async with house_of([*say("1"), *finish(10, 2)], [*say("2"), *finish(20, 3)], agents=agent(node)) as (house, _):
        async with asyncio.timeout(60):
            async for _ in house.service.stream(ask("mine", "Hi")):
                seen.extend(house.ledger.begun.values())
        assert house.ledger.begun == {}
    first, *_, last = seen
    assert [(call["status"], call["input_tokens"]) for call in first.calls] == [("lost", 4)]
    assert [(call["status"], call["input_tokens"]) for call in last.calls] == [("succeeded", 10), ("lost", 4)]
    assert (last.input_tokens, last.output_tokens, last.cost_eur, last.estimated) == (14, None, None, True)
