"""Costs by hand."""

import pytest

from domain.pricing import FREE, Cost, TokenPrice, model_price, sum_costs
from domain.usage import TokenUsage

GPT_4O = TokenPrice(input_per_mtok_usd=2.5, cache_read_per_mtok_usd=1.25, output_per_mtok_usd=10)


@pytest.mark.parametrize(
    ("usage", "read", "written"),
    [
        (TokenUsage(1000, 400), 0.0025, 0.004),
        (TokenUsage(1000, 400, 800), 200 * 2.5e-6 + 800 * 1.25e-6, 0.004),
        (TokenUsage(0, 0), 0, 0),
        (TokenUsage(100, 0, 900), 100 * 1.25e-6, 0),
    ],
    ids=["nothing cached", "partly cached", "nothing used", "more cached than read counts as all cached"],
)
def test_cost_is_proportional_to_tokens_and_cached_ones_have_their_own_price(usage, read, written):
    cost = GPT_4O.cost(usage)
    assert cost == Cost(pytest.approx(read), pytest.approx(written), pytest.approx(read + written))


@pytest.mark.parametrize("usage", [TokenUsage(None, 5), TokenUsage(5, None)])
def test_cost_of_unknown_tokens_is_not_known(usage):
    assert GPT_4O.cost(usage) is None


def test_a_sum_with_an_unknown_part_is_not_known():
    assert sum_costs([FREE, None, FREE]) is None


def test_the_sum_of_no_cost_is_zero():
    assert sum_costs([]) == Cost(0.0, 0.0, 0.0)


def test_a_fee_that_is_neither_input_nor_output_stays_in_the_total():
    assert sum_costs([Cost(1.0, 2.0, 3.5), Cost(1.0, 1.0, 2.0)]) == Cost(2.0, 3.0, 5.5)


def test_a_tiny_amount_keeps_its_digits_in_euros():
    price = model_price(Cost(4.2e-7, 0.0, 4.2e-7), usd_eur=0.9, priced_by="somebody")
    assert price.total_eur == pytest.approx(3.78e-7, rel=1e-12)


def test_a_price_that_is_not_known_names_no_source():
    price = model_price(None, usd_eur=0.9, priced_by="somebody")
    assert (price.input_eur, price.output_eur, price.total_eur, price.priced_by) == (None, None, None, None)
