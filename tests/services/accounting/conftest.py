"""One accountant for all tests: it reads the shipped catalogue and factors."""

from collections.abc import Callable

import pytest

from config.catalogue import Catalogue, load_catalogue
from config.impact_factors import load_impact_factors
from config.settings import Settings
from services.accounting.accountant import Accountant


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return load_catalogue()


@pytest.fixture(scope="session")
def accountant(catalogue: Catalogue) -> Accountant:
    return Accountant(catalogue, load_impact_factors(), settings_with())


@pytest.fixture(scope="session")
def accountant_with(catalogue: Catalogue) -> Callable[..., Accountant]:
    """An accountant with other settings or another catalogue."""

    def create(models: Catalogue = catalogue, **settings: object) -> Accountant:
        return Accountant(models, load_impact_factors(), settings_with(**settings))

    return create


def settings_with(**settings: object) -> Settings:
    defaults: dict[str, object] = {"impact_zone": None, "local_impact_zone": None, "usd_eur": None}
    return Settings(_env_file=None, **{**defaults, **settings})  # type: ignore[arg-type]
