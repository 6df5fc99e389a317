"""A report becomes the JSON of API.md §2 and the calls of a ledger row."""

import json

import pytest

from domain.reports import Report
from domain.usage import Call, LocalWork, TokenUsage
from services.accounting.metadata import record_calls, report_metadata, usage_by_model, usage_tokens

HOSTED = Call("gpt-4o", "openai", TokenUsage(1000, 400, 800, 0), False, "succeeded", 5.0, 0.4)
LOCAL = Call(
    "smollm2-135m-instruct",
    "local",
    TokenUsage(10, 5),
    True,
    "cancelled",
    1.0,
    None,
    LocalWork(3.0, 1.0),
    "run_timeout",
)
UNKNOWN = Call("gpt-0", "openai", TokenUsage(1, 1), False, "succeeded", 1.0)


def report(accountant, *calls: Call) -> Report:
    return accountant.report(calls, latency_s=6.0, time_to_first_token_s=0.4)


def test_metadata_carries_the_fields_of_the_contract(accountant):
    metadata = report_metadata(report(accountant, HOSTED))
    assert list(metadata) == [
        "latency_s",
        "time_to_first_token_s",
        "emissions_kgCO2eq",
        "emissions_gCO2eq",
        "pricing",
        "equivalences",
        "impact",
    ]
    assert set(metadata["equivalences"]) == {"water_liters", "car_km", "tgv_km", "smartphone_charges"}
    assert set(metadata["pricing"]) == {"currency", "total_cost", "by_model", "rate"}
    assert set(metadata["pricing"]["by_model"]["gpt-4o"]) == {"input", "output", "total", "priced_by"}
    assert set(metadata["pricing"]["rate"]) == {"usd_eur", "as_of", "source"}
    assert set(metadata["impact"]) == {
        "method",
        "scope",
        "zone",
        "zone_origin",
        "energy_kwh",
        "gwp_kgCO2eq",
        "wcf_liters",
        "estimated",
        "input_tokens_counted",
        "unaccounted_models",
        "warnings",
        "by_model",
    }
    assert set(metadata["impact"]["gwp_kgCO2eq"]) == {"min", "mean", "max", "usage", "embodied"}


def test_metadata_holds_the_figures_of_the_report(accountant):
    run = report(accountant, HOSTED)
    metadata = report_metadata(run)
    assert (metadata["latency_s"], metadata["time_to_first_token_s"]) == (6.0, 0.4)
    assert metadata["emissions_kgCO2eq"] == run.impact.gwp.mean
    assert metadata["emissions_gCO2eq"] == pytest.approx(0.305, abs=0.0005)
    assert metadata["pricing"]["currency"] == "EUR"
    assert metadata["pricing"]["total_cost"] == pytest.approx(0.00492302, abs=5e-9)
    assert metadata["pricing"]["rate"] == {
        "usd_eur": pytest.approx(0.895095, abs=5e-7),
        "as_of": "2026-10-30",
        "source": "ECB",
    }
    impact = metadata["impact"]
    assert impact["energy_kwh"] == {
        "min": run.impact.energy.min,
        "mean": run.impact.energy.mean,
        "max": run.impact.energy.max,
    }
    assert impact["gwp_kgCO2eq"]["usage"] + impact["gwp_kgCO2eq"]["embodied"] == pytest.approx(run.impact.gwp.mean)
    assert (impact["method"], impact["scope"]) == ("ecologits 0.11.3", "usage+embodied")
    assert (impact["zone"], impact["zone_origin"]) == ("USA", "assumed")
    assert impact["input_tokens_counted"] is False
    assert impact["by_model"]["gpt-4o"]["gwp_kgCO2eq"] == impact["gwp_kgCO2eq"]


def test_what_is_not_known_is_null_and_keeps_its_shape(accountant):
    metadata = report_metadata(report(accountant, UNKNOWN))
    assert metadata["emissions_kgCO2eq"] is None
    assert metadata["emissions_gCO2eq"] is None
    assert metadata["pricing"]["total_cost"] is None
    assert metadata["pricing"]["by_model"]["gpt-0"] == {"input": None, "output": None, "total": None, "priced_by": None}
    impact = metadata["impact"]
    assert (impact["method"], impact["scope"], impact["zone"], impact["zone_origin"]) == (None, None, None, None)
    assert impact["energy_kwh"] == {"min": None, "mean": None, "max": None}
    assert impact["gwp_kgCO2eq"] == {"min": None, "mean": None, "max": None, "usage": None, "embodied": None}
    assert impact["by_model"] == {"gpt-0": None}
    assert impact["unaccounted_models"] == ["gpt-0"]


def test_models_accounted_for_differently_are_joined_and_each_says_its_own(accountant_with):
    impact = report_metadata(report(accountant_with(local_impact_zone="FRA"), HOSTED, LOCAL))["impact"]
    assert impact["method"] == "ecologits 0.11.3, cpu-time"
    assert impact["scope"] == "usage+embodied, usage"
    assert impact["zone"] == "USA, FRA"
    assert impact["zone_origin"] == "assumed"
    assert impact["by_model"]["smollm2-135m-instruct"]["zone_origin"] == "configured"
    assert impact["by_model"]["smollm2-135m-instruct"]["gwp_kgCO2eq"]["embodied"] is None
    assert impact["estimated"] is True


@pytest.mark.parametrize("calls", [(), (HOSTED,), (LOCAL,), (HOSTED, LOCAL, UNKNOWN)])
def test_metadata_and_recorded_calls_are_json(accountant, calls):
    run = report(accountant, *calls)
    assert json.loads(json.dumps(report_metadata(run), allow_nan=False))
    assert len(json.loads(json.dumps(record_calls(run), allow_nan=False))) == len(calls)


def test_usage_is_named_as_the_contract_names_it(accountant):
    assert usage_tokens(TokenUsage(25, 98)) == {"input_tokens": 25, "output_tokens": 98, "total_tokens": 123}
    assert usage_tokens(TokenUsage(25, None))["total_tokens"] is None
    assert usage_by_model(report(accountant, HOSTED, HOSTED)) == {
        "gpt-4o": {"input_tokens": 2000, "output_tokens": 800, "total_tokens": 2800}
    }


def test_each_recorded_call_carries_its_own_cost_and_carbon(accountant):
    long = Call("gpt-4o", "openai", TokenUsage(4000, 1600, 3200, 0), False, "succeeded", 20.0)
    run = report(accountant, HOSTED, long, LOCAL, UNKNOWN)
    recorded = record_calls(run)
    assert recorded[0] == {
        "model": "gpt-4o",
        "provider": "openai",
        "input_tokens": 1000,
        "output_tokens": 400,
        "cache_read_tokens": 800,
        "reasoning_tokens": 0,
        "audio_s": None,
        "status": "succeeded",
        "error_code": None,
        "estimated": False,
        "latency_s": 5.0,
        "time_to_first_token_s": 0.4,
        "cost_eur": pytest.approx(0.00492302, abs=5e-9),
        "gwp_kgco2eq": pytest.approx(0.000305, abs=5e-7),
    }
    assert recorded[1]["cost_eur"] == pytest.approx(4 * recorded[0]["cost_eur"])
    assert (recorded[2]["cost_eur"], recorded[2]["error_code"], recorded[2]["status"]) == (
        0.0,
        "run_timeout",
        "cancelled",
    )
    assert (recorded[3]["cost_eur"], recorded[3]["gwp_kgco2eq"]) == (None, None)
