"""`make bench`: what a token, a request and an idle server cost, beside what doing nothing and what a peer cost.

The server has one core; the fake provider and the load share another. Figures are CPU time where they can be, medians
of several rounds, and ratios to baselines of the same minute: absolute times mean little on a shared machine.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.audio_cutting import measure_cutting
from benchmarks.documents import measure_documents
from benchmarks.gateway import compare_gateway, measure_gateway
from benchmarks.litellm_peer import litellm_proxy
from benchmarks.measuring import LOAD_CORE, SERVER_CORE, TOKENS, Row, running_server
from benchmarks.processes import free_port, rss_mb, running, wait_for_port
from benchmarks.recall import measure_recall
from benchmarks.spine import measure_local_start, measure_spine
from benchmarks.threads import measure_threads
from benchmarks.word_errors import measure_word_errors


def main() -> None:
    """Measure, print."""
    if (psutil.cpu_count() or 1) < 2:
        sys.exit("two cores are needed: one for the server, one for the provider and the load")
    psutil.Process().cpu_affinity([LOAD_CORE])
    with tempfile.TemporaryDirectory(prefix="routeur-bench-") as folder:
        Path(folder).chmod(0o711)  # Run as root, the embedded database's user passes through.
        rows = [*_measure(Path(folder)), *measure_threads(Path(folder)), *measure_local_start(Path(folder))]
        psutil.Process().cpu_affinity([])  # All cores again: documents are measured as a server has them.
        rows += measure_documents(Path(folder))
        rows += measure_recall(Path(folder) / "recall")
        rows += measure_cutting()
        rows += measure_word_errors(Path(folder) / "words")
    print("\n".join(row.text() for row in rows))


def _measure(folder: Path) -> Iterator[Row]:
    provider_port, bare_port = free_port(), free_port()
    provider = ["-m", "benchmarks.fake_provider", str(provider_port), str(TOKENS)]
    bare = ["-m", "uvicorn", "benchmarks.bare_asgi:app", "--port", str(bare_port), "--log-level", "error"]
    with (
        running(provider, core=LOAD_CORE, env={}, log=folder / "provider.log") as provider_process,
        running(bare, core=SERVER_CORE, env={}, log=folder / "bare.log") as bare_process,
        running_server(folder, provider_port) as (server, port, started_s),
    ):
        wait_for_port(bare_port)
        time.sleep(2)
        yield Row("start to first answer of /health", started_s, "s", 5)
        yield Row("idle memory of the server, without a local model", rss_mb(server), "MB", 250)
        processes = (server, provider_process, bare_process)
        yield from measure_spine(port, provider_port, bare_port, processes)
        # The peer starts for its own rounds only: it shares the server's core, and is not idle when idle.
        yield from measure_gateway(port, provider_port, server, provider_process)
        with litellm_proxy(folder, provider_port, SERVER_CORE) as peer:
            yield from compare_gateway(port, server, peer)
        yield Row("memory after the load", rss_mb(server), "MB")


if __name__ == "__main__":
    main()
