"""How long a request may wait between attempts, all its calls together."""

import asyncio


class RetryWait:
    """`left_s` is what is left of it, in seconds. Waits at the same time count once: the caller is held once."""

    __slots__ = ("_ends", "left_s")

    def __init__(self, limit_s: float) -> None:
        self.left_s = limit_s
        self._ends: list[float] = []

    async def sleep(self, seconds: float) -> None:
        """Wait, at the cost of what is left."""
        now = asyncio.get_running_loop().time()
        end = now + seconds
        self.left_s -= max(0.0, end - max([now, *self._ends]))
        self._ends.append(end)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._ends.remove(end)
