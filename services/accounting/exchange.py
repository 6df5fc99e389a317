"""The rate at which prices in USD are shown in EUR."""

from dataclasses import dataclass
from datetime import UTC, datetime

from currency_converter import SINGLE_DAY_CURRENCY_FILE, CurrencyConverter

from config.settings import Settings


@dataclass(frozen=True, slots=True)
class ExchangeRate:
    """How many EUR one USD is worth, on which day, and who says so."""

    usd_eur: float
    as_of: str
    source: str


def find_exchange_rate(settings: Settings) -> ExchangeRate:
    """The rate of the settings, else the European Central Bank's last one in the installed wheel.

    A configured rate is dated from the day the server started with it: nothing else is known of its age.
    """
    if settings.usd_eur is not None:
        return ExchangeRate(settings.usd_eur, datetime.now(UTC).date().isoformat(), "configured")
    converter = CurrencyConverter(SINGLE_DAY_CURRENCY_FILE)
    return ExchangeRate(converter.convert(1, "USD", "EUR"), converter.bounds["USD"].last_date.isoformat(), "ECB")
