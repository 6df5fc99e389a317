"""Whether an event holds a piece of text and nothing else worth seeing, as most do."""

from typing import Any

REASONING = ("reasoning_content", "reasoning")
"""Empty, it still says something where there is no text: what follows may be tool calls, which go back with it."""


def plain_text(parsed: dict[str, Any]) -> str | None:
    """The piece of text, when the object holds nothing else worth seeing; `None` for a rare one."""
    choices = parsed.get("choices")
    if choices.__class__ is not list or len(choices) != 1 or parsed.get("usage") or parsed.get("error"):
        return None
    try:
        choice = choices[0]
        if choice.get("finish_reason") is not None or choice.get("index") or choice.get("logprobs"):
            return None
        delta = choice["delta"]
        content = delta.get("content")
        if content.__class__ is not str:
            return None
        if len(delta) > 1 and (_says_more(delta) or (not content and "" in map(delta.get, REASONING))):
            return None
    except (AttributeError, KeyError, TypeError):
        return None
    return str(content)


def _says_more(delta: dict[str, Any]) -> bool:
    """Whether a field beside the text says something: `false` and 0 do, `null` and what is empty do not."""
    for key, value in delta.items():  # noqa: SIM110 - a generator costs twice as much, for each token
        if (value or value == 0) and key not in {"content", "role"}:
            return True
    return False
