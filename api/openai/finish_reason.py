"""Why a choice ended, in the four words that OpenAI's clients know."""

from services.llm.providers import finish_reasons


def finish_reason_of(reason: str | None, *, has_tool_calls: bool) -> str:
    """Without a reason it ended when it had said all. An agent's tool calls are its own: nobody else makes them."""
    word = finish_reasons.finish_reason_of(reason or "stop", has_tool_calls=has_tool_calls) or "stop"
    return "stop" if word == "tool_calls" and not has_tool_calls else word
