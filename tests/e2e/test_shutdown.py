"""SIGTERM: readiness fails first, streams end or are told, nothing is left behind."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from core import embedded_postgres
from tests.live_server import LiveServer, is_alive, live_server, wait_until
from tests.provider_thread import play
from tests.raw_client import body_of, open_completion, read_until
from tests.scripted_provider import ScriptedProvider, Stall, Wait, finish, say
from tests.server_sent_events import parse_stream, text_of

CLEAN = {0, -signal.SIGTERM, 128 + signal.SIGTERM}
"""uvicorn ends by the signal it was sent, as shells and supervisors expect."""


@contextmanager
def stopping_server(data_dir: Path, hosted: dict[str, str], notice_s: float, grace_s: float) -> Iterator[LiveServer]:
    settings = {"SHUTDOWN_NOTICE_S": str(notice_s), "SHUTDOWN_GRACE_S": str(grace_s)}
    with live_server(data_dir, **hosted, **settings) as server:
        wait_until(lambda: "the database is ready" in server.log, 90, "the database is ready")
        yield server


def rest_of(connection: object, begun: bytes) -> bytes:
    received = begun
    while part := connection.recv(65536):  # type: ignore[attr-defined]
        received += part
    return received


def test_an_open_stream_ends_well_while_readiness_says_no(
    tmp_path: Path, hosted: dict[str, str], provider: ScriptedProvider
) -> None:
    play(provider, [*say("Un"), Wait(5.0), *say(" deux"), *finish(5, 2)])
    with (
        stopping_server(tmp_path, hosted, notice_s=4.0, grace_s=100) as server,
        open_completion(server, stream=True, request_id="open") as connection,
    ):
        begun = read_until(connection, b'"Un"')
        assert httpx.get(f"{server.url}/ready", trust_env=False, timeout=30).status_code == 200
        server.terminate()
        answer = ready_until_it_fails(server)
        assert answer.json()["dependencies"]["server"]["state"] == "draining"
        assert httpx.get(f"{server.url}/health", trust_env=False, timeout=30).status_code == 200
        events = parse_stream(body_of(rest_of(connection, begun)))
        assert text_of(events) == "Un deux"
        assert "error" not in events[-1]
        assert server.wait() in CLEAN
        check_nothing_is_left(server)


def ready_until_it_fails(server: LiveServer) -> httpx.Response:
    answers: list[httpx.Response] = []

    def fails() -> bool:
        answers.append(httpx.get(f"{server.url}/ready", trust_env=False, timeout=30))
        return answers[-1].status_code == 503

    wait_until(fails, 30, "readiness fails during the notice")
    return answers[-1]


def test_a_stream_that_outlives_the_grace_is_told_and_counted(
    tmp_path: Path, hosted: dict[str, str], provider: ScriptedProvider
) -> None:
    play(provider, [*say("La moi", "tié"), Stall()], [*say("La moi", "tié"), Stall()])
    with (
        stopping_server(tmp_path, hosted, notice_s=0, grace_s=0.7) as server,
        open_completion(server, stream=True, request_id="told") as connection,
        open_completion(server, stream=False, request_id="whole") as whole,
    ):
        begun = read_until(connection, "tié".encode())
        wait_until(lambda: provider.answering == 2, 60, "both runs go on")
        asked_at = time.monotonic()
        server.terminate()
        events = parse_stream(body_of(rest_of(connection, begun)))
        assert 0.5 < time.monotonic() - asked_at < 30
        assert text_of(events) == "La moitié"
        assert events[-1]["error"]["code"] == "shutting_down"
        assert events[-1]["metadata"]["usage"]["output_tokens"] == 2
        answer = read_until(whole, b"shutting_down")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after" in answer
        assert server.wait() in CLEAN
        check_nothing_is_left(server)
        # The database went with its last user; a second start finds the rows.
        server.start()
        rows = server.wait_for_rows(2, "request_id IN ('told', 'whole')")
        assert {(row["status"], row["error_code"]) for row in rows} == {("failed", "shutting_down")}


def test_without_runs_it_stops_at_once(tmp_path: Path, hosted: dict[str, str]) -> None:
    with stopping_server(tmp_path, hosted, notice_s=0, grace_s=90) as server, server_connection(server):
        started = time.monotonic()
        server.terminate()
        assert server.wait() in CLEAN
        assert time.monotonic() - started < 45
        check_nothing_is_left(server)


@contextmanager
def server_connection(server: LiveServer) -> Iterator[None]:
    """An idle kept connection, such as any client's pool holds, must not delay the end."""
    with httpx.Client(trust_env=False, timeout=30) as client:
        client.get(f"{server.url}/health")
        yield


def test_a_second_signal_skips_the_notice(tmp_path: Path, hosted: dict[str, str]) -> None:
    with stopping_server(tmp_path, hosted, notice_s=90, grace_s=5) as server:
        server.terminate()
        wait_until(lambda: '"draining"' in server.log, 30, "the first signal is noticed")
        started = time.monotonic()
        server.terminate()
        assert server.wait() in CLEAN
        assert time.monotonic() - started < 45


def check_nothing_is_left(server: LiveServer) -> None:
    # The tracker of multiprocessing's resources ends by itself, a moment after the server it served.
    wait_until(lambda: not any(is_alive(process) for process in server.processes()), 30, "no process is left")
    assert embedded_postgres.status(server.data_dir).running is False


def test_ctrl_c_tells_open_streams_too(tmp_path: Path, hosted: dict[str, str], provider: ScriptedProvider) -> None:
    play(provider, [*say("La moitié"), Stall()])
    with (
        stopping_server(tmp_path, hosted, notice_s=90, grace_s=0.7) as server,
        open_completion(server, stream=True, request_id="told") as connection,
    ):
        begun = read_until(connection, "La moitié".encode())
        started = time.monotonic()
        server.root.send_signal(signal.SIGINT)
        events = parse_stream(body_of(rest_of(connection, begun)))
        assert events[-1]["error"]["code"] == "shutting_down"
        server.wait()
        assert time.monotonic() - started < 45
        check_nothing_is_left(server)


def test_workers_stop_as_one_does(tmp_path: Path, hosted: dict[str, str], provider: ScriptedProvider) -> None:
    play(provider, [*say("Un"), Wait(3.0), *say(" deux"), *finish(5, 2)])
    with (
        live_server(tmp_path, WORKERS="2", SHUTDOWN_NOTICE_S="0.3", SHUTDOWN_GRACE_S="100", **hosted) as server,
        open_completion(server, stream=True, request_id="open") as connection,
    ):
        begun = read_until(connection, b'"Un"')
        server.terminate()
        events = parse_stream(body_of(rest_of(connection, begun)))
        assert text_of(events) == "Un deux"
        assert "error" not in events[-1]
        assert server.wait() in CLEAN
        check_nothing_is_left(server)
