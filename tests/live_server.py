"""The real server, in processes of its own, as its users run it: `python app.py` and an environment.

    with live_server(tmp_path, OPENAI_API_KEY="sk-…") as server:
        httpx.get(f"{server.url}/health")

Leaving the block ends every process that was started, its database and local model included.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
from psycopg.rows import dict_row

from core import embedded_postgres
from core.postgres_processes import EmbeddedPostgresError

ROOT = Path(__file__).resolve().parents[1]
START_S = 90.0
STOP_S = 60.0
NO_DATABASE = "postgresql://nobody@127.0.0.1:1/none"
"""Nothing listens there: for servers whose test needs no rows, and which start sooner without."""


@dataclass
class LiveServer:
    """A running server. `log` is what it printed."""

    data_dir: Path
    environment: dict[str, str]
    project: Path = ROOT
    port: int = 0
    arguments: tuple[str, ...] = ()
    process: "subprocess.Popen[bytes] | None" = None
    _begun_at: int = 0
    """Where the log of the last start begins."""
    _token: str | None = None
    _started: set[psutil.Process] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.data_dir / "server.log").read_text(errors="replace")

    @property
    def root(self) -> psutil.Process:
        assert self.process is not None
        return psutil.Process(self.process.pid)

    def start(self, port: int | None = None) -> None:
        """Start it (again, on the same data) and wait until it answers."""
        self.port = port or free_port()
        process = self._begin()
        # A port that was free may have been taken meanwhile: then it is another server that answers.
        wait_until(lambda: process.poll() is not None or self._answers(), START_S, "the server answers")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20 if port else 0)
        if port is None and process.poll() is not None and "address already in use" in self.log[self._begun_at :]:
            self.start()
            return
        assert process.poll() is None, f"the server ended with {process.returncode}:\n{self.log}"
        self.note_processes()

    def _begin(self) -> "subprocess.Popen[bytes]":
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with (self.data_dir / "server.log").open("ab") as log:
            self._begun_at = len(self.log)
            self.process = subprocess.Popen(
                [sys.executable, str(self.project / "app.py"), "serve", *self.arguments],
                cwd=self.data_dir,  # Where no `.env` of a developer lies.
                env=clean_environment(DATA_DIR=str(self.data_dir), PORT=str(self.port), **self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self.process

    def token(self) -> str:
        """A token of development mode."""
        if self._token is None:
            answer = httpx.post(f"{self.url}/auth/token", trust_env=False, timeout=30)
            self._token = str(answer.raise_for_status().json()["access_token"])
        return self._token

    def client(self, **options: Any) -> httpx.AsyncClient:
        """A client that carries a token."""
        headers = {"Authorization": f"Bearer {self.token()}", **options.pop("headers", {})}
        return httpx.AsyncClient(base_url=self.url, headers=headers, trust_env=False, timeout=60, **options)

    def rows(self, where: str = "true", *values: object) -> list[dict[str, Any]]:
        """The ledger's rows, read in the server's own PostgreSQL; none while that one starts."""
        status = embedded_postgres.status(self.data_dir)
        if status.uri is None:
            return []
        query = f"SELECT * FROM runs WHERE {where}"  # noqa: S608 - a test's own condition
        try:
            with psycopg.connect(status.uri, row_factory=dict_row, connect_timeout=20) as connection:
                return connection.execute(query, values).fetchall()
        except (psycopg.OperationalError, psycopg.errors.UndefinedTable):
            return []

    def wait_for_rows(self, count: int, where: str = "true", *values: object, limit_s: float = 60) -> list[Any]:
        """The rows, once there are as many as this."""
        wait_until(lambda: len(self.rows(where, *values)) >= count, limit_s, f"{count} rows where {where}")
        return self.rows(where, *values)

    def processes(self) -> list[psutil.Process]:
        """The server's own processes that live, workers included; not its database."""
        self.note_processes()
        return [process for process in self._started if is_alive(process)]

    def note_processes(self) -> None:
        """Remember who descends from the server, for children of a dead process are nobody's."""
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            self._started |= {self.root, *self.root.children(recursive=True)}

    def terminate(self) -> None:
        assert self.process is not None
        self.note_processes()
        self.process.terminate()

    def wait(self, limit_s: float = STOP_S) -> int:
        """Its exit status."""
        assert self.process is not None
        return self.process.wait(limit_s)

    def kill(self) -> None:
        """kill -9 of every process of it at once, as when the machine's memory ends; the database lives on."""
        self.note_processes()
        for process in self._started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.wait()

    def close(self) -> None:
        """End everything, gently if possible."""
        if self.process is not None and self.process.poll() is None:
            self.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S)
            if self.process.poll() is None:
                self.kill()
        for process in self._started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if (self.data_dir / "pg").exists():
            with contextlib.suppress(EmbeddedPostgresError):
                # Refused when it is stopping by itself, as it does with its last user.
                embedded_postgres.stop(self.data_dir)
            wait_until(lambda: not embedded_postgres.status(self.data_dir).running, STOP_S, "the database is gone")

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", trust_env=False, timeout=5).status_code == 200
        except httpx.TransportError:
            return False


@contextlib.contextmanager
def live_server(
    data_dir: Path, *, database: bool = True, project: Path = ROOT, **environment: str
) -> Iterator[LiveServer]:
    """A server on this data folder; without `database`, one that cannot reach any. Nothing of the tester's leaks in."""
    defaults = {"LOCAL_MODEL": "none", "SHUTDOWN_NOTICE_S": "0", "DATABASE_TIMEOUT_S": "20"}
    if not database:
        defaults["DATABASE_URL"] = NO_DATABASE
    server = LiveServer(data_dir, defaults | environment, project)
    try:
        server.start()
        yield server
    finally:
        server.close()


def run_until_it_ends(cwd: Path, *arguments: str, limit_s: float = START_S, **environment: str) -> tuple[int, str]:
    """`python app.py …` that is expected to end by itself: its exit status and what it wrote on standard error."""
    ended = subprocess.run(
        [sys.executable, str(ROOT / "app.py"), *arguments],
        cwd=cwd,
        env=clean_environment(**environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    return ended.returncode, ended.stderr


def clean_environment(**more: str) -> dict[str, str]:
    """Only what a process needs, and what the test sets: no key and no proxy of the tester's."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return kept | more


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(holds: Callable[[], object], limit_s: float, what: str) -> None:
    """Blocks; for what another process does. Fails with `what` when it does not hold in time."""
    deadline = time.monotonic() + limit_s
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}"
        pause.wait(0.03)


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
