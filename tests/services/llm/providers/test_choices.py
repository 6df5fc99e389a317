"""One answer is requested: of several choices the first that comes is read, and nothing of another is glued to it."""

import itertools
import json
from typing import Any

import orjson
import pytest

from services.llm.providers.chunk_reader import read_chunk
from services.llm.providers.sse_decoder import Decoder
from tests.wire_reader import flat

Choice = dict[str, Any]


def choice(index: Any, content: str | None = None, reason: str | None = None, **more: Any) -> Choice:
    delta = more if content is None else {"content": content, **more}
    return {"index": index, "delta": delta, "finish_reason": reason}


def read(*events: list[Choice]) -> tuple[str, list[str], list[str]]:
    """The text, the finish reasons, and the tools that are called, however the events are cut."""
    body = b"".join(b"data: " + json.dumps({"choices": event}).encode() + b"\n\n" for event in events)
    found = [_read([body]), _read([body[place : place + 7] for place in range(0, len(body), 7)])]
    assert found[0] == found[1]
    return found[0]


def _read(parts: list[bytes]) -> tuple[str, list[str], list[str]]:
    decoder, text = Decoder("fake"), ""
    reasons: list[str] = []
    names: list[str] = []
    for item in itertools.chain.from_iterable(flat(decoder.feed(part)) for part in parts):
        if isinstance(item, str):
            text += item
            continue
        orjson.dumps(item)
        chunk = read_chunk(item)
        text += str(chunk.message.text)
        names += [str(call["name"]) for call in chunk.message.tool_call_chunks]  # type: ignore[attr-defined]
        reasons += [(chunk.generation_info or {}).get("finish_reason") or ""]
    assert decoder.failure is None
    return text, [reason for reason in reasons if reason], names


FIRSTS: dict[str, list[list[Choice]]] = {
    "in turns": [[choice(0, "Bon")], [choice(1, "Good")], [choice(0, "jour")], [choice(1, " day")]],
    "roles first": [
        [choice(0, "", role="assistant")],
        [choice(1, "", role="assistant")],
        *([choice(index, piece)] for piece in "Bonjour" for index in (1, 0)),
    ],
    "after the shortcut is learnt": [*([choice(0, piece)] for piece in "Bonjour"), *([choice(1, "x")] for _ in "abc")],
    "side by side": [[choice(0, "Bon"), choice(1, "Good")], [choice(1, " day"), choice(0, "jour")]],
    "the second one first": [
        *([choice(1, piece), choice(0, "x")] for piece in "Bon"),
        [choice(0, "y")],
        [choice(1, "jour")],
    ],
    "only a later one": [[choice(3, "Bon")], [choice(3, "jour")]],
    "without an index at first": [[choice(None, "Bon")], [choice(None, "jour")]],
}


@pytest.mark.parametrize("events", FIRSTS.values(), ids=FIRSTS.keys())
def test_the_first_choice_that_comes_is_the_answer(events: list[list[Choice]]) -> None:
    index = events[0][0]["index"]
    others = [[choice(each, reason="length")] for each in (0, 1, 2) if each != index and index is not None]
    assert read(*events, *others, [choice(index, reason="stop")]) == ("Bonjour", ["stop"], [])


def test_calls_and_reasons_of_another_choice_are_left_out() -> None:
    calls = [[{"index": 0, "id": name, "function": {"name": name, "arguments": "{}"}}] for name in ("mine", "other")]
    events = [[choice(0, tool_calls=calls[0])], [choice(1, tool_calls=calls[1])], [choice(1, reason="length")]]
    text, reasons, names = read(*events, [choice(0, reason="tool_calls")])
    assert (text, reasons, names[:1], "other" in names) == ("", ["tool_calls"], ["mine"], False)


def test_usage_beside_another_choice_is_read() -> None:
    decoder = Decoder("fake")
    event = {"choices": [choice(1, "x")], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    decoder.feed(b"data: " + json.dumps({"choices": [choice(0, "a")]}).encode() + b"\n\n")
    (found,) = decoder.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
    assert isinstance(found, dict)
    counted = read_chunk(found).counted
    assert counted is not None
    assert counted.input == 3
