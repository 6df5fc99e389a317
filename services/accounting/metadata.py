"""A report as JSON: what answers carry in `metadata`, and what the ledger keeps of each call."""

from collections.abc import Iterable, Mapping
from typing import Any

from domain.reports import Equivalences, Impact, ModelImpact, Price, Range, Report, ZoneOrigin
from domain.usage import TokenUsage

CURRENCY = "EUR"
GRAMS_PER_KG = 1000
NOTHING_KNOWN: Mapping[str, None] = dict.fromkeys(
    ("output_tokens", "audio_s", "cost_eur", "energy_kwh", "gwp_kgco2eq", "wcf_liters")
)


def report_metadata(report: Report) -> dict[str, Any]:
    """The fields of an answer's `metadata` that come from its report (`API.md` §2). A figure not known is `None`."""
    gwp = report.impact.gwp
    return {
        "latency_s": report.latency_s,
        "time_to_first_token_s": report.time_to_first_token_s,
        "emissions_kgCO2eq": None if gwp is None else gwp.mean,
        "emissions_gCO2eq": None if gwp is None else gwp.mean * GRAMS_PER_KG,
        "pricing": _pricing(report.price),
        "equivalences": _equivalences(report.equivalences),
        "impact": _impact(report.impact),
    }


def usage_tokens(usage: TokenUsage) -> dict[str, int | None]:
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }


def usage_by_model(report: Report) -> dict[str, dict[str, int | None]]:
    return {model: usage_tokens(usage) for model, usage in report.usage_by_model.items()}


def record_calls(report: Report) -> tuple[dict[str, Any], ...]:
    """What a ledger row keeps of each call (`RunRecord.calls`)."""
    return tuple(
        {
            "model": call.model,
            "provider": call.provider,
            "input_tokens": call.usage.input_tokens,
            "output_tokens": call.usage.output_tokens,
            "cache_read_tokens": call.usage.cache_read_tokens,
            "reasoning_tokens": call.usage.reasoning_tokens,
            "audio_s": call.usage.audio_s,
            "status": call.status,
            "error_code": call.error_code,
            "estimated": call.estimated,
            "latency_s": call.latency_s,
            "time_to_first_token_s": call.time_to_first_token_s,
            "cost_eur": share.cost_eur,
            "gwp_kgco2eq": share.gwp_kgco2eq,
        }
        for call, share in zip(report.calls, report.call_figures, strict=True)
    )


def record_figures(report: Report) -> dict[str, Any]:
    """The columns of a ledger row (`RunRecord`) that come from its report."""
    impact = report.impact
    return {
        "input_tokens": report.usage.input_tokens,
        "output_tokens": report.usage.output_tokens,
        "audio_s": report.usage.audio_s,
        "estimated": report.estimated,
        "cost_eur": report.price.total_eur,
        "energy_kwh": impact.energy.mean if impact.energy else None,
        "gwp_kgco2eq": impact.gwp.mean if impact.gwp else None,
        "wcf_liters": impact.wcf.mean if impact.wcf else None,
        "calls": record_calls(report),
    }


def lost_figures(model: str, input_tokens: int | None, settled: Report | None = None) -> dict[str, Any]:
    """The same of a run whose process died: its settled calls, and what was sent with the one that was not.

    That one is an estimate; nothing else of it is known, and so no sum but that of the tokens sent is.
    """
    lost = {"model": model, "input_tokens": input_tokens, "output_tokens": None, "status": "lost", "estimated": True}
    calls = record_calls(settled) if settled is not None else ()
    known = input_tokens
    for call in calls:
        known = None if known is None or call["input_tokens"] is None else known + call["input_tokens"]
    return {**NOTHING_KNOWN, "input_tokens": known, "estimated": True, "calls": (*calls, lost)}


def _pricing(price: Price) -> dict[str, Any]:
    return {
        "currency": CURRENCY,
        "total_cost": price.total_eur,
        "by_model": {
            model: {
                "input": part.input_eur,
                "output": part.output_eur,
                "total": part.total_eur,
                "priced_by": part.priced_by,
            }
            for model, part in price.by_model.items()
        },
        "rate": {"usd_eur": price.usd_eur, "as_of": price.rate_as_of, "source": price.rate_source},
    }


def _equivalences(figures: Equivalences) -> dict[str, float | None]:
    return {
        "water_liters": figures.water_liters,
        "car_km": figures.car_km,
        "tgv_km": figures.tgv_km,
        "smartphone_charges": figures.smartphone_charges,
    }


def _impact(impact: Impact) -> dict[str, Any]:
    """Where models were accounted for differently, `method`, `scope` and `zone` list what was used, joined by a comma;
    `zone_origin` is then "assumed" as soon as one zone is. All four are `None` when no model is accounted for.
    """
    known = [part for part in impact.by_model.values() if part is not None]
    return {
        "method": _joined(part.method for part in known),
        "scope": _joined(part.scope for part in known),
        "zone": _joined(part.zone for part in known),
        "zone_origin": _weakest({part.zone_origin for part in known}),
        **_figures(impact),
        "estimated": impact.estimated,
        "input_tokens_counted": False,
        "unaccounted_models": list(impact.unaccounted_models),
        "warnings": list(impact.warnings),
        "by_model": {model: _model_impact(part) for model, part in impact.by_model.items()},
    }


def _model_impact(impact: ModelImpact | None) -> dict[str, Any] | None:
    if impact is None:
        return None
    return {
        "method": impact.method,
        "scope": impact.scope,
        "zone": impact.zone,
        "zone_origin": impact.zone_origin,
        **_figures(impact),
        "warnings": list(impact.warnings),
    }


def _figures(impact: Impact | ModelImpact) -> Mapping[str, Any]:
    return {
        "energy_kwh": _range(impact.energy),
        "gwp_kgCO2eq": {
            **_range(impact.gwp),
            "usage": None if impact.gwp_usage is None else impact.gwp_usage.mean,
            "embodied": None if impact.gwp_embodied is None else impact.gwp_embodied.mean,
        },
        "wcf_liters": _range(impact.wcf),
    }


def _range(figure: Range | None) -> dict[str, float | None]:
    """The shape stays when the figure is not known, so that no reader trips over it."""
    if figure is None:
        return {"min": None, "mean": None, "max": None}
    return {"min": figure.min, "mean": figure.mean, "max": figure.max}


def _weakest(origins: set[ZoneOrigin]) -> ZoneOrigin | None:
    if not origins:
        return None
    return "assumed" if "assumed" in origins else "configured"


def _joined(words: Iterable[str]) -> str | None:
    return ", ".join(dict.fromkeys(words)) or None
