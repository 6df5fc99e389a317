"""What holds for every test."""

import pytest
from hypothesis import HealthCheck, settings

# A collection of the whole run's garbage, or the other worker's servers, may fall into any example.
# So may a busy machine's slowness into making the examples.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")

LONG = ("tests/e2e/", "tests/test_", "tests/services/audio/", "tests/services/rag/", "tests/api/")
"""Where tests start servers. They come first: a file that takes a minute must not be what a worker ends with."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """After the shuffle: the long files before the others, each kind in its random order."""
    items.sort(key=lambda item: (not item.nodeid.startswith(LONG[:2]), not item.nodeid.startswith(LONG)))
