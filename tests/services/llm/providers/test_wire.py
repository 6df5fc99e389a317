"""What the wire says is what the caller reads: no piece lost, changed or doubled, and every end told truly."""

import contextlib
import json
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from domain.errors import (
    ProviderCut,
    ProviderError,
)
from services.llm.providers import sse_decoder
from services.llm.providers.sse_decoder import Decoder
from tests.wire_reader import (
    Item,
    flat,
)


def decode(data: bytes, cuts: Sequence[int] = ()) -> list[Item]:
    """Feed the bytes, cut into parts of the given sizes, used in turn."""
    decoder, deltas, start, turn = Decoder("fake"), [], 0, 0
    while start < len(data):
        size = cuts[turn % len(cuts)] if cuts else len(data)
        deltas += decoder.feed(data[start : start + size])
        if decoder.failure:
            raise decoder.failure
        start, turn = start + size, turn + 1
    return flat(deltas)


# The decoder: any pieces, any spelling, any cutting


NASTY = [
    '"},"x":{"y":"',
    '"content":',
    '{"content":"a"}',
    "\\",
    '\\"',
    "\n\n",
    "\r\n",
    "\ndata: [DONE]\n\n",
    "[DONE]",
    "data: ",
    "\u2028",
    "\x00",
    "👩‍👩‍👧‍👦",
    '"}}]}',
    "",
]
nasty = st.lists(st.sampled_from(NASTY), max_size=4).map("".join)
texts = st.one_of(st.text(max_size=12), st.sampled_from(NASTY), nasty)
LINES_BEFORE = [[], [], [], [b": waiting"], [b"event: message", b"id: 3"], [b":", b""], [b""]]


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[str], bytes]:
    """Pieces, and one of the many ways a provider may spell them."""
    pieces = draw(st.lists(texts, max_size=12))
    end = draw(st.sampled_from([b"\n", b"\r\n"]))
    name = draw(st.sampled_from([b"data: ", b"data:"]))
    ascii_only = draw(st.booleans())
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    indent = draw(st.sampled_from([None, None, 1]))
    obfuscates, usage_first, roles = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    data = b""
    for number, piece in enumerate(pieces):
        delta = {"role": "assistant", "content": piece} if roles else {"content": piece}
        choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]
        event: dict[str, Any] = {"id": "1", "choices": choices, "usage": None}
        if usage_first:
            event = {"usage": None, "choices": choices}
        if obfuscates:
            event["obfuscation"] = draw(st.text("abc", max_size=3))
        event["created"] = number // 5
        body = json.dumps(event, ensure_ascii=ascii_only, separators=separators, indent=indent).encode()
        for before in draw(st.sampled_from(LINES_BEFORE)):
            data += before + end
        # An indented object takes several lines; each is a line of data.
        data += end.join(name + line for line in body.split(b"\n")) + end + end
    return pieces, data


@examples(deadline=None, max_examples=300)
@given(stream=streams(), cuts=st.lists(st.integers(1, 40), max_size=5))
def test_pieces_come_out_equal_and_in_order_however_they_are_spelt_and_cut(stream, cuts):
    pieces, data = stream
    assert decode(data, cuts) == [piece for piece in pieces if piece]


class WithoutShortcut(Decoder):
    """Reads every event whole."""

    def _learn(self, event: bytes, piece: str) -> None:
        pass


def outcome_of(decoder: Decoder, event: bytes) -> list[Item] | str:
    """What an event gives, or why it gives nothing."""
    deltas = flat(decoder.feed(b"data: " + event + b"\n\n"))
    return deltas if decoder.failure is None else decoder.failure.message


# Each has the same literal in two places: only the parser knows which of them is the content.
TWO_PLACES = [
    '{{"choices":[{{"delta":{{"content":{0}}}}}],"x":{1}}}',
    '{{"content":{0},"choices":[{{"delta":{{"content" :{1}}}}}]}}',
    '{{"a\\"content":{0},"choices":[{{"delta":{{"content" : {1}}}}}]}}',
    '{{"choices":[{{"delta":{{"content":{0},"content" :{1}}}}}]}}',
    '{{"choices":[{{"delta":{{"content":{0},"c\\u006fntent":{1}}}}}]}}',
    '{{"choices":[{{"delta":{{"content":{0}}},"delta":{{"c\\u006fntent":{1}}}}}]}}',
    '{{"choices":[{{"delta":{{"content":{0},"tool_calls":{1}}}}}]}}',
    '{{"choices":[{{"delta":{{"content":{0}}},"finish_reason":{1}}}]}}',
]
MIDDLES = [
    '"a"',
    '"b"',
    '""',
    '"a","x":"b"',
    '"a"},"x":{"y":"b"',
    '"a"},"finish_reason":"stop","x":{"y":"b"',
    '"a","tool_calls":[{"index":0}],"x":"b"',
    "null",
    '["a"]',
    '{"content":"a"}',
    ' "a" ',
    '"a\\"},\\"x\\":{\\"y\\":\\"b"',
    '"\\u0061"',
    '"é"',
    "1",
    "true",
]


@examples(deadline=None, max_examples=600)
@given(
    template=st.sampled_from(TWO_PLACES),
    literals=st.lists(st.tuples(st.sampled_from(MIDDLES), st.sampled_from(MIDDLES)), min_size=1, max_size=8),
    learnt=st.integers(0, 3),
    twin=st.sampled_from(['"a"', "null"]),
)
def test_the_template_shortcut_never_reads_anything_else_than_the_parser(template, literals, learnt, twin):
    """The first events teach the template; those that follow share its beginning and its end, and differ between."""
    events = [template.format('"a"', twin)] * learnt + [template.format(*pair) for pair in literals]
    valid = [event.encode() for event in events if _is_json(event)]
    decoder, reference = Decoder("fake"), WithoutShortcut("fake")
    for event in valid:
        assert outcome_of(decoder, event) == outcome_of(reference, event)


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def test_the_shortcut_is_taken_and_not_only_sound(monkeypatch):
    """A provider whose events differ in the content only is parsed whole a few times, not once a piece."""
    parsed: list[bytes] = []
    parse = Decoder._parse
    monkeypatch.setattr(Decoder, "_parse", lambda self, event: parsed.append(event) or parse(self, event))
    data = b"".join(b'data: {"choices":[{"delta":{"content":"%d"}}]}\n\n' % number for number in range(100))
    assert decode(data) == [str(number) for number in range(100)]
    assert len(parsed) <= 3


@examples(deadline=None)
@given(cuts=st.lists(st.integers(1, 30), max_size=4), before=texts, after=texts)
def test_rare_objects_keep_their_place_among_the_pieces(cuts, before, after):
    fragment = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "add", "arguments": ""}}
    tool = {"choices": [{"index": 0, "delta": {"tool_calls": [fragment]}, "finish_reason": None}]}
    spelt = [{"choices": [{"delta": {"content": before}}]}, tool, {"choices": [{"delta": {"content": after}}]}]
    data = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in spelt)
    assert decode(data, cuts) == [item for item in (before, tool, after) if item]


keys = st.sampled_from(["choices", "delta", "content", "finish_reason", "usage", "error", "logprobs", "message"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3) | st.just("stop"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


@examples(deadline=None, max_examples=400)
@given(values=st.lists(json_values, min_size=1, max_size=4))
def test_any_json_at_all_is_a_delta_or_a_provider_error(values):
    data = b"".join(b"data: " + orjson.dumps(value) + b"\n\n" for value in values)
    with contextlib.suppress(ProviderError):
        decode(data)


@examples(deadline=None)
@given(data=st.binary(max_size=80), cuts=st.lists(st.integers(1, 20), max_size=3))
def test_any_bytes_at_all_are_a_delta_or_a_provider_error(data, cuts):
    with contextlib.suppress(ProviderError):
        decode(b"data: " + data + b"\n\n", cuts)


def test_an_event_that_never_ends_is_given_up_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr(sse_decoder, "MAX_EVENT_BYTES", 1000)
    with pytest.raises(ProviderCut, match="over 1000 bytes") as caught:
        decode(b"data: " + b"x" * 5000, [100])
    assert not caught.value.retryable
