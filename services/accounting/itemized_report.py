"""A report that also remembers what each of its calls cost and emitted, for the ledger."""

from dataclasses import dataclass

from domain.reports import Report


@dataclass(frozen=True, slots=True)
class CallFigures:
    """One call's share; `None` when not known. `gwp_kgco2eq` is the mean."""

    cost_eur: float | None
    gwp_kgco2eq: float | None


@dataclass(frozen=True, slots=True)
class ItemizedReport(Report):
    """`call_figures[i]` belongs to `calls[i]`."""

    call_figures: tuple[CallFigures, ...]
