"""`python app.py worker` beside a server, on the same data."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.live_server import ROOT, clean_environment

WAIT_S = 110.0


@contextmanager
def worker(data_dir: Path, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Killed at the end, unless it has ended by itself."""
    with (data_dir / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "app.py"), "worker"],
            cwd=data_dir,
            env=clean_environment(DATA_DIR=str(data_dir), **{"LOCAL_MODEL": "none", **environment}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait(WAIT_S)
