"""What a run says: each piece once, from whichever node or model, no faster than it is read."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypedDict

import pytest
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from domain.errors import (
    AgentFailed,
)
from domain.messages import Message
from domain.runs import Progress, Tokens
from services import run_context
from services.llm.chat_model import RouteurChatModel
from tests.house_for_tests import (
    agent,
    answers,
    ask,
    assert_grammar,
    events_of,
    failure_of,
    finish_of,
    house_of,
    open_house,
    parallel_nodes,
    sync_answers,
    text_of,
    until,
    writes,
)
from tests.scripted_provider import (
    Chunk,
    Stall,
    Step,
    Wait,
    finish,
    say,
    scripted_provider,
)

BONJOUR: list[Step] = [*say("Bon", "jour"), *finish(10, 2)]
ENDLESS: list[Step] = [*say("Bon", "jour"), Stall()]


async def test_an_agent_that_writes_its_answer_itself_is_heard():
    async with house_of(agents=agent(writes("Written by hand"))) as (house, _):
        events = await events_of(house, ask("mine"))
        assert text_of(events) == "Written by hand"
        assert finish_of(events).report.calls == ()
        assert finish_of(events).report.price.total_eur == 0.0


class ListState(TypedDict):
    messages: list[Any]


def adds_by_hand(*texts: str) -> Any:
    """An agent whose list of messages has no reducer, and so no ids."""

    def create(llm: RouteurChatModel) -> StateGraph[Any]:
        graph: StateGraph[Any] = StateGraph(ListState)
        graph.add_node("node", lambda state: {"messages": [*state["messages"], *map(AIMessage, texts)]})
        graph.add_edge(START, "node")
        graph.add_edge("node", END)
        return graph

    return create


@pytest.mark.parametrize("events", [False, True])
@pytest.mark.parametrize("texts", [[], ["By hand"], ["again"]], ids=["nothing", "new", "the same again"])
async def test_the_answer_among_messages_without_ids_is_what_came_last(texts: list[str], events: bool) -> None:
    said = (Message("user", "Hi"), Message("assistant", "again"), Message("user", "And?"))
    request = replace(ask("mine", events=events), messages=said)
    async with house_of(agents={"mine": adds_by_hand(*texts)}) as (house, _):
        assert text_of(await events_of(house, request)) == "".join(texts)


def rebuilds(change: Callable[[str], str]) -> Any:
    def node(llm: RouteurChatModel) -> Any:
        async def answer(state: MessagesState) -> dict[str, Any]:
            return {"messages": [AIMessage(change((await llm.ainvoke(state["messages"])).text))]}

        return answer

    return node


@pytest.mark.parametrize(
    ("change", "heard"),
    [
        (lambda text: text, " Bonjour \n"),
        (str.strip, " Bonjour \n"),
        (lambda text: text + "\n\n[1] source", " Bonjour \n\n\n[1] source"),
        (lambda text: text.strip() + " [1]", " Bonjour \n [1]"),
        (lambda _: "", " Bonjour \n"),
        (lambda _: "Something else", " Bonjour \nSomething else"),
    ],
    ids=["the same", "stripped", "with sources", "stripped, with sources", "emptied", "replaced"],
)
async def test_a_node_that_builds_its_message_anew_does_not_have_the_text_sent_twice(change, heard):
    script = [*say(" Bon", "jour \n"), *finish()]
    async with house_of(script, agents=agent(rebuilds(change))) as (house, _):
        assert text_of(await events_of(house, ask("mine"))) == heard


async def test_a_hushed_call_is_counted_and_the_answer_written_from_it_is_heard():
    def node(llm: RouteurChatModel) -> Any:
        async def answer(state: MessagesState) -> dict[str, Any]:
            draft = await llm.with_config(tags=["nostream"]).ainvoke(state["messages"])
            return {"messages": [AIMessage(draft.text.upper())]}

        return answer

    async with house_of(BONJOUR, agents=agent(node)) as (house, _):
        events = await events_of(house, ask("mine"))
        assert text_of(events) == "BONJOUR"
        assert finish_of(events).report.usage.output_tokens == 2


def pinned(model: str) -> Any:
    return lambda llm: answers(llm.bind(model=model))  # type: ignore[arg-type]


async def test_two_calls_at_once_are_both_counted_and_summed_by_model():
    both = {"mine": parallel_nodes(one=pinned("gpt-4o"), two=pinned("mistral-small-latest"))}
    script = [*say("Bon"), Wait(0.02), *say("jour"), *finish(10, 2)]
    async with scripted_provider(script, repeat=True) as provider, open_house(provider, both) as house:
        events = await events_of(house, ask("mine"))
        report = finish_of(events).report
        assert {name: usage.total_tokens for name, usage in report.usage_by_model.items()} == {
            "gpt-4o": 12,
            "mistral-small-latest": 12,
        }
        assert (report.usage.input_tokens, report.usage.output_tokens) == (20, 4)
        # Neither answer is sent a second time for having been interleaved with the other.
        assert sorted(text_of(events)) == sorted("BonjourBonjour")
        by_model = {"gpt-4o": "", "mistral-small-latest": ""}
        for event in events:
            if isinstance(event, Tokens):
                by_model[event.model] += "".join(event.pieces)
        assert set(by_model.values()) == {"Bonjour"}


async def test_the_first_of_two_answers_given_at_once_is_not_sent_twice():
    def node(llm: RouteurChatModel) -> Any:
        async def answer(state: MessagesState) -> dict[str, Any]:
            both = (llm.bind(model=name).ainvoke(state["messages"]) for name in ("gpt-4o", "gpt-4o-mini"))
            return {"messages": [(await asyncio.gather(*both))[0]]}

        return answer

    def own_name(asked: dict[str, Any]) -> list[Step]:
        return [*say(*asked["model"]), *finish()]

    async with scripted_provider(compose=own_name) as provider, open_house(provider, agent(node)) as house:
        events = await events_of(house, ask("mine"))
        assert sorted(text_of(events)) == sorted("gpt-4o" + "gpt-4o-mini")


async def test_a_node_that_fails_ends_those_beside_it_and_their_calls_are_counted():
    both_asked = asyncio.Event()

    async def fails(_: MessagesState) -> dict[str, Any]:
        await both_asked.wait()
        raise ValueError("oops")

    agents = {"mine": parallel_nodes(one=answers, two=lambda _: fails, three=sync_answers)}
    async with house_of(ENDLESS, ENDLESS, agents=agents) as (house, provider):
        reading = asyncio.create_task(events_of(house, ask("mine")))
        await until(lambda: provider.answering == 2)
        both_asked.set()
        events = await reading
        assert isinstance(failure_of(events), AgentFailed)
        assert [call.status for call in finish_of(events).report.calls] == ["cancelled", "cancelled"]
        await until(lambda: provider.answering == 0)


async def test_progress_tells_the_nodes_when_it_is_asked_for():
    async with house_of(BONJOUR, BONJOUR) as (house, _):
        with_events = await events_of(house, ask(events=True))
        without = await events_of(house, ask())
    steps = [event.content for event in with_events if isinstance(event, Progress)]
    assert steps == [{"node": "answer", "status": "started"}, {"node": "answer", "status": "finished"}]
    assert text_of(with_events) == text_of(without) == "Bonjour"
    assert not any(isinstance(event, Progress) for event in without)
    assert_grammar(with_events)


async def test_an_answer_without_a_model_is_heard_with_progress_too():
    async with house_of(agents=agent(writes("Written by hand"))) as (house, _):
        assert text_of(await events_of(house, ask("mine", events=True))) == "Written by hand"


# Backpressure


async def test_a_slow_reader_bounds_what_waits(monkeypatch):
    monkeypatch.setattr(run_context, "MAX_WAITING_CHARS", 50)
    piece = b"x" * 500
    flood = Chunk(b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % piece * 100)
    script = [*([flood] * 400), *finish()]
    async with house_of(script) as (house, provider):
        stream = house.service.stream(ask())
        await anext(stream)
        await until(lambda: next(iter(house.service._going.values())).queue._waiting > 50)
        await asyncio.sleep(0.1)
        context = next(iter(house.service._going.values()))
        # The bound, and at most one read of the socket beyond it; the rest waits at the provider's.
        assert context.queue._waiting < 600_000
        waiting = context.queue._waiting
        await asyncio.sleep(0.05)
        assert context.queue._waiting == waiting
        assert provider.answering == 1
        events = [event async for event in stream]
        assert len(text_of(events)) == 400 * 100 * 500
        assert failure_of(events) is None
