"""The factors of impacts and equivalences: what `config/impact.yaml` may say, read and checked at start."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from config.catalogue import Cited
from config.yaml_file import load_yaml_file

IMPACT_YAML = Path(__file__).parent / "impact.yaml"


class _Factor(Cited):
    value: float = Field(gt=0)


class CarKilometre(_Factor):
    """Use and construction."""

    unit: Literal["kgCO2eq/km"]


class TrainKilometre(_Factor):
    """One passenger's share."""

    unit: Literal["kgCO2eq/passenger-km"]


class SmartphoneCharge(_Factor):
    """Energy at the plug."""

    unit: Literal["kWh/charge"]


class PowerUsageEffectiveness(_Factor):
    """Energy a data centre takes for each kWh its servers take."""

    unit: Literal["kWh/kWh"]
    value: float = Field(ge=1)


class WaterUsageEffectiveness(_Factor):
    """Water a data centre evaporates for each kWh its servers take."""

    unit: Literal["L/kWh"]


class ImpactFactors(BaseModel):
    """Every factor, each in the one unit the arithmetic is written for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    car_km: CarKilometre
    tgv_km: TrainKilometre
    smartphone_charge: SmartphoneCharge
    datacenter_pue: PowerUsageEffectiveness
    datacenter_wue: WaterUsageEffectiveness


def load_impact_factors(path: Path = IMPACT_YAML) -> ImpactFactors:
    """Read and check the factors; raises `ConfigurationError` naming file, line and field."""
    return load_yaml_file(path, ImpactFactors)
