"""How a model of the catalogue is priced: genai-prices, a dated list price, or nothing for what runs here."""

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass

from genai_prices import Usage, calc_price
from genai_prices import __version__ as genai_prices_version
from genai_prices.types import ModelPrice, PriceCalculation, TieredPrices

from config.catalogue import GenaiPrice, ListPrice, MinutePrice, ModelEntry
from domain.pricing import FREE, TOKENS_PER_MTOK, AudioPrice, Cost, TokenPrice, cached_tokens
from domain.usage import TokenUsage

LOCAL_PROVIDER = "local"
GENAI_PRICES = f"genai-prices {genai_prices_version}"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ListedPrice:
    """A price as it is shown: USD per million tokens or per minute of audio, and where it comes from."""

    price: TokenPrice | AudioPrice
    priced_by: str


@dataclass(frozen=True, slots=True)
class Tariff:
    """What a call costs in USD (`None` when not known), and where the price comes from."""

    cost: Callable[[TokenUsage], Cost | None]
    priced_by: str | None
    by_the_minute: AudioPrice | None = None

    def listed(self) -> ListedPrice | None:
        """The price today, of a call below any tier."""
        if self.priced_by is None:
            return None
        if self.by_the_minute is not None:
            return ListedPrice(self.by_the_minute, self.priced_by)
        read = self.cost(TokenUsage(_SMALL_CALL, 0))
        cached = self.cost(TokenUsage(_SMALL_CALL, 0, cache_read_tokens=_SMALL_CALL))
        written = self.cost(TokenUsage(0, _SMALL_CALL))
        if read is None or cached is None or written is None:
            return None
        per_mtok = TOKENS_PER_MTOK / _SMALL_CALL
        return ListedPrice(
            TokenPrice(
                input_per_mtok_usd=round(read.input * per_mtok, 6),
                cache_read_per_mtok_usd=round(cached.input * per_mtok, 6),
                output_per_mtok_usd=round(written.output * per_mtok, 6),
            ),
            self.priced_by,
        )


_SMALL_CALL = 1_000
LOCAL = Tariff(lambda _: FREE, "local")
UNPRICED = Tariff(lambda _: None, None)


def create_tariff(entry: ModelEntry) -> Tariff:
    """Nobody bills what runs here; elsewhere the price is the catalogue's, and not known when it gives none."""
    if entry.provider == LOCAL_PROVIDER or entry.weights is not None:
        return LOCAL
    match entry.price:
        case ListPrice() as price:
            return _list_tariff(price)
        case MinutePrice() as price:
            by_the_minute = AudioPrice(price.per_audio_minute_usd)
            return Tariff(by_the_minute.cost, _dated(price), by_the_minute)
        case GenaiPrice() as price:
            return _genai_tariff(price, model_id=entry.id)
        case None:
            return UNPRICED


def _list_tariff(price: ListPrice) -> Tariff:
    cache_read = price.cache_read_per_mtok_usd
    token_price = TokenPrice(
        input_per_mtok_usd=price.input_per_mtok_usd,
        cache_read_per_mtok_usd=price.input_per_mtok_usd if cache_read is None else cache_read,
        output_per_mtok_usd=price.output_per_mtok_usd,
    )
    return Tariff(token_price.cost, _dated(price))


def _dated(price: ListPrice | MinutePrice) -> str:
    return f"models.yaml {price.checked.isoformat()}"


def _genai_tariff(price: GenaiPrice, *, model_id: str) -> Tariff:
    try:
        nothing = _calculate(price, input_tokens=0, cache_read_tokens=0, output_tokens=0)
    except LookupError:
        logger.warning("price not known to genai-prices", extra={"model": model_id, "priced_as": price.model})
        return UNPRICED
    limit = _proportional_up_to(nothing)
    token_price = _token_price(price, tokens=min(limit, TOKENS_PER_MTOK)) if limit else None

    def cost(usage: TokenUsage) -> Cost | None:
        if usage.input_tokens is None or usage.output_tokens is None:
            return None
        if token_price is not None and usage.input_tokens <= limit:
            return token_price.cost(usage)
        cached = cached_tokens(usage.input_tokens, usage.cache_read_tokens)
        calculation = _calculate(
            price, input_tokens=usage.input_tokens, cache_read_tokens=cached, output_tokens=usage.output_tokens
        )
        return Cost(float(calculation.input_price), float(calculation.output_price), float(calculation.total_price))

    return Tariff(cost, GENAI_PRICES)


def _proportional_up_to(nothing: PriceCalculation) -> int:
    """Up to how many input tokens the price is proportional to tokens; 0 when it depends on the day or has a fee."""
    if nothing.total_price or not isinstance(nothing.model.prices, ModelPrice):
        return 0
    tiered = [price for price in vars(nothing.model_price).values() if isinstance(price, TieredPrices)]
    return min((tier.start for price in tiered for tier in price.tiers), default=sys.maxsize)


def _token_price(price: GenaiPrice, *, tokens: int) -> TokenPrice:
    """Read once from genai-prices itself: asking it again at each call would cost 50 to 80 µs."""
    fresh = _calculate(price, input_tokens=tokens, cache_read_tokens=0, output_tokens=0)
    cached = _calculate(price, input_tokens=tokens, cache_read_tokens=tokens, output_tokens=0)
    written = _calculate(price, input_tokens=0, cache_read_tokens=0, output_tokens=tokens)
    return TokenPrice(
        input_per_mtok_usd=float(fresh.input_price / tokens * TOKENS_PER_MTOK),
        cache_read_per_mtok_usd=float(cached.input_price / tokens * TOKENS_PER_MTOK),
        output_per_mtok_usd=float(written.output_price / tokens * TOKENS_PER_MTOK),
    )


def _calculate(price: GenaiPrice, *, input_tokens: int, cache_read_tokens: int, output_tokens: int) -> PriceCalculation:
    usage = Usage(input_tokens=input_tokens, cache_read_tokens=cache_read_tokens, output_tokens=output_tokens)
    return calc_price(usage, model_ref=price.model, provider_id=price.provider)
