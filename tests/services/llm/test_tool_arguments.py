"""Arguments that JSON can spell and encoders refuse: the tool gets them, they go back to the letter, nothing breaks."""

import functools
import json
import math
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph

from services.llm.chat_model import RouteurChatModel
from tests.house_for_tests import finish_of, model, text_of
from tests.postgres_for_tests import _made_cluster, database_url, postgres, tmp_path
from tests.scripted_provider import Step, call_tool, finish, say
from tests.services.test_threads import server, turn

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.

QUESTION = [HumanMessage("Hi")]
ANSWER: list[Step] = [*say("Done"), *finish()]
TOO_LARGE = 123456789012345678901234567890


@tool
def echo(value: Any) -> str:
    """Give the value back."""
    return str(value)


def calls(arguments: str) -> list[Step]:
    return [*call_tool("echo", arguments), *finish(reason="tool_calls")]


async def whole(llm: Any, messages: Any) -> AIMessage:
    answer: AIMessage = await llm.ainvoke(messages)
    return answer


async def streamed(llm: Any, messages: Any) -> AIMessage:
    return functools.reduce(operator.add, [piece async for piece in llm.astream(messages)])


TAKES = pytest.mark.parametrize("take", [whole, streamed])

NUMBERS = {
    str(TOO_LARGE): TOO_LARGE,
    str(-(2**63) - 1): -(2**63) - 1,
    str(2**64): 2**64,
    "1e400": math.inf,
    "-Infinity": -math.inf,
    "NaN": math.nan,
}


@TAKES
@pytest.mark.parametrize("spelt", NUMBERS)
async def test_a_tool_gets_the_number_that_the_model_wrote_and_the_model_its_own_letters(
    take: Callable[..., Any], spelt: str
) -> None:
    arguments = f'{{"value":{spelt}, "more":[{{"n":{spelt}}}]}}'
    async with model(calls(arguments), ANSWER) as (llm, _, provider):
        message = await take(llm.bind_tools([echo]), QUESTION)
        given = message.tool_calls[0]["args"]
        assert repr([given["value"], given["more"][0]["n"]]) == repr([NUMBERS[spelt]] * 2)
        await llm.ainvoke([*QUESTION, message, ToolMessage("3", tool_call_id="call_1")])
        sent = provider.requests[1]["messages"][1]["tool_calls"]
    assert [call["function"]["arguments"] for call in sent] == [arguments]


async def test_a_number_that_a_node_has_changed_is_sent_as_the_node_left_it() -> None:
    async with model(calls(f'{{"value":{TOO_LARGE}}}'), ANSWER) as (llm, _, provider):
        message = await llm.bind_tools([echo]).ainvoke(QUESTION)
        message.tool_calls[0]["args"] = {"value": TOO_LARGE + 1}
        await llm.ainvoke([*QUESTION, message, ToolMessage("3", tool_call_id="call_1")])
        (sent,) = provider.requests[1]["messages"][1]["tool_calls"]
    assert json.loads(sent["function"]["arguments"]) == {"value": TOO_LARGE + 1}


@TAKES
async def test_half_a_character_in_the_arguments_and_in_the_tools_answer_is_sent(take: Callable[..., Any]) -> None:
    arguments = '{"value":"a\\ud83d"}'
    async with model(calls(arguments), ANSWER) as (llm, _, provider):
        message = await take(llm.bind_tools([echo]), QUESTION)
        answer = await llm.ainvoke([*QUESTION, message, ToolMessage("a\ud83d", tool_call_id="call_1")])
        assert answer.text == "Done"
        _, sent, result = provider.requests[1]["messages"]
    assert sent["tool_calls"][0]["function"]["arguments"] == arguments
    assert result["content"] == "a\ufffd"


async def test_half_a_character_in_a_call_that_a_node_made_is_replaced_on_its_way() -> None:
    call = {"name": "echo", "args": {"value": "a\ud83d"}, "id": "call_1"}
    async with model(ANSWER) as (llm, _, provider):
        await llm.ainvoke([*QUESTION, AIMessage("", tool_calls=[call]), ToolMessage("3", tool_call_id="call_1")])
        (sent,) = provider.requests[0]["messages"][1]["tool_calls"]
    assert json.loads(sent["function"]["arguments"]) == {"value": "a\ufffd"}


def loops(take: Callable[..., Any]) -> Callable[[RouteurChatModel], StateGraph[Any]]:
    """An agent that calls its one tool until the model answers with text."""

    def create(llm: RouteurChatModel) -> StateGraph[Any]:
        async def think(state: MessagesState) -> dict[str, Any]:
            message = await take(llm.bind_tools([echo]), state["messages"])
            used = [await echo.ainvoke(call) for call in message.tool_calls]
            return {"messages": [message, *used]}

        graph: StateGraph[Any] = StateGraph(MessagesState)
        graph.add_node("think", think)
        graph.add_edge(START, "think")
        graph.add_conditional_edges(
            "think", lambda state: "think" if isinstance(state["messages"][-1], ToolMessage) else END
        )
        return graph

    return create


@TAKES
async def test_a_thread_keeps_such_numbers_and_sends_them_to_the_letter_in_its_next_turn(
    database_url: str, tmp_path: Path, take: Callable[..., Any]
) -> None:
    arguments = f'{{"value":{TOO_LARGE},"more":[1e400,NaN,"a\\ud83d"]}}'
    scripts = [calls(arguments), ANSWER, ANSWER]
    async with server(database_url, tmp_path, *scripts, agents={"mine": loops(take)}) as (house, provider, _):
        first = await turn(house, "one", agent="mine", events=True)
        second = await turn(house, "two", agent="mine")
        sent = [request["messages"] for request in provider.requests]
    assert (text_of(first), text_of(second)) == ("Done", "Done")
    assert [warning for warning in finish_of(first).warnings if "more than 64 bits" in warning]
    for messages in sent[1:]:
        assert [call["function"]["arguments"] for call in messages[1]["tool_calls"]] == [arguments]
        assert messages[2]["content"] == str(TOO_LARGE)
