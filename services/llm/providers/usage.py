"""What a provider counted, as far as it reported: figures that make no sense are unknown, never 0."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata

INPUT_KEYS = ("prompt_tokens", "input_tokens")
OUTPUT_KEYS = ("completion_tokens", "output_tokens")
INPUT_DETAILS = ("prompt_tokens_details", "input_tokens_details")
OUTPUT_DETAILS = ("completion_tokens_details", "output_tokens_details")

MOST_TOKENS = 10**9
"""More than this is no count of one call's tokens: the figure is as good as unknown."""


class Counted(NamedTuple):
    """The figures of one call that its provider gave; `total` makes up for one of the first two."""

    input: int | None = None
    output: int | None = None
    total: int | None = None
    cache_read: int | None = None
    reasoning: int | None = None

    def updated(self, later: "Counted") -> "Counted":
        """What is known once these figures came too: some repeat a growing total, some give each figure apart."""
        if self == NOTHING_COUNTED:
            return later
        return Counted(*(old if new is None else new for new, old in zip(later, self, strict=True)))

    def as_metadata(self) -> UsageMetadata | None:
        """The same for LangChain, which has no word for what is not known."""
        if self.input is None or self.output is None:
            return None
        usage = UsageMetadata(input_tokens=self.input, output_tokens=self.output, total_tokens=self.input + self.output)
        if self.cache_read is not None:
            usage["input_token_details"] = InputTokenDetails(cache_read=self.cache_read)
        if self.reasoning is not None:
            usage["output_token_details"] = OutputTokenDetails(reasoning=self.reasoning)
        return usage


NOTHING_COUNTED = Counted()


def counted_in(parsed: Mapping[str, Any]) -> Counted | None:
    """The usage of an event, which some put beside the choice; `None` when there is none that can be read."""
    usage = parsed.get("usage")
    choices = parsed.get("choices")
    if not usage and choices:
        usage = choices[0].get("usage")
    if not usage or not isinstance(usage, dict):
        return None
    read, written = _first(usage, INPUT_KEYS), _first(usage, OUTPUT_KEYS)
    total = _figure(usage.get("total_tokens"))
    if total is not None and (read is None) != (written is None):
        rest = total - (read if read is not None else written or 0)
        if rest >= 0:
            read, written = (rest, written) if read is None else (read, rest)
    cached = _detail(usage, INPUT_DETAILS, "cached_tokens")
    counted = Counted(
        read,
        written,
        total,
        # DeepSeek's own name.
        _figure(usage.get("prompt_cache_hit_tokens")) if cached is None else cached,
        _detail(usage, OUTPUT_DETAILS, "reasoning_tokens"),
    )
    return None if counted == NOTHING_COUNTED else counted


def _first(usage: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    for key in keys:
        if (figure := _figure(usage.get(key))) is not None:
            return figure
    return None


def _detail(usage: Mapping[str, Any], keys: tuple[str, ...], name: str) -> int | None:
    for key in keys:
        if isinstance(details := usage.get(key), dict):
            return _figure(details.get(name))
    return None


def _figure(value: Any) -> int | None:
    """A count of tokens: not negative, no fraction, and not beyond what a call can hold; in words too."""
    if value is None:
        return None
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 16:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS else None
