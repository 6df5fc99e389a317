"""Starts what is measured, each on its core, and reads what it used."""

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
START_S = 90.0
STOP_S = 15.0


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def running(command: list[str], *, core: int | None, env: Mapping[str, str], log: Path) -> Iterator[psutil.Process]:
    """This Python with these arguments, pinned to a core, ended on leaving."""
    with running_program([sys.executable, *command], core=core, env=env, log=log) as process:
        yield process


@contextmanager
def running_program(
    command: list[str], *, core: int | None, env: Mapping[str, str], log: Path
) -> Iterator[psutil.Process]:
    """A process pinned to a core, ended on leaving."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["env", *(f"{name}={value}" for name, value in env.items()), *command],
            cwd=ROOT,
            stdout=output,
            stderr=output,
        )
        watched = psutil.Process(process.pid)
        watched.cpu_affinity([core] if core is not None else list(range(psutil.cpu_count() or 1)))
        try:
            yield watched
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(port: int, path: str, log: Path) -> float:
    """Seconds until the address answers with 200."""
    started = time.perf_counter()
    while time.perf_counter() - started < START_S:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1) as answer:
                if answer.status == 200:
                    return time.perf_counter() - started
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"nothing answers on {port}{path}: {log.read_text()[-2000:]}")


def wait_for_port(port: int) -> None:
    """Until something listens there."""
    started = time.perf_counter()
    while time.perf_counter() - started < START_S:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"nothing listens on {port}")


def cpu_s(process: psutil.Process) -> float:
    """CPU-seconds that the process has used, user and system, without its children."""
    times = process.cpu_times()
    return float(times.user + times.system)


def rss_mb(process: psutil.Process) -> float:
    """Resident memory, in MB."""
    return float(process.memory_info().rss) / 1e6
