"""The OpenAI door: a plain model through `/v1/chat/completions`, beside LiteLLM's proxy in the same minutes."""

import asyncio
import statistics
from collections.abc import Iterator

import psutil

from benchmarks.litellm_peer import KEY
from benchmarks.load import Target, run_load
from benchmarks.measuring import ROUNDS, STREAMS, TOKENS, Row, round_of, token_header, whole_round
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
Peer = tuple[psutil.Process, int] | None


def measure_gateway(port: int, provider_port: int, server: psutil.Process, peer: Peer) -> Iterator[Row]:
    """Ours with its limits, then the peer's figures of the same rounds."""
    ours = (Target(port, PATH, STREAM_BODY, MARKER, token_header(port)), server)
    whole = (Target(port, PATH, WHOLE_BODY, b"", token_header(port), is_stream=False), server)
    theirs = whole_of_peer = None
    if peer is not None:
        key = (("Authorization", f"Bearer {KEY}"),)
        theirs = (Target(peer[1], PATH, STREAM_BODY, MARKER, key), peer[0])
        whole_of_peer = (Target(peer[1], PATH, WHOLE_BODY, b"", key, is_stream=False), peer[0])
    yield from _streaming(ours, theirs)
    yield from _whole(whole, whole_of_peer)
    direct = Target(provider_port, PATH, WHOLE_BODY, b"", is_stream=False)
    added = _median_ms(whole[0]) - _median_ms(direct)
    yield Row("time added to a request at concurrency 1 (median)", added, "ms", 1)
    yield from _slow_streams(port, server)


Measured = tuple[Target, psutil.Process]


def _streaming(ours: Measured, theirs: Measured | None) -> Iterator[Row]:
    round_of(*ours)
    costs = [round_of(*ours)[1] for _ in range(ROUNDS)]
    median = statistics.median(costs)
    yield Row(f"gateway: server CPU a token, {STREAMS} streams x {TOKENS} tokens", median, "µs", 10)
    if theirs is not None:
        peer = round_of(*theirs)[1]
        yield Row("  LiteLLM, the same streams", peer, "µs")
        yield Row("  LiteLLM costs so many times more", peer / median, "x")


def _whole(ours: Measured, theirs: Measured | None) -> Iterator[Row]:
    costs = [whole_round(*ours, requests=640, concurrency=CONCURRENCY)[1] for _ in range(ROUNDS)]
    median = statistics.median(costs)
    yield Row(f"gateway: server CPU a non-streaming request, concurrency {CONCURRENCY}", median, "ms", 0.5)
    if theirs is not None:
        peer = whole_round(*theirs, requests=320, concurrency=CONCURRENCY)[1]
        yield Row("  LiteLLM, the same requests", peer, "ms")
        yield Row("  LiteLLM costs so many times more", peer / median, "x")


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
