"""The bytes of one character in two events: joined, or replaced, and the answer is never lost for them."""

import orjson
import pytest

from domain.errors import RouteurError
from services.llm.providers.chunk_reader import read_chunk
from services.llm.providers.sse_decoder import Decoder
from tests.wire_reader import flat


def read_from(parts: list[bytes], name: str) -> str:
    """The text, or the reasoning, of a body that comes in these parts."""
    decoder, text = Decoder("fake"), ""
    for deltas in [*map(decoder.feed, parts), decoder.end()]:
        orjson.dumps(deltas)
        for item in flat(deltas):
            if isinstance(item, str):
                text += item
                continue
            message = read_chunk(item).message
            text += str(message.text) if name == "content" else message.additional_kwargs.get("reasoning_content", "")
    assert decoder.failure is None
    return text


EMOJI, EURO = "😀".encode(), "€".encode()
CUT_BYTES: dict[str, tuple[list[bytes], str]] = {
    "in the middle": ([b"a" + EMOJI[:2], EMOJI[2:] + b"b"], "a😀b"),
    "after one byte": ([EMOJI[:1], EMOJI[1:]], "😀"),
    "after three": ([EMOJI[:3], EMOJI[3:]], "😀"),
    "in four": ([EMOJI[:1], EMOJI[1:2], EMOJI[2:3], EMOJI[3:] + b"c"], "😀c"),
    "of three": ([b"12 " + EURO[:2], EURO[2:] + EURO[:1], EURO[1:]], "12 €€"),
    "of two": ([b"d\xc3", b"\xa9j\xc3", b"\xa0"], "d\u00e9j\u00e0"),
    "with an empty piece between": ([EMOJI[:2], b"", EMOJI[2:]], "😀"),
    "begun and not ended": ([b"a" + EMOJI[:2], b"b"], "a\ufffdb"),
    "begun at the end": ([b"a", EMOJI[:3]], "a\ufffd"),
    "ended and not begun": ([b"a", b"\x80b"], "a\ufffdb"),
    "no UTF-8 at all": ([b"caf\xe9 noir", b"\xffd"], "caf\ufffd noir\ufffdd"),
    "beside half a pair": ([b"\\ud83d", b"\\ude00" + EMOJI[:2], EMOJI[2:]], "😀😀"),
    "a pair that looks like a byte": ([b"\\ud83d", b"\\udc80"], "💀"),
    "after the shortcut is learnt": ([b"a", b"b", b"c", EMOJI[:2], EMOJI[2:], b"e"], "abc😀e"),
}


@pytest.mark.parametrize("name", ["content", "reasoning_content", "reasoning"])
@pytest.mark.parametrize(("pieces", "text"), CUT_BYTES.values(), ids=CUT_BYTES.keys())
def test_bytes_of_a_character_are_joined_across_events(pieces: list[bytes], text: str, name: str) -> None:
    spelt = b"".join(b'data: {"choices":[{"delta":{"%b":"%b"}}]}\n\n' % (name.encode(), piece) for piece in pieces)
    body = spelt + b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    assert read_from([body], name) == read_from([body[place : place + 1] for place in range(len(body))], name) == text


def test_bytes_of_a_character_in_a_whole_object_are_replaced() -> None:
    body = b'{"choices":[{"message":{"content":"caf\xe9"},"finish_reason":"stop","x":"\xff"}]}'
    assert read_from([body], "content") == "caf\ufffd"


@pytest.mark.parametrize(
    "spelt", [b'data: {"error":{"message":"caf\xe9","code":400}}', b'event: error\ndata: {"message":"caf\xe9"}']
)
def test_bytes_of_a_character_in_an_error_are_replaced(spelt: bytes) -> None:
    with pytest.raises(RouteurError, match="caf\ufffd"):
        Decoder("fake").whole(spelt)


@pytest.mark.parametrize("number", [b"-9223372036854775809", b"18446744073709551616", b"1e400", b"NaN"])
def test_beside_half_a_character_no_number_stays_that_an_encoder_refuses(number: bytes) -> None:
    body = b'{"choices":[{"message":{"content":"a\\ud83d"},"finish_reason":"stop","x":%b}]}' % number
    assert read_from([body], "content") == "a\ufffd"
