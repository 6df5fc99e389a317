"""How a model's impact is computed: ecologits by model or by parameter count, or the CPU time of this machine.

ecologits costs 100 to 600 µs a call. Its formula is linear in the output tokens and in the seconds of server work: its
coefficients are read once per model by asking it, and a property test holds our evaluation equal to its own. Its
`llm_impacts` is not called: it logs warnings through its own logger class, and breaks when its logger existed before.

Import this module late, and through `Accountant`: ecologits takes 250 ms.
"""

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Literal

from ecologits.electricity_mix_repository import ElectricityMix, electricity_mixes
from ecologits.impacts.llm import compute_llm_impacts
from ecologits.impacts.modeling import Impacts
from ecologits.model_repository import ParametersMoE, models
from ecologits.status_messages import WarningMessage
from ecologits.tracers.utils import PROVIDER_CONFIG_MAP
from ecologits.utils.range_value import RangeValue, ValueOrRange

from config.catalogue import CpuTime, EcologitsModel, ModelEntry, ParameterCount
from config.impact_factors import ImpactFactors
from config.settings import Settings
from domain.errors import ConfigurationError
from domain.impact import Footprint, Machine, TokenRates, footprint_of_tokens, footprint_of_work
from domain.reports import ZoneOrigin
from domain.usage import Call

ECOLOGITS = f"ecologits {version('ecologits')}"
WORLD = "WOR"

logger = logging.getLogger(__name__)

_PROBE_TOKENS = 10_000
_PROBE_S = 1.0  # Shorter than any server takes for the tokens above.


@dataclass(frozen=True, slots=True)
class ImpactMethod:
    """What a call emits (`None` when not known), and everything that qualifies the figure."""

    method: str
    scope: Literal["usage", "usage+embodied"]
    zone: str
    zone_origin: ZoneOrigin
    warnings: tuple[str, ...]
    footprint: Callable[[Call], Footprint | None]


def check_zones(settings: Settings) -> None:
    """Raises `ConfigurationError` for a zone whose electricity is not known."""
    for name, zone in (("IMPACT_ZONE", settings.impact_zone), ("LOCAL_IMPACT_ZONE", settings.local_impact_zone)):
        if zone is not None and electricity_mixes.find_electricity_mix(zone) is None:
            raise ConfigurationError(
                f"{name}: no electricity mix for {zone!r}; use an ISO 3166-1 alpha-3 code such as 'FRA', or 'WOR'"
            )


def create_impact_method(entry: ModelEntry, *, factors: ImpactFactors, settings: Settings) -> ImpactMethod | None:
    """`None` when the catalogue names no method, or ecologits does not know the model."""
    match entry.impact:
        case EcologitsModel() as source:
            return _ecologits_method(source, model_id=entry.id, settings=settings)
        case ParameterCount() as source:
            return _parameters_method(source, factors=factors, settings=settings)
        case CpuTime():
            return _cpu_time_method(settings)
        case None:
            return None


def _ecologits_method(source: EcologitsModel, *, model_id: str, settings: Settings) -> ImpactMethod | None:
    model = models.find_model(source.provider, source.model)
    data_centre = PROVIDER_CONFIG_MAP.get(source.provider)
    if model is None or data_centre is None:
        logger.warning("impact not known to ecologits", extra={"model": model_id, "computed_as": source.model})
        return None
    parameters = model.architecture.parameters
    zone, mix, zone_origin = _zone(settings.impact_zone, data_centre.datacenter_location)
    return ImpactMethod(
        method=ECOLOGITS,
        scope="usage+embodied",
        zone=zone,
        zone_origin=zone_origin,
        warnings=_messages([*model.warnings, *mix.warnings]),
        footprint=_token_footprint(
            mix=mix,
            active=parameters.active if isinstance(parameters, ParametersMoE) else parameters,
            total=parameters.total if isinstance(parameters, ParametersMoE) else parameters,
            pue=data_centre.datacenter_pue,
            wue=data_centre.datacenter_wue,
            tps=model.deployment.tps if model.deployment else None,
            ttft=model.deployment.ttft if model.deployment else None,
        ),
    )


def _parameters_method(source: ParameterCount, *, factors: ImpactFactors, settings: Settings) -> ImpactMethod:
    zone, mix, zone_origin = _zone(settings.impact_zone, WORLD)
    return ImpactMethod(
        method=f"parameters ({ECOLOGITS})",
        scope="usage+embodied",
        zone=zone,
        zone_origin=zone_origin,
        warnings=_messages(mix.warnings),
        footprint=_token_footprint(
            mix=mix,
            active=source.active_billion,
            total=source.total_billion,
            pue=factors.datacenter_pue.value,
            wue=factors.datacenter_wue.value,
        ),
    )


def _cpu_time_method(settings: Settings) -> ImpactMethod:
    zone, mix, zone_origin = _zone(settings.local_impact_zone, WORLD)
    machine = Machine(
        cpu_watts_min=settings.cpu_watts_min,
        cpu_watts_max=settings.cpu_watts_max,
        ram_watts_per_gb=settings.ram_watts_per_gb,
        mix_gwp_per_kwh=mix.gwp,
        mix_wue_per_kwh=mix.wue,
    )
    return ImpactMethod(
        method="cpu-time",
        scope="usage",
        zone=zone,
        zone_origin=zone_origin,
        warnings=_messages(mix.warnings),
        footprint=lambda call: None if call.local_work is None else footprint_of_work(call.local_work, machine),
    )


def _zone(configured: str | None, default: str) -> tuple[str, ElectricityMix, ZoneOrigin]:
    zone = configured or default
    mix = electricity_mixes.find_electricity_mix(zone)
    if mix is None:
        raise ConfigurationError(f"no electricity mix for the zone {zone!r}")
    return zone, mix, "assumed" if configured is None else "configured"


def _messages(warnings: Iterable[WarningMessage]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(warning.message for warning in warnings))


def _token_footprint(
    *,
    mix: ElectricityMix,
    active: ValueOrRange,
    total: ValueOrRange,
    pue: ValueOrRange,
    wue: ValueOrRange,
    tps: float | None = None,
    ttft: float | None = None,
) -> Callable[[Call], Footprint | None]:
    low, high = _token_rates(
        partial(
            compute_llm_impacts,
            model_active_parameter_count=active,
            model_total_parameter_count=total,
            if_electricity_mix_adpe=mix.adpe,
            if_electricity_mix_pe=mix.pe,
            if_electricity_mix_gwp=mix.gwp,
            if_electricity_mix_wue=mix.wue,
            datacenter_pue=pue,
            datacenter_wue=wue,
            tps=tps,
            ttft=ttft,
        )
    )

    def footprint(call: Call) -> Footprint | None:
        tokens = call.usage.output_tokens
        if tokens is None:
            return None
        return footprint_of_tokens(low, high, output_tokens=tokens, latency_s=call.latency_s)

    return footprint


def _token_rates(compute: Callable[..., Impacts]) -> tuple[TokenRates, TokenRates]:
    """The coefficients of ecologits' formula, lower and upper bound, from four questions to it."""
    tokens_only = _bounds(compute(output_token_count=_PROBE_TOKENS, request_latency=0.0))
    with_work = _bounds(compute(output_token_count=_PROBE_TOKENS, request_latency=_PROBE_S))
    unhurried = _bounds(compute(output_token_count=_PROBE_TOKENS, request_latency=math.inf))
    first_token = _bounds(compute(output_token_count=0, request_latency=math.inf))
    low, high = (_rates(*answers) for answers in zip(tokens_only, with_work, unhurried, first_token, strict=True))
    return low, high


@dataclass(frozen=True, slots=True)
class _Answer:
    """One bound of what ecologits answered."""

    energy: float
    gwp_usage: float
    gwp_embodied: float
    wcf: float


def _rates(tokens_only: _Answer, with_work: _Answer, unhurried: _Answer, first_token: _Answer) -> TokenRates:
    # The embodied impact is proportional to the seconds of work alone: it serves as the clock.
    embodied_per_s = with_work.gwp_embodied / _PROBE_S
    first_token_s = first_token.gwp_embodied / embodied_per_s
    return TokenRates(
        seconds_per_token=(unhurried.gwp_embodied / embodied_per_s - first_token_s) / _PROBE_TOKENS,
        first_token_s=first_token_s,
        energy_per_token=tokens_only.energy / _PROBE_TOKENS,
        energy_per_s=(with_work.energy - tokens_only.energy) / _PROBE_S,
        gwp_usage_per_token=tokens_only.gwp_usage / _PROBE_TOKENS,
        gwp_usage_per_s=(with_work.gwp_usage - tokens_only.gwp_usage) / _PROBE_S,
        gwp_embodied_per_s=embodied_per_s,
        wcf_per_token=tokens_only.wcf / _PROBE_TOKENS,
        wcf_per_s=(with_work.wcf - tokens_only.wcf) / _PROBE_S,
    )


def _bounds(impacts: Impacts) -> tuple[_Answer, _Answer]:
    figures = (impacts.energy, impacts.usage.gwp, impacts.embodied.gwp, impacts.wcf)
    lows, highs = zip(*(_low_and_high(figure.value) for figure in figures), strict=True)
    return _Answer(*lows), _Answer(*highs)


def _low_and_high(value: ValueOrRange) -> tuple[float, float]:
    if isinstance(value, RangeValue):
        return float(value.min), float(value.max)
    return float(value), float(value)
