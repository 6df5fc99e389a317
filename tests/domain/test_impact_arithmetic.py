"""Footprints by hand."""

import pytest

from domain.impact import (
    NOTHING,
    UNKNOWN,
    Footprint,
    Machine,
    TokenRates,
    footprint_of_tokens,
    footprint_of_work,
    sum_footprints,
)
from domain.reports import Range
from domain.usage import LocalWork

LOW = TokenRates(
    seconds_per_token=0.01,
    first_token_s=0.5,
    energy_per_token=1.0,
    energy_per_s=100.0,
    gwp_usage_per_token=0.5,
    gwp_usage_per_s=50.0,
    gwp_embodied_per_s=10.0,
    wcf_per_token=2.0,
    wcf_per_s=200.0,
)
HIGH = TokenRates(0.01, 0.5, 3.0, 100.0, 1.5, 50.0, 10.0, 6.0, 200.0)

FRENCH_MACHINE = Machine(
    cpu_watts_min=0.74, cpu_watts_max=3.5, ram_watts_per_gb=0.392, mix_gwp_per_kwh=0.0414, mix_wue_per_kwh=4.0
)


def test_a_server_works_for_the_first_token_and_for_each_token():
    footprint = footprint_of_tokens(LOW, HIGH, output_tokens=100, latency_s=60.0)
    assert footprint.energy == Range(100 + 150, 100 + 250, 100 + 350)  # 1.5 s of work, as a hundred a second
    assert footprint.gwp_embodied == Range.exact(15.0)


def test_a_server_never_works_longer_than_the_call_lasted():
    footprint = footprint_of_tokens(LOW, HIGH, output_tokens=100, latency_s=1.0)
    assert footprint.energy == Range(200.0, 300.0, 400.0)
    assert footprint.gwp_usage == Range(100.0, 150.0, 200.0)
    assert footprint.gwp_embodied == Range.exact(10.0)
    assert footprint.gwp == Range(110.0, 160.0, 210.0)
    assert footprint.wcf == Range(400.0, 600.0, 800.0)


def test_no_token_emits_nothing():
    assert footprint_of_tokens(LOW, HIGH, output_tokens=0, latency_s=3.0) == NOTHING


def test_work_on_this_machine_is_watts_times_seconds():
    footprint = footprint_of_work(LocalWork(cpu_s=3600.0, ram_gb_s=7200.0), FRENCH_MACHINE)
    # An hour of one vCPU at 0.74 to 3.5 W, and two gigabytes during that hour at 0.392 W each.
    assert footprint.energy == Range(pytest.approx(0.001524), pytest.approx(0.002904), pytest.approx(0.004284))
    assert footprint.gwp is not None
    assert footprint.gwp.mean == pytest.approx(0.002904 * 0.0414)
    assert footprint.gwp_usage == footprint.gwp
    assert footprint.wcf is not None
    assert footprint.wcf.max == pytest.approx(0.004284 * 4.0)


def test_what_building_this_machine_emitted_is_not_known():
    assert footprint_of_work(LocalWork(1.0, 1.0), FRENCH_MACHINE).gwp_embodied is None


def test_a_sum_keeps_the_figures_that_are_known_on_both_sides():
    one = Range.exact(1.0)
    total = sum_footprints([Footprint(one, one, one, one, one), Footprint(one, one, one, None, one)])
    two = Range.exact(2.0)
    assert total == Footprint(two, two, two, None, two)


def test_a_sum_with_an_unknown_footprint_is_not_known():
    assert sum_footprints([NOTHING, None]) == UNKNOWN


def test_the_sum_of_no_footprint_is_nothing():
    assert sum_footprints([]) == NOTHING
