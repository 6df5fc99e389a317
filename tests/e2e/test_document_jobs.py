"""Documents and the processes that take them in: a worker apart, a server killed with -9, a stop in the middle."""

import os
import signal
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from core import embedded_postgres
from tests.documents_for_tests import write_long_pdf
from tests.live_server import LiveServer, live_server, wait_until
from tests.worker_process import worker

WAIT_S = 110.0


@pytest.fixture
def pdf(tmp_path: Path) -> bytes:
    write_long_pdf(tmp_path / "long.pdf", 60)
    return (tmp_path / "long.pdf").read_bytes()


def client_of(server: LiveServer) -> httpx.Client:
    headers = {"Authorization": f"Bearer {server.token()}"}
    return httpx.Client(base_url=server.url, headers=headers, trust_env=False, timeout=60)


def send(client: httpx.Client, content: bytes) -> str:
    """The path of a document, once the database takes it."""
    wait_until(lambda: client.get("/projects/p/documents").status_code != 503, WAIT_S, "the database is ready")
    accepted = client.post("/projects/p/documents", files={"file": ("long.pdf", content)})
    assert accepted.status_code == 202, accepted.text
    return f"/projects/p/documents/{accepted.json()['document_id']}"


def document(client: httpx.Client, path: str) -> dict[str, Any]:
    answer = client.get(path)
    return dict(answer.json()) if answer.status_code == 200 else {"status": None, "passages": 0}


def ordinals(data_dir: Path) -> list[tuple[int, int]]:
    """Each passage's own id and place."""
    uri = embedded_postgres.status(data_dir).uri
    assert uri is not None
    with psycopg.connect(uri) as connection:
        return connection.execute("SELECT passage_id, ordinal FROM passages ORDER BY ordinal").fetchall()


def test_a_worker_apart_takes_in_what_the_server_only_accepts(tmp_path: Path, pdf: bytes) -> None:
    with live_server(tmp_path / "data", JOB_WORKER="none") as server, client_of(server) as client:
        path = send(client, pdf)
        with worker(server.data_dir) as first:
            wait_until(lambda: document(client, path)["passages"] > 30, WAIT_S, "the worker has begun")
            os.kill(first.pid, signal.SIGKILL)
            first.wait(WAIT_S)
            killed_at = ordinals(server.data_dir)
            assert document(client, path)["status"] == "running"
        with worker(server.data_dir) as second:
            wait_until(lambda: len(ordinals(server.data_dir)) > len(killed_at), WAIT_S, "another goes on")
            second.send_signal(signal.SIGTERM)
            assert second.wait(60) == 0
            wait_until(lambda: document(client, path)["status"] in {"running", "queued"}, WAIT_S, "it waits again")
            stopped_at = ordinals(server.data_dir)
        with worker(server.data_dir):
            wait_until(lambda: document(client, path)["status"] == "succeeded", WAIT_S, "a third ends it")
            (row,) = server.wait_for_rows(1, "project_id = 'p' AND status = 'succeeded'")
        done = ordinals(server.data_dir)
        assert [ordinal for _, ordinal in done] == list(range(len(done)))
        assert done[: len(stopped_at)] == stopped_at
        assert done[: len(killed_at)] == killed_at
        assert row["message_count"] == len(done)


def test_a_server_that_is_killed_goes_on_with_its_documents_at_its_next_start(tmp_path: Path, pdf: bytes) -> None:
    with live_server(tmp_path / "data") as server:
        with client_of(server) as client:
            path = send(client, pdf)
            wait_until(lambda: document(client, path)["passages"] > 30, WAIT_S, "the server has begun")
        server.kill()
        killed_at = ordinals(server.data_dir)
        server.start()
        with client_of(server) as client:
            wait_until(lambda: len(ordinals(server.data_dir)) > len(killed_at), WAIT_S, "it goes on")
            wait_until(lambda: document(client, path)["status"] == "succeeded", WAIT_S, "it ends")
        assert ordinals(server.data_dir)[: len(killed_at)] == killed_at


def test_a_server_that_stops_in_the_middle_of_a_document_ends_soon_and_says_nothing_bad(
    tmp_path: Path, pdf: bytes
) -> None:
    with live_server(tmp_path / "data") as server:
        with client_of(server) as client:
            path = send(client, pdf)
            wait_until(lambda: document(client, path)["passages"] > 30, WAIT_S, "the server has begun")
        server.terminate()
        assert server.wait(60) in {0, -signal.SIGTERM}
        bad = [line for line in server.log.splitlines() if '"level": "error"' in line or "Traceback" in line]
        assert bad == []
        server.start()
        with client_of(server) as client:
            wait_until(lambda: document(client, path)["status"] == "succeeded", WAIT_S, "the next start ends it")
