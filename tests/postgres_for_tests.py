"""A real PostgreSQL for tests: one embedded server a session, an empty database a test, and a door that can be shut."""

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from config.settings import Settings
from core.embedded_postgres import EmbeddedPostgres

ROOT = Path(__file__).parent.parent
WAIT_S = 30.0
_numbers = itertools.count()


def settings_for(data_dir: Path, database_url: str | None = None, **more: object) -> Settings:
    """Settings that the tester's own environment does not change, with patience for a busy machine."""
    return Settings(_env_file=None, data_dir=data_dir, database_url=database_url, **{"database_timeout_s": 20, **more})


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Outside pytest's own, which each session of root closes to the system user, and which keeps 40 MB a cluster."""
    path = Path(tempfile.mkdtemp(prefix="routeur-"))
    if os.geteuid() == 0:
        path.chmod(0o711)  # Else a database here would have its place elsewhere.
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with folder() as path:
        yield path


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    with folder() as path:
        server = EmbeddedPostgres(path / "pg")
        server.join()
        try:
            yield server
        finally:
            server.leave()


@pytest.fixture(scope="session")
def _made_cluster() -> Iterator[Path]:
    with folder() as path:
        server = EmbeddedPostgres(path / "pg")
        server.join()
        server.leave()
        yield server.directory


@pytest.fixture
def data_dir(tmp_path: Path, _made_cluster: Path) -> Path:
    """A data folder whose cluster is made: initdb costs seconds on a busy machine, a copy does not."""
    subprocess.run(["cp", "-a", str(_made_cluster), str(tmp_path)], check=True, timeout=WAIT_S)
    return tmp_path


@pytest.fixture
def database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """An empty database of its own."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(postgres.uri, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield postgres.uri.replace("/postgres?", f"/{name}?")
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


class Door:
    """A TCP port in front of a PostgreSQL socket, which can be shut (connections refused, open ones cut) and opened."""

    def __init__(self, uri: str) -> None:
        parts = psycopg.conninfo.conninfo_to_dict(uri)
        self._socket_path = f"{parts['host']}/.s.PGSQL.5432"
        self._database = parts["dbname"]
        self._server: asyncio.Server | None = None
        self._pipes: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        # Held for as long as the door may be opened again: no other test's connection takes the port meanwhile.
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._place.bind(("127.0.0.1", 0))
        self.port = int(self._place.getsockname()[1])

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{quote(str(self._database))}"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, reuse_port=True)

    async def shut(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in self._writers:
                writer.transport.abort()
            await asyncio.wait(self._pipes or {asyncio.ensure_future(asyncio.sleep(0))}, timeout=WAIT_S)
            await self._server.wait_closed()
            self._server = None

    async def close(self) -> None:
        await self.shut()
        self._place.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(self._socket_path)
        ends = {writer, inner_writer}
        self._writers |= ends
        pipes = {
            asyncio.create_task(_copy(reader, inner_writer)),
            asyncio.create_task(_copy(inner_reader, writer)),
        }
        self._pipes |= pipes
        await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.transport.abort()
        await asyncio.wait(pipes)
        self._writers -= ends
        self._pipes -= pipes


@pytest.fixture
async def door(database_url: str) -> AsyncIterator[Door]:
    """Shut at first."""
    door = Door(database_url)
    yield door
    await door.close()


class Child:
    """A Python program of ours in a process of its own, that prints lines and ends when its input closes."""

    def __init__(self, program: str, *arguments: str) -> None:
        # So that it is bounded in time even when the test that started it is killed.
        program = f"import signal; signal.alarm(110)\n{program}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def read_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """kill -9: nothing of ours runs any more in it."""
        self.process.send_signal(signal.SIGKILL)
        self.finish()

    def finish(self) -> str:
        """Close its input, wait for it, and return what else it printed."""
        output, _ = self.process.communicate(timeout=3 * WAIT_S)
        return output


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while content := await reader.read(65536):
            writer.write(content)
            await writer.drain()
