"""How long a request may wait between attempts, all its calls together."""

import asyncio


class RetryWait:
    """`left_s` is what is left of it, in seconds. Waits at the same time count once: the caller is held once."""

    __slots__ = ("_ends", "left_s")

    def __init__(self, limit_s: float) -> None:
        self.left_s = limit_s
        self._ends: list[float] = []

    @property
    def longest_s(self) -> float:
        """How long a wait that begins now may be: as long as those that go on, and what is left."""
        return max(0.0, self._end() - self._now()) + self.left_s

    async def sleep(self, seconds: float) -> None:
        """Wait, at the cost of what is left."""
        now = self._now()
        end = now + seconds
        self.left_s -= max(0.0, end - max(now, self._end()))
        self._ends.append(end)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._ends.remove(end)

    def _end(self) -> float:
        """When the last of the waits that go on is over."""
        return max(self._ends, default=0.0)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
