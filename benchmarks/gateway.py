"""The OpenAI door: a plain model through `/v1/chat/completions`, beside LiteLLM's proxy in the same minutes."""

import asyncio
import statistics
from collections.abc import Iterator

import psutil

from benchmarks.litellm_peer import KEY, LITELLM
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
    whole_round,
    whole_rows,
)
from benchmarks.processes import rss_mb
from benchmarks.slow_streams import allow_open_files, open_slow_streams

PATH = "/v1/chat/completions"
MODEL = "gpt-4o-mini"
MARKER = b'"content":'
STREAM_BODY = b'{"model": "gpt-4o-mini", "stream": true, "messages": [{"role": "user", "content": "Raconte."}]}'
WHOLE_BODY = b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Raconte."}]}'
SLOW_BODY = (
    b'{"model": "gpt-4o-mini", "user": "slow", "stream": true, "messages": [{"role": "user", "content": "Lent."}]}'
)
SLOW_STREAMS = 1_000
CONCURRENCY = 32
PEER_ROUNDS = 2
Peer = tuple[psutil.Process, int] | None


def measure_gateway(port: int, provider_port: int, server: psutil.Process, provider: psutil.Process) -> Iterator[Row]:
    """Ours, with its limits."""
    streamed, whole = _targets(port, token_header(port))
    direct = Target(provider_port, PATH, WHOLE_BODY, b"", is_stream=False)
    yardstick = Yardstick(Target(provider_port, PATH, STREAM_BODY, MARKER), provider)
    # Rounds over some seconds, and the worst of them too: what runs beside the requests shows there.
    added = [_median_ms(whole) - _median_ms(direct) for _ in range(2 * ROUNDS)]
    yield Row("time added to a request at concurrency 1 (median)", statistics.median(added), "ms")
    yield Row("  the worst round", max(added), "ms")
    round_of(streamed, server)
    costs, tokens_us = [], []
    for _ in range(ROUNDS):
        costs.append(round_of(streamed, server)[1])
        tokens_us.append(yardstick.token_us())
    median = statistics.median(costs)
    yield Row(f"gateway: server CPU a token, {STREAMS} streams x {TOKENS} tokens", median, "µs")
    yield Row("  times the fake provider's own CPU a token", median / statistics.median(tokens_us), "x", 1.75)
    what = f"gateway: server CPU a non-streaming request, concurrency {CONCURRENCY}"
    yield from whole_rows(what, Load(whole, 640, CONCURRENCY), server, yardstick, limit=0.6)
    yield from _slow_streams(port, server)


def compare_gateway(port: int, server: psutil.Process, peer: Peer) -> Iterator[Row]:
    """Ours and the peer's, turn about, in the same minutes."""
    if peer is None:
        return
    ours = _targets(port, token_header(port))
    theirs = _targets(peer[1], (("Authorization", f"Bearer {KEY}"),))
    pairs = [(round_of(ours[0], server)[1], round_of(theirs[0], peer[0])[1]) for _ in range(PEER_ROUNDS)]
    yield from _beside("a token", [us for us, _ in pairs], [them for _, them in pairs], "µs")
    pairs = [
        (
            whole_round(ours[1], server, requests=640, concurrency=CONCURRENCY)[1],
            whole_round(theirs[1], peer[0], requests=160, concurrency=CONCURRENCY)[1],
        )
        for _ in range(PEER_ROUNDS)
    ]
    yield from _beside("a non-streaming request", [us for us, _ in pairs], [them for _, them in pairs], "ms")


def _targets(port: int, headers: tuple[tuple[str, str], ...]) -> tuple[Target, Target]:
    """What is asked, streamed and in one piece."""
    return Target(port, PATH, STREAM_BODY, MARKER, headers), Target(
        port, PATH, WHOLE_BODY, b"", headers, is_stream=False
    )


def _beside(what: str, ours: list[float], theirs: list[float], unit: str) -> Iterator[Row]:
    us, them = statistics.median(ours), statistics.median(theirs)
    yield Row(f"turn about: CPU {what}, ours", us, unit)
    yield Row(f"  LiteLLM {LITELLM}", them, unit)
    yield Row("  times ours", them / us, "x")


def _median_ms(target: Target) -> float:
    outcome = asyncio.run(run_load(target, requests=200, concurrency=1))
    if outcome.failures:
        raise RuntimeError(f"{target.path}: {outcome.failures} of {outcome.requests} requests failed")
    return statistics.median(outcome.whole_s) * 1e3


def _slow_streams(port: int, server: psutil.Process) -> Iterator[Row]:
    allow_open_files(4 * SLOW_STREAMS)
    target = Target(port, PATH, SLOW_BODY, MARKER, token_header(port))
    before_mb = rss_mb(server)
    peak_mb = before_mb

    async def run() -> list[float]:
        nonlocal peak_mb
        reading = asyncio.create_task(open_slow_streams(target, SLOW_STREAMS))
        while not reading.done():
            peak_mb = max(peak_mb, rss_mb(server))
            await asyncio.wait({reading}, timeout=0.5)
        gaps = reading.result()
        if gaps.failures:
            raise RuntimeError(f"{gaps.failures} of {SLOW_STREAMS} slow streams did not end well")
        return gaps.longest_s

    longest = asyncio.run(run())
    yield Row(f"{SLOW_STREAMS} slow streams at once: the longest silence of any", max(longest), "s", 1)
    yield Row("  memory a stream", (peak_mb - before_mb) * 1e3 / SLOW_STREAMS, "KB", 60)
