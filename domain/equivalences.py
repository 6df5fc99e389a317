"""A run's impact in things people know: kilometres, phone charges, litres."""

from dataclasses import dataclass

from domain.reports import Equivalences, Range


@dataclass(frozen=True, slots=True)
class EquivalenceFactors:
    """What one of each thing emits or takes. The figures and their sources are in `config/impact.yaml`."""

    car_kgco2eq_per_km: float
    tgv_kgco2eq_per_km: float
    smartphone_kwh_per_charge: float


def equivalences(
    *, gwp: Range | None, energy: Range | None, wcf: Range | None, factors: EquivalenceFactors
) -> Equivalences:
    """From the mean of each figure. The litres of water are the figure itself, not an equivalence."""
    return Equivalences(
        water_liters=None if wcf is None else wcf.mean,
        car_km=None if gwp is None else gwp.mean / factors.car_kgco2eq_per_km,
        tgv_km=None if gwp is None else gwp.mean / factors.tgv_kgco2eq_per_km,
        smartphone_charges=None if energy is None else energy.mean / factors.smartphone_kwh_per_charge,
    )
