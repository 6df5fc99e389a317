"""Every model of the catalogue is priced as its source prices it."""

import logging

import pytest
from genai_prices import Usage, calc_price
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from config.catalogue import GenaiPrice, ListPrice, ModelEntry, load_catalogue
from domain.pricing import Cost
from domain.usage import TokenUsage
from services.accounting.tariffs import GENAI_PRICES, create_tariff

CATALOGUE = load_catalogue()
BY_GENAI = {model.id: model for model in CATALOGUE.models if isinstance(model.price, GenaiPrice)}
TARIFFS = {model_id: create_tariff(model) for model_id, model in BY_GENAI.items()}


def entry_with(**fields: object) -> ModelEntry:
    context = {"tokens": 1, "source": "a test", "checked": "2026-11-20"}
    return ModelEntry.model_validate({"id": "m", "provider": "openai", "description": "", "context": context, **fields})


@pytest.mark.parametrize("model_id", BY_GENAI)
@examples(deadline=None)
@given(
    # Around 272,000 input tokens the price of the newest models changes.
    fresh=st.integers(0, 400_000) | st.integers(271_990, 272_010),
    cached=st.integers(0, 400_000),
    written=st.integers(0, 128_000),
)
def test_a_call_costs_what_genai_prices_says(model_id, fresh, cached, written):
    price = BY_GENAI[model_id].price
    theirs = calc_price(
        Usage(input_tokens=fresh + cached, cache_read_tokens=cached, output_tokens=written),
        model_ref=price.model,
        provider_id=price.provider,
    )
    assert TARIFFS[model_id].cost(TokenUsage(fresh + cached, written, cached)) == Cost(
        pytest.approx(float(theirs.input_price), rel=1e-12),
        pytest.approx(float(theirs.output_price), rel=1e-12),
        pytest.approx(float(theirs.total_price), rel=1e-12),
    )


def test_a_long_prompt_costs_more_a_token_where_the_provider_says_so():
    tariff = TARIFFS["gpt-6.1-sol"]
    assert tariff.cost(TokenUsage(272_000, 0)).total == pytest.approx(272_000 * 2e-6)
    assert tariff.cost(TokenUsage(272_001, 0)).total == pytest.approx(272_001 * 4e-6)


@pytest.mark.parametrize("model_id", BY_GENAI)
def test_unknown_tokens_have_no_known_cost(model_id):
    assert TARIFFS[model_id].cost(TokenUsage(None, 5)) is None
    assert TARIFFS[model_id].cost(TokenUsage(5, None)) is None


@pytest.mark.parametrize("model_id", BY_GENAI)
def test_more_cached_tokens_than_were_read_do_not_raise(model_id):
    assert TARIFFS[model_id].cost(TokenUsage(10, 0, 20)) == TARIFFS[model_id].cost(TokenUsage(10, 0, 10))


@pytest.mark.parametrize(
    ("cache_read", "cost"),
    [(0.05, 200 * 0.5e-6 + 800 * 0.05e-6), (None, 1000 * 0.5e-6)],
    ids=["cached tokens at their price", "cached tokens at the price of input when none is given"],
)
def test_a_list_price_is_applied_and_dated(cache_read, cost):
    price = ListPrice.model_validate(
        {
            "input_per_mtok_usd": 0.5,
            "output_per_mtok_usd": 1.5,
            "cache_read_per_mtok_usd": cache_read,
            "source": "a page",
            "checked": "2026-11-20",
        }
    )
    tariff = create_tariff(entry_with(price=price))
    assert tariff.cost(TokenUsage(1000, 400, 800)) == Cost(
        pytest.approx(cost), pytest.approx(0.0006), pytest.approx(cost + 0.0006)
    )
    assert tariff.priced_by == "models.yaml 2026-11-20"


def test_mistral_large_is_not_charged_at_the_price_of_its_predecessor():
    tariff = create_tariff(CATALOGUE.get("mistral-large-latest"))
    assert tariff.cost(TokenUsage(1_000_000, 1_000_000)).total == pytest.approx(2.0)


def test_nobody_bills_what_runs_here():
    tariff = create_tariff(CATALOGUE.get("smollm2-135m-instruct"))
    assert tariff.cost(TokenUsage(None, None)) == Cost(0.0, 0.0, 0.0)
    assert tariff.priced_by == "local"


def test_a_model_that_genai_prices_does_not_know_has_no_price_and_the_log_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        tariff = create_tariff(entry_with(price={"provider": "openai", "model": "gpt-0"}))
    assert tariff.cost(TokenUsage(1, 1)) is None
    assert tariff.priced_by is None
    assert "price not known to genai-prices" in caplog.text


def test_the_source_of_a_price_names_its_version():
    assert GENAI_PRICES == "genai-prices 0.2.3"


@pytest.mark.parametrize(
    ("model_id", "listed"),
    [("gpt-4o", (2.5, 1.25, 10.0)), ("mistral-large-latest", (0.5, 0.05, 1.5)), ("smollm2-135m-instruct", (0, 0, 0))],
)
def test_the_listed_price_is_the_one_calls_are_charged(model_id, listed):
    shown = create_tariff(CATALOGUE.get(model_id)).listed()
    price = shown.price
    assert (price.input_per_mtok_usd, price.cache_read_per_mtok_usd, price.output_per_mtok_usd) == listed
    assert shown.priced_by


def test_a_model_without_a_price_lists_none():
    assert create_tariff(entry_with()).listed() is None
