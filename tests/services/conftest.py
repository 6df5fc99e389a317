"""What every test of a service takes for granted."""

import pytest

from services.llm import router


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses before another attempt are a matter of milliseconds; their lengths have tests of their own."""
    monkeypatch.setattr(router, "FIRST_DELAY_S", 0.001)
