"""Why a choice ended, in the four words that OpenAI's clients know."""

from collections.abc import Mapping

WORDS: Mapping[str, str] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "eos": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_length": "length",
    "function_call": "tool_calls",
    "tool_use": "tool_calls",
    "safety": "content_filter",
}


def finish_reason_of(reason: str | None, *, has_tool_calls: bool) -> str:
    """An agent gives no reason: it ends when it has said all."""
    if reason is None:
        return "tool_calls" if has_tool_calls else "stop"
    return WORDS.get(reason.lower(), "stop")
