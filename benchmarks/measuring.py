"""What the benchmarks share: a line of the table, one round of load, and the server they measure."""

import asyncio
import json
import statistics
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.load import Outcome, Target, run_load
from benchmarks.processes import cpu_s, free_port, running, wait_for

SERVER_CORE, LOAD_CORE = 0, 1
"""The first core also serves the interrupts and housekeeping of most systems: what is measured gets the other."""
STREAMS, TOKENS, ROUNDS = 64, 200, 7


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    what: str
    value: float
    unit: str
    limit: float | None = None
    at_least: float | None = None

    def text(self) -> str:
        mark, limit = "", ""
        if self.limit is not None:
            mark, limit = "ok" if self.value <= self.limit else "OVER", f"<= {self.limit:g}"
        elif self.at_least is not None:
            mark, limit = "ok" if self.value >= self.at_least else "UNDER", f">= {self.at_least:g}"
        return f"{self.what:58} {self.value:>10.2f} {self.unit:10} {limit:>9} {mark}"


def round_of(target: Target, process: psutil.Process) -> tuple[Outcome, float]:
    """One round of streams, and the CPU µs a token of the process during it."""
    before = cpu_s(process)
    outcome = asyncio.run(run_load(target, requests=4 * STREAMS, concurrency=STREAMS))
    used = cpu_s(process) - before
    if outcome.failures or not outcome.tokens:
        raise RuntimeError(f"{target.path}: {outcome.failures} of {outcome.requests} requests failed")
    return outcome, used / outcome.tokens * 1e6


def whole_round(target: Target, process: psutil.Process, *, requests: int, concurrency: int) -> tuple[Outcome, float]:
    """One round of answers in one piece, and the CPU ms a request of the process during it."""
    before = cpu_s(process)
    outcome = asyncio.run(run_load(target, requests=requests, concurrency=concurrency))
    if outcome.failures:
        raise RuntimeError(f"{target.path}: {outcome.failures} of {outcome.requests} requests failed")
    return outcome, (cpu_s(process) - before) / outcome.requests * 1e3


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent in a round."""

    target: Target
    requests: int
    concurrency: int


@dataclass(frozen=True, slots=True)
class Yardstick:
    """The fake provider, called directly: what its own token costs measures the machine and its present mood."""

    direct: Target
    provider: psutil.Process

    def token_us(self) -> float:
        """CPU µs a token, of one round."""
        return round_of(self.direct, self.provider)[1]


def whole_rows(what: str, load: Load, server: psutil.Process, yardstick: Yardstick, *, limit: float) -> Iterator[Row]:
    """Answers in one piece, by the CPU that the provider takes to stream one of as many tokens; in turns with it."""
    costs, tokens_us = [], []
    for _ in range(ROUNDS):
        costs.append(whole_round(load.target, server, requests=load.requests, concurrency=load.concurrency)[1])
        tokens_us.append(yardstick.token_us())
    median_ms = statistics.median(costs)
    yield Row(what, median_ms, "ms")
    times = median_ms * 1e3 / (statistics.median(tokens_us) * TOKENS)
    yield Row("  times the fake provider's own CPU for a stream as long", times, "x", limit)


@contextmanager
def running_server(folder: Path, provider_port: int) -> Iterator[tuple[psutil.Process, int, float]]:
    """The server on its core, in front of the fake provider: its process, its port, seconds to its first answer."""
    port = free_port()
    env = {
        "DATA_DIR": str(folder / "data"),
        "PORT": str(port),
        "LOCAL_MODEL": "none",
        "OPENAI_API_KEY": "sk-fake",
        "OPENAI_BASE_URL": f"http://127.0.0.1:{provider_port}/v1",
        "WORKERS": "1",
    }
    with running(["app.py"], core=SERVER_CORE, env=env, log=folder / "server.log") as server:
        started_s = wait_for(port, "/health", folder / "server.log")
        wait_for(port, "/ready", folder / "server.log")
        yield server, port, started_s


def token_header(port: int) -> tuple[tuple[str, str], ...]:
    """A token of development mode, as a header."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/auth/token", method="POST")
    with urllib.request.urlopen(request, timeout=5) as answer:
        return (("Authorization", f"Bearer {json.load(answer)['access_token']}"),)
