"""What calls emit: the arithmetic of energy, carbon and water, from tokens or from CPU time. Unknown is `None`.

Energy in kWh, global warming potential (GWP) in kgCO2eq, water consumption footprint (WCF) in litres.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from domain.reports import Range
from domain.usage import LocalWork

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one call, or a sum of calls, emitted. `gwp` is everything its method covers."""

    energy: Range | None
    gwp: Range | None
    gwp_usage: Range | None
    gwp_embodied: Range | None
    wcf: Range | None

    def __add__(self, other: "Footprint") -> "Footprint":
        return Footprint(
            _add(self.energy, other.energy),
            _add(self.gwp, other.gwp),
            _add(self.gwp_usage, other.gwp_usage),
            _add(self.gwp_embodied, other.gwp_embodied),
            _add(self.wcf, other.wcf),
        )


_ZERO = Range.exact(0.0)
NOTHING = Footprint(_ZERO, _ZERO, _ZERO, _ZERO, _ZERO)
UNKNOWN = Footprint(None, None, None, None, None)


@dataclass(frozen=True, slots=True)
class TokenRates:
    """One bound of a hosted model's footprint: linear in output tokens and in the seconds the server worked for them.

    The server works `first_token_s` plus `seconds_per_token` for each token, and never longer than the call lasted
    (https://ecologits.ai/latest/methodology/llm_inference/).
    """

    seconds_per_token: float
    first_token_s: float
    energy_per_token: float
    energy_per_s: float
    gwp_usage_per_token: float
    gwp_usage_per_s: float
    gwp_embodied_per_s: float
    wcf_per_token: float
    wcf_per_s: float

    def figures(self, tokens: int, latency_s: float) -> tuple[float, float, float, float]:
        """Energy, GWP of usage, embodied GWP, water."""
        work_s = min(latency_s, tokens * self.seconds_per_token + self.first_token_s)
        return (
            tokens * self.energy_per_token + work_s * self.energy_per_s,
            tokens * self.gwp_usage_per_token + work_s * self.gwp_usage_per_s,
            work_s * self.gwp_embodied_per_s,
            tokens * self.wcf_per_token + work_s * self.wcf_per_s,
        )


def footprint_of_tokens(low: TokenRates, high: TokenRates, *, output_tokens: int, latency_s: float) -> Footprint:
    """The footprint of a call to a hosted model. A call that gave no token is counted as nothing."""
    if output_tokens == 0:
        return NOTHING
    energy, usage, embodied, wcf = low.figures(output_tokens, latency_s)
    most_energy, most_usage, most_embodied, most_wcf = high.figures(output_tokens, latency_s)
    return Footprint(
        Range.between(energy, most_energy),
        Range.between(usage + embodied, most_usage + most_embodied),
        Range.between(usage, most_usage),
        Range.between(embodied, most_embodied),
        Range.between(wcf, most_wcf),
    )


@dataclass(frozen=True, slots=True)
class Machine:
    """The power this machine draws, and what its electricity emits (kgCO2eq/kWh) and evaporates (L/kWh)."""

    cpu_watts_min: float
    cpu_watts_max: float
    ram_watts_per_gb: float
    mix_gwp_per_kwh: float
    mix_wue_per_kwh: float


def footprint_of_work(work: LocalWork, machine: Machine) -> Footprint:
    """The footprint of a call on this machine. What building the machine emitted is not known."""
    ram_j = work.ram_gb_s * machine.ram_watts_per_gb
    energy = Range.between(
        (work.cpu_s * machine.cpu_watts_min + ram_j) / JOULES_PER_KWH,
        (work.cpu_s * machine.cpu_watts_max + ram_j) / JOULES_PER_KWH,
    )
    gwp = scale(energy, machine.mix_gwp_per_kwh)
    return Footprint(energy, gwp, gwp, None, scale(energy, machine.mix_wue_per_kwh))


def sum_footprints(footprints: Iterable[Footprint | None]) -> Footprint:
    """The sum, figure by figure; a figure is `None` as soon as one part of it is not known."""
    total = NOTHING
    for footprint in footprints:
        if footprint is None:
            return UNKNOWN
        total = footprint if total is NOTHING else total + footprint
    return total


def scale(figure: Range, factor: float) -> Range:
    return Range(figure.min * factor, figure.mean * factor, figure.max * factor)


def _add(one: Range | None, other: Range | None) -> Range | None:
    return None if one is None or other is None else one + other
