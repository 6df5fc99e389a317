"""Divides what a process consumes between the calls it is serving."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

BYTES_PER_GB = 1e9


@dataclass(frozen=True, slots=True)
class Share:
    """One call's part: CPU-seconds over all threads, gigabytes × seconds of memory."""

    cpu_s: float
    ram_gb_s: float


class SharedMeter:
    """At each moment what is consumed is divided equally between the open calls; with none open it is nobody's.

    Two running sums hold what a call open since the beginning would have had, so that begin and end cost the same
    whatever the number of calls: a call's share is the sum at its end less the sum at its beginning.
    """

    def __init__(
        self, *, cpu_s: Callable[[], float], ram_bytes: Callable[[], int], clock_s: Callable[[], float]
    ) -> None:
        self._cpu_s, self._ram_bytes, self._clock_s = cpu_s, ram_bytes, clock_s
        self._last_cpu_s, self._last_ram_bytes, self._last_s = cpu_s(), ram_bytes(), clock_s()
        self._cpu_each_s = 0.0
        self._ram_each_gb_s = 0.0
        self._open: dict[Hashable, Share] = {}

    def begin(self, call: Hashable) -> None:
        self._advance()
        self._open[call] = Share(self._cpu_each_s, self._ram_each_gb_s)

    def end(self, call: Hashable) -> Share | None:
        """What this call consumed, or `None` when it is not open."""
        self._advance()
        at_begin = self._open.pop(call, None)
        if at_begin is None:
            return None
        return Share(self._cpu_each_s - at_begin.cpu_s, self._ram_each_gb_s - at_begin.ram_gb_s)

    def _advance(self) -> None:
        cpu_s, ram_bytes, now_s = self._cpu_s(), self._ram_bytes(), self._clock_s()
        if self._open:
            mean_ram_gb = (ram_bytes + self._last_ram_bytes) / 2 / BYTES_PER_GB
            self._cpu_each_s += (cpu_s - self._last_cpu_s) / len(self._open)
            self._ram_each_gb_s += mean_ram_gb * (now_s - self._last_s) / len(self._open)
        self._last_cpu_s, self._last_ram_bytes, self._last_s = cpu_s, ram_bytes, now_s
