"""The shipped factors are the published ones, and a wrong file names the line."""

import pytest

from config.impact_factors import IMPACT_YAML, load_impact_factors
from domain.errors import ConfigurationError


def test_the_shipped_factors_are_the_published_ones():
    factors = load_impact_factors()
    assert factors.car_km.value == pytest.approx(0.110558 + 0.031696, abs=2e-6)
    assert factors.tgv_km.value == 0.00293
    assert factors.smartphone_charge.value == 0.019
    assert all(factor.source for _, factor in factors)


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("unit: kgCO2eq/km", "unit: gCO2eq/km", "car_km.unit: Input should be 'kgCO2eq/km'"),
        ("value: 0.142253", "value: -1", "car_km.value: Input should be greater than 0"),
        ("value: 1.2", "value: 0.9", "datacenter_pue.value: Input should be greater than or equal to 1"),
        ("\ntgv_km:", "\ntrain_km:", "tgv_km: Field required"),
    ],
)
def test_a_wrong_factor_is_refused_with_its_file_and_line(tmp_path, before, after, problem):
    text = IMPACT_YAML.read_text(encoding="utf-8")
    assert before in text
    path = tmp_path / "impact.yaml"
    path.write_text(text.replace(before, after), encoding="utf-8")
    with pytest.raises(ConfigurationError) as refusal:
        load_impact_factors(path)
    line = next((n for n, found in enumerate(path.read_text().splitlines(), 1) if after.strip() == found.strip()), 1)
    expected = 1 if "required" in problem else line
    assert f"{path}:{expected}: {problem}" in str(refusal.value)
