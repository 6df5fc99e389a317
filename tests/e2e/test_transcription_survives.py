"""Recordings and the processes that hear them: a server killed with -9, a worker apart, a stop in the middle."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api_errors import check_error
from tests.live_server import LiveServer, live_server, wait_until
from tests.scripted_provider import API_KEY
from tests.speech_for_tests import encoded
from tests.studio_for_tests import speech
from tests.transcription_server import TranscriptionServer, transcription_server_in_thread
from tests.worker_process import worker

WAIT_S = 110.0
TEXT, PCM = speech(40)
RECORDING = encoded(PCM, "webm")


@pytest.fixture
def transcriber() -> Iterator[TranscriptionServer]:
    with transcription_server_in_thread() as server:
        server.pause_s = 0.3
        yield server
        server.gate.set()
        server.check()


def environment(transcriber: TranscriptionServer, **more: str) -> dict[str, str]:
    return {
        "OPENAI_API_KEY": API_KEY,
        "OPENAI_BASE_URL": transcriber.base_url,
        "AUDIO_PIECE_S": "5",
        **more,
    }


def client_of(server: LiveServer) -> httpx.Client:
    headers = {"Authorization": f"Bearer {server.token()}"}
    return httpx.Client(base_url=server.url, headers=headers, trust_env=False, timeout=60)


def send(client: httpx.Client) -> str:
    """The path of a job, once the database takes it."""
    wait_until(lambda: client.get("/transcription/jobs").status_code != 503, WAIT_S, "the database is ready")
    queued = client.post("/transcription/jobs", files={"file": ("a.webm", RECORDING)}, data={"model": "whisper-1"})
    assert queued.status_code == 202, queued.text
    return f"/transcription/jobs/{queued.json()['job_id']}"


def job_at(client: httpx.Client, path: str) -> dict[str, Any]:
    answer = client.get(path)
    return dict(answer.json()) if answer.status_code == 200 else {"status": None, "progress_percent": 0}


def test_a_server_killed_in_the_middle_goes_on_after_its_restart(
    tmp_path: Path, transcriber: TranscriptionServer
) -> None:
    with live_server(tmp_path / "data", **environment(transcriber)) as server:
        with client_of(server) as client:
            path = send(client)
            wait_until(lambda: job_at(client, path)["progress_percent"] > 20, WAIT_S, "some pieces are heard")
        server.kill()
        heard = [asked.text for asked in transcriber.asked]
        server.start()
        with client_of(server) as client:
            wait_until(lambda: job_at(client, path)["status"] == "succeeded", WAIT_S, "it is heard to its end")
            job = job_at(client, path)
            assert job["transcript_text"] == TEXT
            again = [asked.text for asked in transcriber.asked[len(heard) :] if asked.text in heard]
            assert len(again) <= 1, "the piece that was being heard, and no other"
            row = server.wait_for_rows(1, "run_id = %s", path.rpartition("/")[2])[0]
            assert row["audio_s"] > 20


def test_workers_apart_hear_what_the_server_only_accepts(tmp_path: Path, transcriber: TranscriptionServer) -> None:
    apart = environment(transcriber, JOB_WORKER="none")
    with live_server(tmp_path / "data", **apart) as server, client_of(server) as client:
        path = send(client)
        with worker(server.data_dir, **environment(transcriber)) as first:
            wait_until(lambda: job_at(client, path)["progress_percent"] > 0, WAIT_S, "the worker has begun")
            first.send_signal(signal.SIGTERM)
            assert first.wait(60) == 0
        assert job_at(client, path)["status"] in {"running", "queued"}
        with worker(server.data_dir, **environment(transcriber)):
            wait_until(lambda: job_at(client, path)["status"] == "succeeded", WAIT_S, "another ends it")
        assert job_at(client, path)["transcript_text"] == TEXT


def test_a_hearing_that_outlasts_the_grace_is_told_that_the_server_leaves(
    tmp_path: Path, transcriber: TranscriptionServer
) -> None:
    transcriber.gate.clear()
    impatient = environment(transcriber, SHUTDOWN_GRACE_S="0.5")
    with live_server(tmp_path / "data", **impatient) as server, ThreadPoolExecutor(1) as threads:
        client = client_of(server)
        asking = threads.submit(client.post, "/transcription", files={"file": ("a.webm", RECORDING)})
        wait_until(lambda: transcriber.open_now == 1, WAIT_S, "it is being heard")
        server.terminate()
        assert check_error(asking.result(WAIT_S), 503, "shutting_down")
        client.close()
        server.wait()
