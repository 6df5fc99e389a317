"""What every test of a service takes for granted."""

import pytest

from services.llm import failover


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses before another attempt are a matter of milliseconds; their lengths have tests of their own."""
    monkeypatch.setattr(failover, "FIRST_DELAY_S", 0.001)
