"""Trimming: what is kept fits, is the newest, makes sense, and an overflow says by how much."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from domain.errors import ContextOverflow
from services.llm.context import CHARS_PER_TOKEN, TOKENS_PER_MESSAGE, estimated_tokens, trim_messages

MESSAGE_TOKENS = 100
LONG = "x" * ((MESSAGE_TOKENS - TOKENS_PER_MESSAGE) * CHARS_PER_TOKEN)
"""A text of `MESSAGE_TOKENS` tokens, as they are estimated."""


def trim(messages: Sequence[BaseMessage], context: int, max_tokens: int | None = None) -> list[BaseMessage]:
    return trim_messages(messages, context_tokens=context, max_tokens=max_tokens, model="m")


def turns(count: int) -> list[BaseMessage]:
    return [message for _ in range(count) for message in (HumanMessage(LONG), AIMessage(LONG))]


def test_what_fits_is_kept_whole():
    messages = [SystemMessage("s"), *turns(3), HumanMessage("last")]
    assert trim(messages, 100_000) == messages


def test_the_oldest_turns_fall_away_and_the_rest_starts_with_the_user():
    messages = [*turns(10), HumanMessage(LONG)]
    # Room for 4.5 messages: the last question, one turn before it, and an answer whose question is gone.
    kept = trim(messages, 600, max_tokens=150)
    assert kept == messages[-3:]


def test_the_system_is_kept_wherever_it_stands():
    system = SystemMessage("Be brief")
    kept = trim([*turns(10), system, *turns(10), HumanMessage("last")], 1000)
    assert kept[0] is system
    assert isinstance(kept[1], HumanMessage)


def test_a_quarter_is_kept_for_the_answer_unless_the_caller_says_how_much():
    messages = [*turns(5), HumanMessage(LONG)]
    assert len(trim(messages, 1000)) == 7
    assert len(trim(messages, 1000, max_tokens=10)) == 9
    assert len(trim(messages, 1000, max_tokens=10_000)) == 5


def test_a_tools_answer_is_never_parted_from_its_call_nor_the_call_from_its_question():
    asked = AIMessage(LONG, tool_calls=[{"name": "add", "args": {}, "id": "1"}])
    messages = [*turns(5), HumanMessage(LONG), asked, ToolMessage(LONG, tool_call_id="1")]
    assert trim(messages, 500, max_tokens=150) == messages[-3:]
    with pytest.raises(ContextOverflow):
        trim(messages, 400, max_tokens=150)


def test_an_overflow_names_its_figures_and_the_way_out():
    with pytest.raises(ContextOverflow) as caught:
        trim([SystemMessage(LONG), HumanMessage(LONG)], 200, max_tokens=50)
    message = caught.value.message
    assert "about 200 tokens" in message
    assert "'m' has room for 150" in message
    assert "200 less 50" in message
    assert "larger context" in message


def test_an_exact_fit_fits():
    messages = [SystemMessage(LONG), HumanMessage(LONG)]
    assert trim(messages, 250, max_tokens=50) == messages


def test_one_token_too_many_makes_a_turn_fall_away():
    messages = [*turns(1), HumanMessage(LONG)]
    assert trim(messages, 400, max_tokens=100) == messages
    assert trim(messages, 399, max_tokens=100) == messages[-1:]


def test_nothing_is_nothing():
    assert trim([], 100) == []
    assert trim([SystemMessage("s")], 100) == [SystemMessage("s")]


def test_messages_without_a_question_keep_the_last():
    messages = [AIMessage(LONG) for _ in range(5)]
    assert trim(messages, 200, max_tokens=50) == messages[-1:]


kinds = st.sampled_from([SystemMessage, HumanMessage, HumanMessage, AIMessage, AIMessage])
conversations = st.lists(st.builds(lambda kind, text: kind(text), kinds, st.text("xé", max_size=600)), max_size=12)


@examples(deadline=None, max_examples=300)
@given(messages=conversations, context=st.integers(20, 2000), max_tokens=st.none() | st.integers(1, 3000))
def test_what_is_kept_fits_and_is_the_newest_and_starts_with_the_user(messages, context, max_tokens):
    answer = min(max_tokens or context // 4, context // 2)
    system = [message for message in messages if isinstance(message, SystemMessage)]
    rest = [message for message in messages if not isinstance(message, SystemMessage)]
    try:
        kept = trim(messages, context, max_tokens)
    except ContextOverflow:
        last_user = max((i for i, m in enumerate(rest) if isinstance(m, HumanMessage)), default=len(rest) - 1)
        needed = [*system, *rest[max(last_user, 0) :]]
        assert sum(map(estimated_tokens, needed)) > context - answer
        return
    assert sum(map(estimated_tokens, kept)) <= context - answer
    assert kept[: len(system)] == system
    tail = kept[len(system) :]
    assert [id(message) for message in tail] == [id(message) for message in rest[len(rest) - len(tail) :]]
    assert bool(tail) == bool(rest)
    if len(tail) < len(rest) and any(isinstance(message, HumanMessage) for message in rest):
        assert isinstance(tail[0], HumanMessage)
