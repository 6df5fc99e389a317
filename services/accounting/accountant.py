"""Turns finished calls into a report: usage, price, impact, equivalences. What is not known is `None` and named."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from config.catalogue import Catalogue
from config.impact_factors import ImpactFactors
from config.settings import Settings
from domain.equivalences import EquivalenceFactors, equivalences
from domain.impact import NOTHING, Footprint, sum_footprints
from domain.pricing import FREE, Cost, model_price, sum_costs
from domain.reports import CallFigures, Impact, ModelImpact, Price, Report
from domain.usage import Call, TokenUsage
from services.accounting.exchange import find_exchange_rate
from services.accounting.tariffs import LOCAL, LOCAL_PROVIDER, UNPRICED, ListedPrice, Tariff, create_tariff

if TYPE_CHECKING:
    from services.accounting.impact_methods import ImpactMethod


@dataclass(frozen=True, slots=True)
class _Account:
    """How one model is accounted for."""

    tariff: Tariff
    impact_method: "ImpactMethod | None"


@dataclass(frozen=True, slots=True)
class _Item:
    """A call with its figures. A footprint of `None` is not known."""

    call: Call
    account: _Account
    cost_usd: Cost | None
    footprint: Footprint | None


_UNKNOWN = _Account(UNPRICED, None)
_UNKNOWN_LOCAL = _Account(LOCAL, None)


class Accountant:
    """Knows every model's price and impact. Made once; a report is arithmetic, and an unknown never makes it raise."""

    def __init__(self, catalogue: Catalogue, factors: ImpactFactors, settings: Settings) -> None:
        logger_class = logging.getLoggerClass()
        from services.accounting.impact_methods import check_zones, create_impact_method

        logging.setLoggerClass(logger_class)  # Importing ecologits 0.11 replaces it for the whole process.
        check_zones(settings)
        self._accounts = {
            entry.id: _Account(create_tariff(entry), create_impact_method(entry, factors=factors, settings=settings))
            for entry in catalogue.models
        }
        self._rate = find_exchange_rate(settings)
        self._equivalence_factors = EquivalenceFactors(
            car_kgco2eq_per_km=factors.car_km.value,
            tgv_kgco2eq_per_km=factors.tgv_km.value,
            smartphone_kwh_per_charge=factors.smartphone_charge.value,
        )

    def report(self, calls: Sequence[Call], *, latency_s: float, time_to_first_token_s: float | None) -> Report:
        """What these calls consumed together. `record_calls` finds in it what each consumed."""
        items = [self._itemize(call) for call in calls]
        by_model: dict[str, list[_Item]] = {}
        for item in items:
            by_model.setdefault(item.call.model, []).append(item)
        usage_by_model = {model: sum_usage(item.call.usage for item in its) for model, its in by_model.items()}
        estimated = any(call.estimated for call in calls)
        impact = _impact(by_model, estimated=estimated)
        return Report(
            calls=tuple(calls),
            call_figures=tuple(self._figures(item) for item in items),
            usage=sum_usage(usage_by_model.values()),
            usage_by_model=usage_by_model,
            estimated=estimated,
            latency_s=latency_s,
            time_to_first_token_s=time_to_first_token_s,
            price=self._price(by_model),
            impact=impact,
            equivalences=equivalences(
                gwp=impact.gwp, energy=impact.energy, wcf=impact.wcf, factors=self._equivalence_factors
            ),
        )

    def list_price(self, model_id: str) -> ListedPrice | None:
        """What the model costs today per million tokens; `None` when not known."""
        account = self._accounts.get(model_id)
        return None if account is None else account.tariff.listed()

    def _itemize(self, call: Call) -> _Item:
        account = self._accounts.get(call.model)
        if account is None:
            account = _UNKNOWN_LOCAL if call.provider == LOCAL_PROVIDER else _UNKNOWN
        if _consumed_nothing(call):
            return _Item(call, account, FREE, NOTHING)
        method = account.impact_method
        return _Item(call, account, account.tariff.cost(call.usage), None if method is None else method.footprint(call))

    def _price(self, by_model: Mapping[str, list[_Item]]) -> Price:
        usd_eur = self._rate.usd_eur
        costs = {model: sum_costs(item.cost_usd for item in items) for model, items in by_model.items()}
        total = sum_costs(costs.values())
        return Price(
            total_eur=None if total is None else total.total * usd_eur,
            total_usd=None if total is None else total.total,
            by_model={
                model: model_price(cost, usd_eur=usd_eur, priced_by=by_model[model][0].account.tariff.priced_by)
                for model, cost in costs.items()
            },
            usd_eur=usd_eur,
            rate_as_of=self._rate.as_of,
            rate_source=self._rate.source,
        )

    def _figures(self, item: _Item) -> CallFigures:
        gwp = None if item.footprint is None else item.footprint.gwp
        return CallFigures(
            cost_eur=None if item.cost_usd is None else item.cost_usd.total * self._rate.usd_eur,
            gwp_kgco2eq=None if gwp is None else gwp.mean,
        )


def sum_usage(usages: Iterable[TokenUsage]) -> TokenUsage:
    """The sum, count by count; `None` when a part is not known."""
    total: TokenUsage | None = None
    for usage in usages:
        total = usage if total is None else _add_usage(total, usage)
    return TokenUsage(0, 0, 0, 0) if total is None else total


def _add_usage(one: TokenUsage, other: TokenUsage) -> TokenUsage:
    return TokenUsage(
        input_tokens=_add(one.input_tokens, other.input_tokens),
        output_tokens=_add(one.output_tokens, other.output_tokens),
        cache_read_tokens=_add(
            _part(one.cache_read_tokens, one.input_tokens), _part(other.cache_read_tokens, other.input_tokens)
        ),
        reasoning_tokens=_add(
            _part(one.reasoning_tokens, one.output_tokens), _part(other.reasoning_tokens, other.output_tokens)
        ),
        audio_s=_add_heard(one.audio_s, other.audio_s),
    )


def _add_heard(one: float | None, other: float | None) -> float | None:
    """A call that hears nothing adds nothing."""
    return one if other is None else other if one is None else one + other


def _part(part: int | None, whole: int | None) -> int | None:
    """A part of nothing is nothing, even where the provider did not say so."""
    return 0 if whole == 0 else part


def _add(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _consumed_nothing(call: Call) -> bool:
    """A call refused before it began costs and emits nothing, whatever is known of its model."""
    usage = call.usage
    return usage.input_tokens == 0 and usage.output_tokens == 0 and not usage.audio_s and call.local_work is None


def _impact(by_model: Mapping[str, list[_Item]], *, estimated: bool) -> Impact:
    impacts = {model: _model_impact(items) for model, items in by_model.items()}
    total = sum_footprints(item.footprint for items in by_model.values() for item in items)
    return Impact(
        energy=total.energy,
        gwp=total.gwp,
        gwp_usage=total.gwp_usage,
        gwp_embodied=total.gwp_embodied,
        wcf=total.wcf,
        by_model=impacts,
        unaccounted_models=tuple(model for model, items in by_model.items() if _is_unaccounted(items)),
        estimated=estimated,
        warnings=tuple(dict.fromkeys(w for impact in impacts.values() if impact for w in impact.warnings)),
    )


def _model_impact(items: Sequence[_Item]) -> ModelImpact | None:
    method = items[0].account.impact_method
    if method is None or _is_unaccounted(items):
        return None
    footprint = sum_footprints(item.footprint for item in items)
    return ModelImpact(
        method=method.method,
        scope=method.scope,
        zone=method.zone,
        zone_origin=method.zone_origin,
        energy=footprint.energy,
        gwp=footprint.gwp,
        gwp_usage=footprint.gwp_usage,
        gwp_embodied=footprint.gwp_embodied,
        wcf=footprint.wcf,
        warnings=method.warnings,
    )


def _is_unaccounted(items: Sequence[_Item]) -> bool:
    return any(item.footprint is None for item in items)
