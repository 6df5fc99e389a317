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
    """Without a reason it ended when it had said all. An agent's tool calls are its own: nobody else makes them."""
    if reason is None:
        return "tool_calls" if has_tool_calls else "stop"
    word = WORDS.get(reason.lower(), "stop")
    return "stop" if word == "tool_calls" and not has_tool_calls else word
