"""The forms in which a dictionary may carry a model's calls: those that LangChain reads have their results."""

from typing import Any

import pytest
from langchain_core.messages import AIMessage, convert_to_messages, messages_to_dict

from services.orphan_calls import with_orphans_answered

RAW = [{"id": "1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}]
UNREADABLE = [{"id": "1", "type": "function", "function": {"name": "look_up", "arguments": "{oops"}}]
CALL: Any = {"name": "look_up", "args": {}, "id": "1", "type": "tool_call"}
SAID: dict[str, Any] = {"role": "assistant", "content": ""}


def answered(message: Any) -> list[Any]:
    """What is kept in place of a conversation of the message alone, when something is missing in it."""
    writes = with_orphans_answered({}, {"history": [message]}, [])
    return list(writes[0][1]) if writes else []


@pytest.mark.parametrize(
    "message",
    [
        SAID | {"tool_calls": RAW},
        SAID | {"additional_kwargs": {"tool_calls": RAW}},
        SAID | {"additional_kwargs": {"tool_calls": UNREADABLE}},
        SAID | {"tool_calls": [], "additional_kwargs": {"tool_calls": RAW}},
        SAID | {"tool_calls": None, "additional_kwargs": {"tool_calls": RAW}},
        SAID | {"tool_calls": [CALL], "additional_kwargs": {"tool_calls": [{**RAW[0], "id": "2"}]}},
        {"type": "ai", "content": "", "additional_kwargs": {"tool_calls": RAW}},
        AIMessage("", tool_calls=[CALL]).model_dump(),
        AIMessage("", additional_kwargs={"tool_calls": RAW}).model_dump(),
    ],
)
def test_calls_that_langchain_reads_are_answered_once(message: dict[str, Any]) -> None:
    (read,) = convert_to_messages([message])
    assert isinstance(read, AIMessage)
    assert [call["id"] for call in (*read.tool_calls, *read.invalid_tool_calls)] == ["1"]
    kept, result = answered(message)
    assert (kept, result["tool_call_id"], result["name"]) == (message, "1", "look_up")


@pytest.mark.parametrize(
    "message", [SAID | {"additional_kwargs": None}, SAID | {"additional_kwargs": {"tool_calls": 1}}]
)
def test_what_holds_no_calls_is_left_as_it_is(message: dict[str, Any]) -> None:
    assert answered(message) == []


def test_a_form_that_no_model_takes_is_left_as_it_is() -> None:
    (stored,) = messages_to_dict([AIMessage("", tool_calls=[CALL])])
    with pytest.raises(ValueError, match="role"):
        convert_to_messages([stored])
    assert answered(stored) == []
