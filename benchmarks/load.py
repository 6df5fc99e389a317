"""A load generator for loopback: streams over raw sockets, so that it costs little beside what it measures."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

END_OF_BODY = b"\r\n0\r\n\r\n"
LIMIT_S = 120.0
"""A measurement that takes longer is broken: it is given up."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked: a POST of a JSON body. `marker` is in every event that carries a token."""

    port: int
    path: str
    body: bytes
    marker: bytes
    headers: tuple[tuple[str, str], ...] = ()
    is_stream: bool = True

    def request(self) -> bytes:
        lines = [f"POST {self.path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        lines += [f"Content-Length: {len(self.body)}", "", ""]
        return "\r\n".join(lines).encode() + self.body


@dataclass(slots=True)
class Outcome:
    """What came back. Times in seconds; `tokens` counts the events that carried one."""

    requests: int = 0
    tokens: int = 0
    failures: int = 0
    seconds: float = 0.0
    first_bytes_s: list[float] = field(default_factory=list)
    first_tokens_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)


async def run_load(target: Target, *, requests: int, concurrency: int) -> Outcome:
    """Send `requests` requests, `concurrency` at a time, each worker on one kept connection."""
    outcome = Outcome()
    left = iter(range(requests))
    started = time.perf_counter()
    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(*(_worker(target, left, outcome) for _ in range(concurrency)))
    outcome.seconds = time.perf_counter() - started
    return outcome


async def _worker(target: Target, left: Iterator[int], outcome: Outcome) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port, limit=2**20)
    request = target.request()
    try:
        for _ in left:
            started = time.perf_counter()
            writer.write(request)
            if target.is_stream:
                await _read_stream(target, reader, outcome, started)
            else:
                await _read_whole(reader, outcome)
            outcome.requests += 1
            outcome.whole_s.append(time.perf_counter() - started)
    finally:
        writer.close()


async def _read_stream(target: Target, reader: asyncio.StreamReader, outcome: Outcome, started: float) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    outcome.first_bytes_s.append(time.perf_counter() - started)
    outcome.failures += not head.startswith(b"HTTP/1.1 200")
    tail = b""
    seen_first = False
    while True:
        data = await reader.read(2**18)
        if not data:
            outcome.failures += 1
            return
        received = tail + data
        whole_until = received.rfind(b"\n\n") + 2
        found = received.count(target.marker, 0, whole_until)
        if found and not seen_first:
            seen_first = True
            outcome.first_tokens_s.append(time.perf_counter() - started)
        outcome.tokens += found
        if received.endswith(END_OF_BODY):
            return
        tail = received[whole_until:]


async def _read_whole(reader: asyncio.StreamReader, outcome: Outcome) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    await reader.readexactly(length)
    outcome.failures += not head.startswith(b"http/1.1 200")
