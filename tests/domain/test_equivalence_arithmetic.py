"""Equivalences by hand."""

import pytest

from domain.equivalences import EquivalenceFactors, equivalences
from domain.reports import Equivalences, Range

FACTORS = EquivalenceFactors(car_kgco2eq_per_km=0.142253, tgv_kgco2eq_per_km=0.00293, smartphone_kwh_per_charge=0.019)


def test_each_equivalence_is_the_mean_over_its_factor_and_water_is_the_figure_itself():
    figures = equivalences(
        gwp=Range(0.0, 0.142253, 1.0), energy=Range(0.0, 0.038, 1.0), wcf=Range(0.0, 0.25, 1.0), factors=FACTORS
    )
    assert figures == Equivalences(
        water_liters=0.25,
        car_km=pytest.approx(1.0),
        tgv_km=pytest.approx(48.5505, abs=1e-4),
        smartphone_charges=pytest.approx(2.0),
    )


def test_an_equivalence_of_an_unknown_figure_is_not_known():
    assert equivalences(gwp=None, energy=None, wcf=None, factors=FACTORS) == Equivalences(None, None, None, None)


def test_phone_charges_come_from_energy_even_where_carbon_is_not_known():
    figures = equivalences(gwp=None, energy=Range.exact(0.019), wcf=None, factors=FACTORS)
    assert figures == Equivalences(None, None, None, pytest.approx(1.0))
