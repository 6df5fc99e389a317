"""A report says what is known of a run's calls, names what is not, and never raises for it."""

import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from config.catalogue import Catalogue
from domain.errors import ConfigurationError
from domain.reports import Equivalences, Range, Report
from domain.usage import Call, LocalWork, TokenUsage
from services.accounting.accountant import Accountant

NOTHING = Range.exact(0.0)


def call(model: str = "gpt-4o", provider: str = "openai", **fields: object) -> Call:
    defaults: dict[str, object] = {
        "usage": TokenUsage(1000, 400, 800),
        "estimated": False,
        "status": "succeeded",
        "latency_s": 5.0,
    }
    return Call(model=model, provider=provider, **{**defaults, **fields})  # type: ignore[arg-type]


def local_call(cpu_s: float = 3600.0, ram_gb_s: float = 7200.0) -> Call:
    return call("smollm2-135m-instruct", "local", local_work=LocalWork(cpu_s, ram_gb_s))


def report(accountant: Accountant, *calls: Call) -> Report:
    return accountant.report(calls, latency_s=6.0, time_to_first_token_s=0.4)


def sized(active: float, total: float, catalogue: Catalogue) -> Catalogue:
    """The catalogue, with gpt-4o known by its size only."""
    impact = {
        "method": "parameters",
        "active_billion": active,
        "total_billion": total,
        "source": "a test",
        "checked": "2026-11-20",
    }
    content = catalogue.model_dump()
    next(model for model in content["models"] if model["id"] == "gpt-4o")["impact"] = impact
    return Catalogue.model_validate(content)


# Worked examples


def test_a_call_costs_what_the_worked_example_says(accountant):
    price = report(accountant, call()).price
    assert price.total_eur == pytest.approx(0.00492302, abs=5e-9)
    assert price.total_usd == pytest.approx(200 * 2.5e-6 + 800 * 1.25e-6 + 400 * 10e-6)
    assert price.usd_eur == pytest.approx(0.895095, abs=5e-7)
    assert (price.rate_as_of, price.rate_source) == ("2026-10-30", "ECB")
    assert price.by_model["gpt-4o"].priced_by == "genai-prices 0.2.3"


@pytest.mark.parametrize(
    ("zone", "gwp_g", "shown", "origin"),
    [(None, 0.305, "USA", "assumed"), ("FRA", 0.045, "FRA", "configured")],
)
def test_a_call_emits_what_the_worked_example_says(accountant_with, zone, gwp_g, shown, origin):
    impact = report(accountant_with(impact_zone=zone), call()).impact.by_model["gpt-4o"]
    # To a milligram: the example does not say how long the call lasted.
    assert impact.gwp.mean * 1000 == pytest.approx(gwp_g, abs=0.001)
    assert (impact.zone, impact.zone_origin) == (shown, origin)
    assert (impact.method, impact.scope) == ("ecologits 0.11.3", "usage+embodied")


def test_a_model_known_by_its_size_emits_what_the_worked_example_says(accountant_with, catalogue):
    dense = accountant_with(sized(70.6, 70.6, catalogue))
    impact = report(dense, call(latency_s=1e6)).impact.by_model["gpt-4o"]
    assert impact.energy.mean == pytest.approx(0.264e-3, abs=0.0005e-3)
    assert impact.gwp.mean == pytest.approx(0.144e-3, abs=0.0005e-3)
    assert impact.wcf.mean == pytest.approx(1.14e-3, abs=0.005e-3)
    assert (impact.method, impact.zone, impact.zone_origin) == ("parameters (ecologits 0.11.3)", "WOR", "assumed")


def test_a_local_call_costs_nothing_and_emits_its_watts_times_seconds(accountant_with):
    run = report(accountant_with(local_impact_zone="FRA"), local_call())
    impact = run.impact.by_model["smollm2-135m-instruct"]
    # An hour of one vCPU at 0.74 to 3.5 W, and two gigabytes during that hour at 0.392 W each.
    assert impact.energy == Range(pytest.approx(1.524e-3), pytest.approx(2.904e-3), pytest.approx(4.284e-3))
    assert impact.gwp.mean == pytest.approx(2.904e-3 * 0.0414, rel=1e-3)
    assert impact.wcf.mean > 0
    assert impact.gwp_embodied is None
    assert (impact.method, impact.scope) == ("cpu-time", "usage")
    assert (impact.zone, impact.zone_origin) == ("FRA", "configured")
    assert run.price.total_eur == 0.0
    assert run.price.by_model["smollm2-135m-instruct"].priced_by == "local"


def test_watts_are_the_operators(accountant_with):
    greedy = accountant_with(cpu_watts_min=7.0, cpu_watts_max=35.0, ram_watts_per_gb=0.0)
    energy = report(greedy, local_call()).impact.energy
    assert energy == Range(pytest.approx(7e-3), pytest.approx(21e-3), pytest.approx(35e-3))


def test_equivalences_follow_from_the_run(accountant):
    run = report(accountant, call())
    assert run.equivalences == Equivalences(
        water_liters=run.impact.wcf.mean,
        car_km=pytest.approx(run.impact.gwp.mean / 0.142253),
        tgv_km=pytest.approx(run.impact.gwp.mean / 0.00293),
        smartphone_charges=pytest.approx(run.impact.energy.mean / 0.019),
    )


def test_a_tiny_figure_keeps_its_digits(accountant):
    run = report(accountant, call("gpt-6-luna", usage=TokenUsage(1, 0)))
    assert run.price.total_eur == pytest.approx(0.1e-6 / 1.1172)


def test_a_configured_rate_replaces_the_banks(accountant_with):
    price = report(accountant_with(usd_eur=2.0), call()).price
    assert price.total_eur == pytest.approx(2.0 * 0.0055)
    assert price.rate_source == "configured"


# What is not known


def test_an_unknown_model_has_no_figure_and_is_named(accountant):
    run = report(accountant, call("gpt-0"))
    assert run.usage.total_tokens == 1400
    assert run.price.total_eur is None
    assert run.price.by_model["gpt-0"].priced_by is None
    assert run.impact.by_model == {"gpt-0": None}
    assert run.impact.unaccounted_models == ("gpt-0",)
    assert (run.impact.energy, run.impact.gwp, run.impact.wcf) == (None, None, None)
    assert run.equivalences == Equivalences(None, None, None, None)


def test_a_known_model_next_to_an_unknown_one_keeps_its_own_figures(accountant):
    run = report(accountant, call("gpt-0"), call())
    assert run.price.total_eur is None
    assert run.impact.gwp is None
    assert run.impact.unaccounted_models == ("gpt-0",)
    assert run.price.by_model["gpt-4o"].total_eur == pytest.approx(0.00492302, abs=5e-9)
    assert run.impact.by_model["gpt-4o"].gwp.mean * 1000 == pytest.approx(0.305, abs=0.0005)


def test_a_model_with_a_price_but_no_impact_is_named(accountant):
    run = report(accountant, call("gpt-6.1-terra"))
    assert run.price.total_eur is not None
    assert run.impact.unaccounted_models == ("gpt-6.1-terra",)


@pytest.mark.parametrize(
    ("usage", "total", "priced", "accounted"),
    [
        (TokenUsage(None, 400), None, False, True),
        (TokenUsage(1000, None), None, False, False),
        (TokenUsage(None, None), None, False, False),
    ],
    ids=["input not known", "output not known", "neither known"],
)
def test_unknown_tokens_leave_price_and_impact_unknown(accountant, usage, total, priced, accounted):
    run = report(accountant, call(usage=usage))
    assert run.usage.total_tokens is total
    assert (run.price.total_eur is not None) is priced
    assert (run.impact.gwp is not None) is accounted


def test_a_local_model_whose_work_was_not_measured_is_named(accountant):
    run = report(accountant, call("smollm2-135m-instruct", "local"))
    assert run.price.total_eur == 0.0
    assert run.impact.unaccounted_models == ("smollm2-135m-instruct",)


def test_a_local_model_outside_the_catalogue_still_costs_nothing(accountant):
    assert report(accountant, call("my-own", "local")).price.by_model["my-own"].priced_by == "local"


def test_a_model_that_ecologits_does_not_know_has_no_impact_and_the_log_says_so(accountant_with, catalogue, caplog):
    content = catalogue.model_dump()
    content["models"][0]["impact"] = {"method": "ecologits", "provider": "openai", "model": "gpt-0"}
    with caplog.at_level(logging.WARNING):
        accountant = accountant_with(Catalogue.model_validate(content))
    model_id = content["models"][0]["id"]
    assert report(accountant, call(model_id)).impact.unaccounted_models == (model_id,)
    assert "impact not known to ecologits" in caplog.text


@pytest.mark.parametrize("setting", ["impact_zone", "local_impact_zone"])
def test_a_zone_without_electricity_stops_the_start_and_names_the_setting(accountant_with, setting):
    with pytest.raises(ConfigurationError, match=f"^{setting.upper()}: .*'XYZ'"):
        accountant_with(**{setting: "XYZ"})


# Several calls


def test_a_call_refused_before_it_began_counts_as_nothing_even_for_an_unknown_model(accountant):
    refused = call("gpt-0", usage=TokenUsage(0, 0), status="failed", error_code="provider_refused")
    run, alone = report(accountant, refused, call()), report(accountant, call())
    assert run.usage == alone.usage
    assert run.price.total_eur == alone.price.total_eur
    assert run.impact.gwp == alone.impact.gwp
    assert run.impact.unaccounted_models == ()
    assert run.price.by_model["gpt-0"].total_eur == 0.0


def test_a_failed_call_that_consumed_tokens_is_counted(accountant):
    cut = call(status="failed", error_code="provider_cut")
    assert report(accountant, cut, call()).price.total_eur == pytest.approx(2 * 0.00492302, abs=1e-8)


def test_a_run_without_a_call_consumed_nothing(accountant):
    run = report(accountant)
    assert run.usage == TokenUsage(0, 0, 0, 0)
    assert run.price.total_eur == 0.0
    assert run.impact.gwp == NOTHING
    assert run.equivalences == Equivalences(0.0, 0.0, 0.0, 0.0)


def test_embodied_carbon_of_a_run_is_not_known_when_it_is_not_for_one_model(accountant):
    impact = report(accountant, call(), local_call()).impact
    hosted, local = impact.by_model["gpt-4o"], impact.by_model["smollm2-135m-instruct"]
    assert impact.gwp_embodied is None
    assert impact.gwp == hosted.gwp + local.gwp
    assert impact.gwp_usage == hosted.gwp_usage + local.gwp_usage


def test_a_report_is_estimated_as_soon_as_one_call_is(accountant):
    run = report(accountant, call(), call(estimated=True))
    assert run.estimated
    assert run.impact.estimated
    assert not report(accountant, call()).estimated


def test_warnings_of_the_source_are_kept_once(accountant):
    warnings = report(accountant, call(), call("gpt-4o-mini"), call("mistral-small-latest", "mistral")).impact.warnings
    assert warnings == (
        "The model architecture has not been released, expect lower precision.",
        "The model architecture is multimodal, expect lower precision.",
    )


def test_latencies_are_the_runs(accountant):
    run = report(accountant, call())
    assert (run.latency_s, run.time_to_first_token_s) == (6.0, 0.4)


def test_making_an_accountant_does_not_replace_the_loggers_of_the_process():
    script = """
import logging
from config.catalogue import load_catalogue
from config.impact_factors import load_impact_factors
from config.settings import Settings
from services.accounting.accountant import Accountant

Accountant(load_catalogue(), load_impact_factors(), Settings(_env_file=None))
assert logging.getLoggerClass() is logging.Logger, logging.getLoggerClass()
"""
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True)  # Our own interpreter and script.


tokens = st.integers(0, 300_000) | st.none()
calls = st.lists(
    st.builds(
        call,
        model=st.sampled_from(["gpt-4o", "gpt-6.1-sol", "gpt-6.1-terra", "mistral-large-latest", "gpt-0"]),
        usage=st.builds(TokenUsage, tokens, tokens, tokens, tokens),
        estimated=st.booleans(),
        status=st.sampled_from(["succeeded", "failed", "cancelled"]),
        latency_s=st.floats(0.0, 600.0),
    )
    | st.builds(local_call, st.floats(0.0, 1e4), st.floats(0.0, 1e4)),
    max_size=6,
)


@examples(deadline=None)
@given(calls=calls)
def test_a_report_is_the_sum_of_its_models_and_none_where_one_is_not_known(accountant, calls):
    run = report(accountant, *calls)
    assert run.calls == tuple(calls)
    assert set(run.usage_by_model) == {one.model for one in calls}
    for count in ("input_tokens", "output_tokens"):
        parts = [getattr(usage, count) for usage in run.usage_by_model.values()]
        assert getattr(run.usage, count) == (None if None in parts else sum(parts))
    costs = [price.total_eur for price in run.price.by_model.values()]
    assert run.price.total_eur == (None if None in costs else pytest.approx(sum(costs), rel=1e-9, abs=1e-18))
    if run.impact.unaccounted_models:
        assert (run.impact.energy, run.impact.gwp, run.impact.wcf) == (None, None, None)
    else:
        assert_is_sum(run.impact.energy, [i.energy for i in run.impact.by_model.values() if i])
        assert_is_sum(run.impact.gwp, [i.gwp for i in run.impact.by_model.values() if i])
        assert_is_sum(run.impact.gwp_embodied, [i.gwp_embodied for i in run.impact.by_model.values() if i])
        assert_is_sum(run.impact.wcf, [i.wcf for i in run.impact.by_model.values() if i])


def assert_is_sum(total: Range | None, parts: Sequence[Range | None]) -> None:
    if None in parts:
        assert total is None
        return
    for bound in ("min", "mean", "max"):
        expected = sum(getattr(part, bound) for part in parts)
        assert getattr(total, bound) == pytest.approx(expected, rel=1e-9, abs=1e-18)
