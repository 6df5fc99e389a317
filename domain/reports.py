"""What a run consumed: usage, price, impact, latency. Every unknown figure is `None`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from domain.usage import Call, TokenUsage

ZoneOrigin = Literal["assumed", "configured"]


@dataclass(frozen=True, slots=True)
class Range:
    """A figure known only between two bounds; `mean` is their middle unless the source gives one."""

    min: float
    mean: float
    max: float

    @classmethod
    def exact(cls, value: float) -> "Range":
        return cls(value, value, value)

    @classmethod
    def between(cls, low: float, high: float) -> "Range":
        return cls(low, (low + high) / 2, high)

    def __add__(self, other: "Range") -> "Range":
        return Range(self.min + other.min, self.mean + other.mean, self.max + other.max)


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """What one model's calls cost in a run, in EUR; `None` when its price is not known."""

    input_eur: float | None
    output_eur: float | None
    total_eur: float | None
    priced_by: str | None
    """`genai-prices 0.2.3`, `models.yaml`, `local`, or `None`."""


@dataclass(frozen=True, slots=True)
class Price:
    """The price of a run. `total_eur` is `None` when any part of it is not known."""

    total_eur: float | None
    total_usd: float | None
    by_model: Mapping[str, ModelPrice]
    usd_eur: float
    rate_as_of: str
    rate_source: str


@dataclass(frozen=True, slots=True)
class ModelImpact:
    """What one model's calls emitted. `gwp` in kgCO2eq (usage + embodied), `energy` in kWh, `wcf` in litres."""

    method: str
    scope: str
    zone: str
    zone_origin: ZoneOrigin
    energy: Range | None
    gwp: Range | None
    gwp_usage: Range | None
    gwp_embodied: Range | None
    wcf: Range | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Impact:
    """What a run emitted: sums over its models, `None` where one of them is not known."""

    energy: Range | None
    gwp: Range | None
    gwp_usage: Range | None
    gwp_embodied: Range | None
    wcf: Range | None
    by_model: Mapping[str, ModelImpact | None]
    unaccounted_models: tuple[str, ...]
    estimated: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Equivalences:
    """The same figures in things people know. Litres, kilometres, phone charges."""

    water_liters: float | None
    car_km: float | None
    tgv_km: float | None
    smartphone_charges: float | None


@dataclass(frozen=True, slots=True)
class CallFigures:
    """One call's share of a report; `None` when not known. `gwp_kgco2eq` is the mean."""

    cost_eur: float | None
    gwp_kgco2eq: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a run consumed. `call_figures[i]` belongs to `calls[i]`."""

    calls: tuple[Call, ...]
    call_figures: tuple[CallFigures, ...]
    usage: TokenUsage
    usage_by_model: Mapping[str, TokenUsage]
    estimated: bool
    latency_s: float
    time_to_first_token_s: float | None
    price: Price
    impact: Impact
    equivalences: Equivalences


def sum_or_none(values: Iterable[int | float | None]) -> float | None:
    """The sum, or `None` as soon as one part is not known."""
    total: float = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total
