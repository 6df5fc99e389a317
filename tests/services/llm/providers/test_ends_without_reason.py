"""An answer whose form ends it needs no finish reason: a whole object, and a stream that `[DONE]` ends."""

import json
from typing import Any

import pytest

from domain.errors import ProviderCut
from services.llm.providers.chunk_reader import read_chunk
from services.llm.providers.sse_decoder import Decoder
from tests.scripted_provider import DONE, Chunk, ContentType, Stall, chunk, say, usage
from tests.wire_reader import answer_to

STALL_S = 90.0
NOTHING: list[dict[str, Any]] = [{}, {"finish_reason": None}, {"finish_reason": ""}, {"finish_reason": "null"}]


def end_of(message: dict[str, Any], **choice: Any) -> tuple[str, Any]:
    """The text of a whole object, and the finish reason that callers are given."""
    decoder = Decoder("fake")
    body = json.dumps({"choices": [{"message": message, **choice}]}).encode()
    chunks = [read_chunk(delta) for delta in decoder.whole(body) if isinstance(delta, dict)]
    assert decoder.is_settled, "the line may stay open"
    return "".join(str(chunk.message.text) for chunk in chunks), (chunks[-1].generation_info or {})["finish_reason"]


@pytest.mark.parametrize("nothing", NOTHING, ids=str)
def test_a_whole_object_needs_no_finish_reason(nothing: dict[str, Any]) -> None:
    assert end_of({"content": "whole text"}, **nothing) == ("whole text", "stop")
    assert end_of({"content": None, "reasoning": "hm"}, **nothing) == ("", "stop")


@pytest.mark.parametrize("arguments", ['{"a": 1}', "{}", ""])
def test_a_whole_object_with_calls_ends_with_them(arguments: str) -> None:
    called = {"id": "a", "type": "function", "function": {"name": "add", "arguments": arguments}}
    assert end_of({"content": None, "tool_calls": [called]}) == ("", "tool_calls")


async def test_a_whole_object_ends_though_the_line_stays_open() -> None:
    whole = Chunk(b'{"choices": [{"message": {"content": "Bonjour"}}]}')
    answer = await answer_to(ContentType("application/json"), whole, Stall(), stall_s=STALL_S)
    assert answer.error is None


@pytest.mark.parametrize("pieces", [("Bonjour",), ("", "", "", "Bon", "jour"), ("B", "o", "n", "j", "o", "u", "r")])
@pytest.mark.parametrize("ending", [[DONE], [usage(1, 1), DONE], [DONE, Stall()]], ids=["done", "usage", "open"])
async def test_the_done_mark_ends_what_was_given_without_a_finish_reason(pieces, ending):
    answer = await answer_to(*say(*pieces), *ending, stall_s=STALL_S)
    assert (answer.text, answer.error) == ("Bonjour", None)
    assert answer.items[-1]["choices"][0]["finish_reason"] == "stop"


CALL = {"index": 0, "id": "a", "type": "function", "function": {"name": "now", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("delta", "reason"), [({"reasoning_content": "hm"}, "stop"), ({"tool_calls": [CALL]}, "tool_calls")], ids=str
)
async def test_reasoning_and_calls_are_ended_by_the_done_mark_too(delta, reason):
    answer = await answer_to(chunk(delta), DONE)
    assert answer.error is None
    assert answer.items[-1]["choices"][0]["finish_reason"] == reason


HALF = {**CALL, "function": {"name": "now", "arguments": "{"}}


@pytest.mark.parametrize(
    "said",
    [[], [chunk({"role": "assistant", "content": ""})], [chunk({"tool_calls": [HALF]})]],
    ids=["nothing", "a role", "half a call"],
)
async def test_the_done_mark_ends_nothing_where_nothing_whole_came(said):
    assert isinstance((await answer_to(*said, DONE)).error, ProviderCut)
