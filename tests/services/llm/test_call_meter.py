"""A call is counted once, by what the provider said, or else by what passed; and it says which."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk

from config.catalogue import load_catalogue
from domain.errors import (
    BadRequest,
    ProviderCut,
    ProviderRefused,
    ProviderStalled,
    ProviderUnreachable,
    RateLimitedByProvider,
)
from domain.usage import LocalWork, TokenUsage
from services.llm.call_meter import CHARS_PER_TOKEN, TOKENS_PER_MESSAGE, CallMeter
from services.llm.providers.chunk_reader import read_chunk
from services.llm.providers.provider import ModelCall

MODEL = load_catalogue().models[0]


def a_call(*texts: str) -> ModelCall:
    return ModelCall(MODEL, [HumanMessage(text) for text in texts])


def counted(input_tokens: int, output_tokens: int, **details: dict[str, int]) -> ChatGenerationChunk:
    total = {"input_tokens": input_tokens, "output_tokens": output_tokens, "total_tokens": input_tokens + output_tokens}
    return ChatGenerationChunk(message=AIMessageChunk(content="", usage_metadata={**total, **details}))  # type: ignore[typeddict-item]


def test_what_the_provider_counted_is_taken_as_it_is():
    meter = CallMeter(a_call("Hi"))
    meter.saw_pieces(["Bon", "jour"])
    meter.saw_chunk(counted(10, 2, input_token_details={"cache_read": 8}, output_token_details={"reasoning": 1}))
    call = meter.finish("succeeded", None)
    assert call.usage == TokenUsage(10, 2, 8, 1)
    assert not call.estimated
    assert (call.model, call.provider, call.status, call.error_code) == (MODEL.id, MODEL.provider, "succeeded", None)


def test_details_that_were_not_given_are_not_known():
    meter = CallMeter(a_call("Hi"))
    meter.saw_chunk(counted(10, 0))
    assert meter.finish("succeeded", None).usage == TokenUsage(10, 0, None, None)


def test_the_last_of_several_counts_is_the_calls():
    meter = CallMeter(a_call("Hi"))
    for output_tokens in (1, 2, 3):
        meter.saw_chunk(counted(10, output_tokens))
    assert meter.finish("succeeded", None).usage.output_tokens == 3


def test_a_call_that_nobody_counted_is_estimated_from_what_passed():
    meter = CallMeter(a_call("x" * 40, "y" * 20))
    meter.saw_pieces(["a", "b"])
    call = meter.finish("cancelled", None)
    assert call.usage == TokenUsage(60 // CHARS_PER_TOKEN + 2 * TOKENS_PER_MESSAGE, 2)
    assert call.estimated


def test_long_pieces_are_estimated_by_their_length_and_short_ones_by_their_number():
    long, short = CallMeter(a_call("Hi")), CallMeter(a_call("Hi"))
    long.saw_pieces(["x" * 400])
    short.saw_pieces(["x"] * 50)
    assert long.finish("failed", None).usage.output_tokens == 100
    assert short.finish("failed", None).usage.output_tokens == 50


def test_a_tool_calls_arguments_are_part_of_the_estimate():
    meter = CallMeter(a_call("Hi"))
    fragment = tool_call_chunk(name="add", args="x" * 40, id="1", index=0)
    meter.saw_chunk(ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[fragment])))
    call = meter.finish("cancelled", None)
    assert call.usage.output_tokens == 10
    assert call.time_to_first_token_s is not None


def test_a_count_of_nothing_for_an_answer_that_came_is_estimated_instead():
    meter = CallMeter(a_call("Hi"))
    meter.saw_pieces(["Bon", "jour"])
    meter.saw_chunk(counted(0, 0))
    call = meter.finish("succeeded", None)
    assert call.estimated
    assert call.usage.output_tokens == 2


REFUSALS = [
    BadRequest("no"),
    ProviderRefused("no", retryable=False),
    ProviderUnreachable("no", retryable=True),
    RateLimitedByProvider("no", retry_after_s=None),
]


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
def test_a_refusal_before_any_work_consumed_nothing_and_that_is_known(error):
    call = CallMeter(a_call("Hi")).finish("failed", error)
    assert call.usage == TokenUsage(0, 0)
    assert not call.estimated
    assert call.error_code == error.code


@pytest.mark.parametrize("error", [ProviderCut("cut", retryable=True), ProviderStalled("late", retryable=True), None])
def test_an_answer_that_broke_or_was_left_consumed_its_prompt(error):
    call = CallMeter(a_call("Hi")).finish("failed" if error else "cancelled", error)
    assert call.estimated
    assert call.usage.input_tokens == TOKENS_PER_MESSAGE
    assert call.usage.output_tokens == 0
    assert call.time_to_first_token_s is None


LOST = [ProviderCut("cut", retryable=True), ProviderStalled("late", retryable=True), asyncio.CancelledError()]


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
def test_how_much_of_a_lost_answer_in_one_piece_was_written_is_not_known(error):
    call = ModelCall(MODEL, [HumanMessage("x" * 40)], whole=True)
    counted_call = CallMeter(call).finish("failed", error)
    assert counted_call.usage == TokenUsage(10 + TOKENS_PER_MESSAGE, None)
    assert counted_call.usage.total_tokens is None
    assert counted_call.estimated


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
def test_a_refused_answer_in_one_piece_consumed_nothing(error):
    call = CallMeter(ModelCall(MODEL, [HumanMessage("Hi")], whole=True)).finish("failed", error)
    assert (call.usage, call.estimated) == (TokenUsage(0, 0), False)


def test_an_answer_in_one_piece_that_came_is_estimated_by_its_text():
    meter = CallMeter(ModelCall(MODEL, [HumanMessage("Hi")], whole=True))
    meter.saw_chunk(ChatGenerationChunk(message=AIMessageChunk(content="x" * 40)))
    assert meter.finish("cancelled", asyncio.CancelledError()).usage.output_tokens == 10
    empty = CallMeter(ModelCall(MODEL, [HumanMessage("Hi")], whole=True)).finish("succeeded", None)
    assert (empty.usage.output_tokens, empty.estimated) == (0, True)


def test_latency_and_first_token_are_measured_in_order():
    meter = CallMeter(a_call("Hi"))
    meter.saw_pieces(["a"])
    call = meter.finish("succeeded", None)
    assert call.time_to_first_token_s is not None
    assert 0 <= call.time_to_first_token_s <= call.latency_s < 1


def test_local_work_is_the_calls():
    call = a_call("Hi")
    meter = CallMeter(call)
    call.local_work = LocalWork(1.0, 2.0)
    assert meter.finish("succeeded", None).local_work == LocalWork(1.0, 2.0)


@given(batches=st.lists(st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=5), max_size=5))
def test_an_estimate_does_not_depend_on_how_pieces_were_batched(batches):
    by_batch, by_piece = CallMeter(a_call("Hi")), CallMeter(a_call("Hi"))
    for batch in batches:
        by_batch.saw_pieces(batch)
        for piece in batch:
            by_piece.saw_chunk(ChatGenerationChunk(message=AIMessageChunk(content=piece)))
    assert by_batch.finish("cancelled", None).usage == by_piece.finish("cancelled", None).usage


PROMPT, ANSWER = 10 + TOKENS_PER_MESSAGE, 2
PARTS = [
    ({"prompt_tokens": 30, "completion_tokens": 5}, (30, 5), False),
    ({"prompt_tokens": "30", "completion_tokens": 5.0}, (30, 5), False),
    ({"input_tokens": 30, "output_tokens": 5}, (30, 5), False),
    ({"completion_tokens": 5, "total_tokens": 35}, (30, 5), False),
    ({"prompt_tokens": 30, "total_tokens": 35}, (30, 5), False),
    ({"completion_tokens": 5}, (PROMPT, 5), True),
    ({"prompt_tokens": 30}, (30, ANSWER), True),
    ({"total_tokens": 35}, (35 - ANSWER, ANSWER), True),
    ({"prompt_tokens": 0, "completion_tokens": 5}, (PROMPT, 5), True),
    ({"prompt_tokens": 30, "completion_tokens": 0}, (30, ANSWER), True),
    ({"prompt_tokens": -3, "completion_tokens": True, "total_tokens": None}, (PROMPT, ANSWER), True),
    ({"prompt_tokens": 2.5, "completion_tokens": "many"}, (PROMPT, ANSWER), True),
    ({"completion_tokens": 40, "total_tokens": 35}, (PROMPT, 40), True),
    ({"prompt_tokens": 30, "completion_tokens": 5, "prompt_tokens_details": None}, (30, 5), False),
    ({"prompt_tokens": 30, "completion_tokens": 5, "completion_tokens_details": [1]}, (30, 5), False),
    ({"prompt_tokens": 10**30, "completion_tokens": 5}, (PROMPT, 5), True),
    ({"prompt_tokens": 1e30, "completion_tokens": 10**9 + 1, "total_tokens": 2e30}, (PROMPT, ANSWER), True),
    ({"prompt_tokens": 10**9, "completion_tokens": 5}, (10**9, 5), False),
    ([1], (PROMPT, ANSWER), True),
]


@pytest.mark.parametrize(("usage", "figures", "estimated"), PARTS, ids=str)
def test_a_figure_that_the_provider_left_out_is_estimated_and_marked(usage, figures, estimated):
    meter = CallMeter(a_call("x" * 40))
    meter.saw_pieces(["Bon", "jour"])
    meter.saw_chunk(read_chunk({"choices": [], "usage": usage}))
    call = meter.finish("succeeded", None)
    assert ((call.usage.input_tokens, call.usage.output_tokens), call.estimated) == (figures, estimated)


def test_figures_that_come_apart_are_put_together():
    meter = CallMeter(a_call("Hi"))
    meter.saw_pieces(["Bon"])
    meter.saw_chunk(read_chunk({"choices": [], "usage": {"prompt_tokens": 30, "prompt_cache_hit_tokens": 8}}))
    beside_a_choice = {
        "delta": {},
        "usage": {"completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 3}},
    }
    meter.saw_chunk(read_chunk({"choices": [beside_a_choice]}))
    call = meter.finish("succeeded", None)
    assert (call.usage, call.estimated) == (TokenUsage(30, 5, 8, 3), False)
