"""Why an answer ended, in the four words that OpenAI's clients know, from those of all vendors."""

import re
from collections.abc import Mapping
from typing import Any, Literal

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]

NOT_YET = frozenset({"null", "none"})
"""What some send as a word where no reason is due."""

FAILURE = re.compile(
    "|".join(
        (
            r"error|fail|exception|crash|abort|cancel|interrupt|disconnect|unavailable|overload|not_finished",
            r"time_?out|timed_?out|time_?limit|insufficient|out_of_memory|malformed|invalid|unexpected|too_?many",
        )
    )
)
"""How Mistral, OpenRouter, Zhipu, DeepSeek, vLLM, Gemini and others close an answer that they could not finish: what
such a word names, for each has its own, and new ones come."""

WORDS: Mapping[str, FinishReason] = {
    "stop": "stop",
    **dict.fromkeys(("length", "max_tokens", "max_length", "max_output_tokens", "model_length"), "length"),
    **dict.fromkeys(("model_context_window_exceeded", "incomplete", "length_limit", "token_limit"), "length"),
    **dict.fromkeys(("tool_calls", "tool_call", "tool_use", "tooluse", "function_call"), "tool_calls"),
    **dict.fromkeys(("content_filter", "content_filtered", "safety", "sensitive", "recitation"), "content_filter"),
    **dict.fromkeys(("prohibited_content", "blocklist", "spii", "refusal", "guardrail_intervened"), "content_filter"),
    "error_toxic": "content_filter",
}
"""Every other word means that the model was done: `stop`, `eos`, `end_turn`, `STOP`, …"""


def finish_reason_of(given: Any, *, has_tool_calls: bool) -> FinishReason | None:
    """The reason; `None` where none is given. Tool calls are to be made whatever word ends the answer."""
    word = _word(given) if given else ""
    if not word or word in NOT_YET:
        return None
    reason = WORDS.get(word, "stop")
    return "tool_calls" if reason == "stop" and has_tool_calls else reason


def is_failure(given: Any) -> bool:
    """Whether the provider says with it that it could not finish."""
    if not given:
        return False
    word = _word(given)
    return word not in WORDS and FAILURE.search(word) is not None


def _word(given: Any) -> str:
    return given.strip().lower() if isinstance(given, str) else "other"
