"""Durable conversations: how many turns a second are answered and kept, over HTTP, with a provider that never waits."""

import asyncio
import json
import statistics
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.load import Target, run_load
from benchmarks.measuring import LOAD_CORE, Row, running_server, token_header
from benchmarks.processes import free_port, running, wait_for_port

CONVERSATIONS, TURNS, ROUNDS = 16, 16, 5


def measure_threads(folder: Path) -> Iterator[Row]:
    """The server, PostgreSQL, the provider and the load share all cores: a turn is work of each of them."""
    (folder / "threads").mkdir()
    provider_port = free_port()
    provider = ["-m", "benchmarks.fake_provider", str(provider_port), "1"]
    with (
        running(provider, core=None, env={}, log=folder / "threads-provider.log"),
        running_server(folder / "threads", provider_port) as (server, port, _),
    ):
        wait_for_port(provider_port)
        cores = list(range(psutil.cpu_count() or 1))
        server.cpu_affinity(cores)
        psutil.Process().cpu_affinity(cores)
        try:
            header = token_header(port)
            _wait_for_database(port)
            # In turns, the first pair to warm up: a busy minute weighs on both alike.
            pairs = [_pair(port, header, number) for number in range(ROUNDS + 1)][1:]
        finally:
            psutil.Process().cpu_affinity([LOAD_CORE])
    kept = statistics.median(speed for speed, _ in pairs)
    plain = statistics.median(speed for _, speed in pairs)
    yield Row(f"thread turns a second, {CONVERSATIONS} conversations at once", kept, "turns/s")
    yield Row("  turns a second without a thread, for each of these", plain / kept, "x", 4)


def _pair(port: int, header: tuple[tuple[str, str], ...], number: int) -> tuple[float, float]:
    kept = asyncio.run(_round(port, header, number, keeps=True))
    return kept, asyncio.run(_round(port, header, number, keeps=False))


def _wait_for_database(port: int) -> None:
    """The server answers before its database does, and threads need it."""
    for _ in range(300):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as answer:
            if json.load(answer)["dependencies"]["database"]["state"] == "ready":
                return
        time.sleep(0.1)
    raise RuntimeError("the database did not start")


async def _round(port: int, header: tuple[tuple[str, str], ...], number: int, *, keeps: bool) -> float:
    """Turns a second of new conversations, kept by the server or not."""

    def target(conversation: int) -> Target:
        thread = b', "thread_id": "%d-%d"' % (number, conversation) if keeps else b""
        body = b'{"message": "Et ensuite ?"%s}' % thread
        return Target(port, "/completion", body, b"", header, is_stream=False)

    loop = asyncio.get_running_loop()
    started = loop.time()
    outcomes = await asyncio.gather(
        *(run_load(target(conversation), requests=TURNS, concurrency=1) for conversation in range(CONVERSATIONS))
    )
    if failures := sum(outcome.failures for outcome in outcomes):
        raise RuntimeError(f"{failures} turns failed")
    return CONVERSATIONS * TURNS / (loop.time() - started)
