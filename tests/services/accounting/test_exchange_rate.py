"""The rate of the installed ECB file, or the configured one."""

from datetime import UTC, datetime

import pytest

from config.settings import Settings
from services.accounting.exchange import ExchangeRate, find_exchange_rate


def test_the_rate_is_the_european_central_banks_and_dated():
    rate = find_exchange_rate(Settings(_env_file=None, usd_eur=None))
    assert rate == ExchangeRate(pytest.approx(1 / 1.1172), "2026-10-30", "ECB")


def test_a_configured_rate_replaces_it_and_is_dated_from_the_start():
    rate = find_exchange_rate(Settings(_env_file=None, usd_eur=0.5))
    assert (rate.usd_eur, rate.source) == (0.5, "configured")
    assert abs((datetime.now(UTC).date() - datetime.fromisoformat(rate.as_of).date()).days) <= 1
