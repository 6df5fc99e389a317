"""The native door: agents through a compiled graph, with accounting and ledger on."""

import asyncio
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.load import Target, run_load
from benchmarks.measuring import (
    ROUNDS,
    STREAMS,
    TOKENS,
    Load,
    Row,
    Yardstick,
    round_of,
    token_header,
    whole_rows,
)
from benchmarks.processes import ROOT, free_port, running, wait_for

LOCAL_MODEL = "qwen2.5-coder-0.5b-instruct"
STREAM_BODY = b'{"message": "Raconte une histoire.", "stream": true}'
WHOLE_BODY = b'{"message": "Raconte une histoire."}'
Processes = tuple[psutil.Process, psutil.Process, psutil.Process]


def measure_spine(port: int, provider_port: int, bare_port: int, processes: Processes) -> Iterator[Row]:
    """`processes` are the server, the fake provider and the bare endpoint."""
    streamed = Target(port, "/completion", STREAM_BODY, b'"done": false', token_header(port))
    whole = Target(port, "/completion", WHOLE_BODY, b"", token_header(port), is_stream=False)
    direct = Target(provider_port, "/v1/chat/completions", b'{"stream": true}', b'"content":')
    emitted = Target(bare_port, "/", b"{}", b'"done": false')
    yield from _streaming(streamed, direct, emitted, processes)
    what = f"server CPU a non-streaming request of {TOKENS} tokens, V2"
    yield from whole_rows(what, Load(whole, 128, 16), processes[0], Yardstick(direct, processes[1]), limit=2.5)
    yield from _first_token(streamed, direct)


def _streaming(streamed: Target, direct: Target, emitted: Target, processes: Processes) -> Iterator[Row]:
    """Interleaved rounds, so that a busy minute weighs on all three alike."""
    server, provider, bare = processes
    round_of(streamed, server)
    ours, theirs, floor, speed, direct_speed = [], [], [], [], []
    for _ in range(ROUNDS):
        outcome, used = round_of(streamed, server)
        ours.append(used)
        speed.append(outcome.tokens / outcome.seconds)
        outcome, used = round_of(direct, provider)
        theirs.append(used)
        direct_speed.append(outcome.tokens / outcome.seconds)
        floor.append(round_of(emitted, bare)[1])
    median, provider_us = statistics.median(ours), statistics.median(theirs)
    yield Row("the fake provider's own CPU a token, called directly", provider_us, "µs")
    yield Row(f"server CPU a token, {STREAMS} streams x {TOKENS} tokens, V2", median, "µs")
    yield Row("  the best round", min(ours), "µs")
    yield Row("  times the fake provider's own CPU a token", median / provider_us, "x", 2.7)
    yield Row("  times a bare ASGI endpoint emitting the same bytes", median / statistics.median(floor), "x")
    yield Row("  tokens a second through the server", statistics.median(speed), "tokens/s")
    yield Row("  tokens a second from the provider directly", statistics.median(direct_speed), "tokens/s")


def _first_token(streamed: Target, direct: Target) -> Iterator[Row]:
    through = asyncio.run(run_load(streamed, requests=60, concurrency=1)).first_tokens_s
    without = asyncio.run(run_load(direct, requests=60, concurrency=1)).first_tokens_s
    added = statistics.median(through) - statistics.median(without)
    yield Row("time to first token added, one stream (median)", added * 1e3, "ms", 5)


def measure_local_start(folder: Path) -> Iterator[Row]:
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
        target = Target(port, "/completion", body, b"", token_header(port), is_stream=False)
        outcome = asyncio.run(run_load(target, requests=1, concurrency=1))
        if not outcome.failures:
            yield Row("start to first answer of the local model", time.perf_counter() - started, "s", 5)
