"""Which deployments are having a bad time: they are passed over for some seconds, so that callers need not find out."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from config.catalogue import ModelEntry
from domain.errors import ProviderError

COOL_S = 5.0
LONGEST_COOL_S = 60.0
"""A provider's Retry-After is honoured up to this."""

WINDOW_S = 60.0
MIN_CALLS = 5
"""The share of failures means something from this many calls in the window on."""

COOLING_STATUSES = frozenset({401, 402, 404, 408, 429})
"""What one answer is enough for; other 4xx are about the request and not about the deployment."""

DeploymentKey = tuple[str, Any]


def deployment_key(model: ModelEntry, credential: Any) -> DeploymentKey:
    """A model, and whose credential asks for it: one caller's bad key must not disable everybody's.

    The credential itself, compared by value: what it shows of itself leaves its secrets out.
    """
    return model.id, credential


@dataclass(slots=True)
class _Record:
    """The calls of the last minute, and until when the deployment cools, and why.

    `seconds` holds [second, calls, failures]: as many as the window has, however busy the deployment is.
    """

    seconds: deque[list[int]] = field(default_factory=deque)
    calls: int = 0
    failures: int = 0
    cool_until: float = 0.0
    reason: str = ""

    def note(self, now: float, *, failed: bool) -> None:
        """Count a call, and forget those that are older than the window."""
        if not self.seconds or self.seconds[-1][0] != int(now):
            self.seconds.append([int(now), 0, 0])
            while self.seconds[0][0] <= now - WINDOW_S:
                _, calls, failures = self.seconds.popleft()
                self.calls -= calls
                self.failures -= failures
        last = self.seconds[-1]
        last[1] += 1
        last[2] += failed
        self.calls += 1
        self.failures += failed

    @property
    def mostly_fails(self) -> bool:
        return self.calls >= MIN_CALLS and self.failures * 2 > self.calls


class Health:
    """What was seen of each deployment, by this process. `now` gives seconds, monotonic."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._records: dict[DeploymentKey, _Record] = {}
        self._next_tidying = 0.0

    def cooling(self, key: DeploymentKey) -> str | None:
        """Why the deployment is passed over now, and for how long; `None` when it is not."""
        record = self._records.get(key)
        if record is None or (left_s := record.cool_until - self._now()) <= 0:
            return None
        return f"cooling down for {max(1, round(left_s))} s after: {record.reason}"

    def succeeded(self, key: DeploymentKey) -> None:
        """Count the answer. A deployment that answers does not cool any longer."""
        record = self._noted(key, failed=False)
        record.cool_until = 0.0

    def failed(self, key: DeploymentKey, error: ProviderError) -> None:
        """Count the failure, and cool the deployment when this one or the lot of them says so."""
        record = self._noted(key, failed=True)
        if error.upstream_status in COOLING_STATUSES or record.mostly_fails:
            cool_s = min(max(COOL_S, error.retry_after_s or 0.0), LONGEST_COOL_S)
            record.cool_until = self._now() + cool_s
            record.reason = error.message

    def _noted(self, key: DeploymentKey, *, failed: bool) -> _Record:
        now = self._now()
        if now >= self._next_tidying:
            self._next_tidying = now + WINDOW_S
            self._forget_older_than(now - WINDOW_S)
        record = self._records.get(key)
        if record is None:
            record = self._records[key] = _Record()
        record.note(now, failed=failed)
        return record

    def _forget_older_than(self, moment: float) -> None:
        """Callers' credentials come and go: what was not heard of for a window is dropped."""
        for key in [key for key, record in self._records.items() if record.seconds[-1][0] < moment - 1]:
            del self._records[key]
