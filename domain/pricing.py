"""What tokens and audio cost: prices, costs, and their sums. Unknown is `None`."""

from collections.abc import Iterable
from dataclasses import dataclass

from domain.reports import ModelPrice
from domain.usage import TokenUsage

TOKENS_PER_MTOK = 1_000_000
SECONDS_PER_MINUTE = 60


@dataclass(frozen=True, slots=True)
class Cost:
    """An amount in one currency. `total` may hold a fee that is neither input nor output."""

    input: float
    output: float
    total: float

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.input + other.input, self.output + other.output, self.total + other.total)


FREE = Cost(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """A price that is proportional to the tokens of a call, in USD per million."""

    input_per_mtok_usd: float
    cache_read_per_mtok_usd: float
    output_per_mtok_usd: float

    def cost(self, usage: TokenUsage) -> Cost | None:
        """The cost of a call in USD; `None` when its tokens are not known."""
        if usage.input_tokens is None or usage.output_tokens is None:
            return None
        cached = cached_tokens(usage.input_tokens, usage.cache_read_tokens)
        fresh = usage.input_tokens - cached
        read = (fresh * self.input_per_mtok_usd + cached * self.cache_read_per_mtok_usd) / TOKENS_PER_MTOK
        written = usage.output_tokens * self.output_per_mtok_usd / TOKENS_PER_MTOK
        return Cost(read, written, read + written)


@dataclass(frozen=True, slots=True)
class AudioPrice:
    """A price that is proportional to the audio that a call hears, in USD per minute."""

    per_audio_minute_usd: float

    def cost(self, usage: TokenUsage) -> Cost | None:
        """The cost of a call in USD, all of it input; `None` when it is not known how much was heard."""
        if usage.audio_s is None:
            return None
        heard = usage.audio_s / SECONDS_PER_MINUTE * self.per_audio_minute_usd
        return Cost(heard, 0.0, heard)


def cached_tokens(input_tokens: int, cache_read_tokens: int | None) -> int:
    """How many input tokens came from the cache: none when the provider does not say, never more than there were."""
    return min(cache_read_tokens or 0, input_tokens)


def sum_costs(costs: Iterable[Cost | None]) -> Cost | None:
    """The sum, or `None` as soon as one part is not known."""
    total = FREE
    for cost in costs:
        if cost is None:
            return None
        total = cost if total is FREE else total + cost
    return total


def model_price(cost_usd: Cost | None, *, usd_eur: float, priced_by: str | None) -> ModelPrice:
    """A model's cost in EUR. Nothing is rounded: a tiny figure keeps its digits."""
    if cost_usd is None:
        return ModelPrice(None, None, None, None)
    return ModelPrice(cost_usd.input * usd_eur, cost_usd.output * usd_eur, cost_usd.total * usd_eur, priced_by)
