"""`make bench`: what a token, a request and an idle server cost, and how that compares with doing nothing.

The server has one core; the fake provider and the load share another. Figures are CPU time where they can be, medians
of several rounds, and ratios to baselines of the same minute: absolute times mean little on a shared machine.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.load import Outcome, Target, run_load
from benchmarks.processes import ROOT, cpu_s, free_port, rss_mb, running, wait_for, wait_for_port

SERVER_CORE, LOAD_CORE = 0, 1
STREAMS, TOKENS, ROUNDS = 64, 200, 7
LOCAL_MODEL = "qwen2.5-coder-0.5b-instruct"
STREAM_BODY = b'{"message": "Raconte une histoire.", "stream": true}'
WHOLE_BODY = b'{"message": "Raconte une histoire."}'


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    what: str
    value: float
    unit: str
    limit: float | None = None

    def text(self) -> str:
        mark = "" if self.limit is None else ("ok" if self.value <= self.limit else "OVER")
        limit = "" if self.limit is None else f"<= {self.limit:g}"
        return f"{self.what:58} {self.value:>10.2f} {self.unit:10} {limit:>9} {mark}"


def main() -> None:
    """Measure, print."""
    if (psutil.cpu_count() or 1) < 2:
        sys.exit("two cores are needed: one for the server, one for the provider and the load")
    psutil.Process().cpu_affinity([LOAD_CORE])
    with tempfile.TemporaryDirectory(prefix="routeur-bench-") as folder:
        rows = [*_measure(Path(folder)), *_measure_local_start(Path(folder))]
    print("\n".join(row.text() for row in rows))


def _measure(folder: Path) -> Iterator[Row]:
    provider_port, bare_port = free_port(), free_port()
    provider = ["-m", "benchmarks.fake_provider", str(provider_port), str(TOKENS)]
    bare = ["-m", "uvicorn", "benchmarks.bare_asgi:app", "--port", str(bare_port), "--log-level", "error"]
    with (
        running(provider, core=LOAD_CORE, env={}, log=folder / "provider.log") as provider_process,
        running(bare, core=SERVER_CORE, env={}, log=folder / "bare.log") as bare_process,
        _server(folder, provider_port) as (server, port, started_s),
    ):
        wait_for_port(bare_port)
        time.sleep(2)
        yield Row("start to first answer of /health", started_s, "s", 5)
        yield Row("idle memory of the server, without a local model", rss_mb(server), "MB", 250)
        streamed = Target(port, "/completion", STREAM_BODY, b'"done": false', _token_header(port))
        whole = Target(port, "/completion", WHOLE_BODY, b"", _token_header(port), is_stream=False)
        direct = Target(provider_port, "/v1/chat/completions", b"{}", b'"content":')
        emitted = Target(bare_port, "/", b"{}", b'"done": false')
        yield from _streaming(streamed, direct, emitted, (server, provider_process, bare_process))
        yield from _whole(whole, server)
        yield from _first_token(streamed, direct)
        yield Row("memory after the load", rss_mb(server), "MB")


def _streaming(
    streamed: Target, direct: Target, emitted: Target, processes: tuple[psutil.Process, psutil.Process, psutil.Process]
) -> Iterator[Row]:
    """Interleaved rounds, so that a busy minute weighs on all three alike."""
    server, provider, bare = processes
    _rounds_of(streamed, server)
    ours, theirs, floor, speed, direct_speed = [], [], [], [], []
    for _ in range(ROUNDS):
        outcome, used = _rounds_of(streamed, server)
        ours.append(used)
        speed.append(outcome.tokens / outcome.seconds)
        outcome, used = _rounds_of(direct, provider)
        theirs.append(used)
        direct_speed.append(outcome.tokens / outcome.seconds)
        floor.append(_rounds_of(emitted, bare)[1])
    median = statistics.median(ours)
    yield Row(f"server CPU a token, {STREAMS} streams x {TOKENS} tokens, V2", median, "µs", 12)
    yield Row("  the best round", min(ours), "µs")
    yield Row("  times the fake provider's own CPU a token", median / statistics.median(theirs), "x")
    yield Row("  times a bare ASGI endpoint emitting the same bytes", median / statistics.median(floor), "x")
    yield Row("  tokens a second through the server", statistics.median(speed), "tokens/s")
    yield Row("  tokens a second from the provider directly", statistics.median(direct_speed), "tokens/s")


def _rounds_of(target: Target, process: psutil.Process) -> tuple[Outcome, float]:
    """One round, and the CPU µs a token of the process during it."""
    before = cpu_s(process)
    outcome = asyncio.run(run_load(target, requests=4 * STREAMS, concurrency=STREAMS))
    used = cpu_s(process) - before
    if outcome.failures or not outcome.tokens:
        raise RuntimeError(f"{target.path}: {outcome.failures} of {outcome.requests} requests failed")
    return outcome, used / outcome.tokens * 1e6


def _whole(target: Target, server: psutil.Process) -> Iterator[Row]:
    costs = []
    for _ in range(ROUNDS):
        before = cpu_s(server)
        outcome = asyncio.run(run_load(target, requests=128, concurrency=16))
        if outcome.failures:
            raise RuntimeError(f"{outcome.failures} non-streaming requests failed")
        costs.append((cpu_s(server) - before) / outcome.requests * 1e3)
    yield Row(f"server CPU a non-streaming request of {TOKENS} tokens", statistics.median(costs), "ms", 2)


def _first_token(streamed: Target, direct: Target) -> Iterator[Row]:
    through = asyncio.run(run_load(streamed, requests=60, concurrency=1)).first_tokens_s
    without = asyncio.run(run_load(direct, requests=60, concurrency=1)).first_tokens_s
    added = statistics.median(through) - statistics.median(without)
    yield Row("time to first token added, one stream (median)", added * 1e3, "ms", 5)


def _measure_local_start(folder: Path) -> Iterator[Row]:
    """Start to first answer of the real local model, when its weights are on disk."""
    if not any((ROOT / "data" / "models").glob("*0.5b*.gguf")):
        print("local model: not measured, its weights are not in data/models", file=sys.stderr)
        return
    (folder / "local").mkdir()
    (folder / "local" / "models").symlink_to(ROOT / "data" / "models")
    port = free_port()
    env = {"DATA_DIR": str(folder / "local"), "PORT": str(port), "LOCAL_MODEL": LOCAL_MODEL, "LOG_LEVEL": "error"}
    body = b'{"message": "Dis bonjour.", "max_tokens": 8}'
    started = time.perf_counter()
    with running(["app.py"], core=None, env=env, log=folder / "local.log"):
        wait_for(port, "/health", folder / "local.log")
        target = Target(port, "/completion", body, b"", _token_header(port), is_stream=False)
        outcome = asyncio.run(run_load(target, requests=1, concurrency=1))
        if not outcome.failures:
            yield Row("start to first answer of the local model", time.perf_counter() - started, "s", 5)


@contextmanager
def _server(folder: Path, provider_port: int) -> Iterator[tuple[psutil.Process, int, float]]:
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


def _token_header(port: int) -> tuple[tuple[str, str], ...]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/auth/token", method="POST")
    with urllib.request.urlopen(request, timeout=5) as answer:
        return (("Authorization", f"Bearer {json.load(answer)['access_token']}"),)


if __name__ == "__main__":
    main()
