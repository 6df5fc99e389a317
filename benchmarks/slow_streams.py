"""Many open slow streams at once: does every one of them keep coming, and what does one cost in memory?"""

import asyncio
import resource
import time
from dataclasses import dataclass, field

from benchmarks.load import END_OF_BODY, Target

LIMIT_S = 60.0


@dataclass(slots=True)
class Gaps:
    """The longest silence of each stream, in seconds; `failures` counts streams that did not end well."""

    longest_s: list[float] = field(default_factory=list)
    failures: int = 0


def allow_open_files(count: int) -> None:
    """Raise this process's limit; the server's own is the system's."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


async def open_slow_streams(target: Target, count: int) -> Gaps:
    """Open `count` streams over a second and read each to its end."""
    gaps = Gaps()
    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(*(_follow(target, gaps, number / count) for number in range(count)))
    return gaps


async def _follow(target: Target, gaps: Gaps, delay_s: float) -> None:
    await asyncio.sleep(delay_s)
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    try:
        writer.write(target.request())
        head = await reader.readuntil(b"\r\n\r\n")
        last, longest, tail = time.perf_counter(), 0.0, b""
        while not tail.endswith(END_OF_BODY):
            data = await reader.read(65_536)
            now = time.perf_counter()
            if not data:
                break
            longest, last = max(longest, now - last), now
            tail = (tail + data)[-len(END_OF_BODY) :]
        gaps.longest_s.append(longest)
        gaps.failures += not head.startswith(b"HTTP/1.1 200") or not tail.endswith(END_OF_BODY)
    finally:
        writer.close()
