"""Which events are a piece of text and nothing else."""

from typing import Any

import pytest

from services.llm.providers.plain_text import plain_text


def event(delta: dict[str, Any]) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": None}], "usage": None}


@pytest.mark.parametrize("value", [None, "", [], {}])
@pytest.mark.parametrize("name", ["reasoning_content", "tool_calls", "mark"])
def test_fields_that_say_nothing_leave_a_piece_of_text_what_it_is(name: str, value: Any) -> None:
    assert plain_text(event({"role": "assistant", "content": "A", name: value})) == "A"


@pytest.mark.parametrize("value", [False, 0, 0.0, True, 1, "x", [0], {"a": None}])
def test_a_field_that_says_something_makes_it_a_rare_event(value: Any) -> None:
    assert plain_text(event({"content": "A", "mark": value})) is None
