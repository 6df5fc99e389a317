"""The real tiny model on this machine, through the real server: nothing is faked here."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from core import embedded_postgres
from tests.api_errors import check_error
from tests.live_server import LiveServer, is_alive, live_server, wait_until
from tests.postgres_for_tests import folder
from tests.raw_client import open_completion, read_until
from tests.server_sent_events import parse_stream, text_of
from tests.tiny_model import TINY_MODEL, link_tiny_model


@pytest.fixture(scope="module")
def local() -> Iterator[LiveServer]:
    with folder() as data_dir:
        link_tiny_model(data_dir)
        with live_server(data_dir, LOCAL_MODEL=TINY_MODEL, SHUTDOWN_GRACE_S="1") as server:
            yield server


def ask(server: LiveServer, *, stream: bool) -> httpx.Response:
    return httpx.post(
        f"{server.url}/completion",
        json={"message": "Say hello.", "stream": stream, "max_tokens": 12, "temperature": 0},
        headers={"Authorization": f"Bearer {server.token()}"},
        trust_env=False,
        timeout=110,
    )


def test_it_answers_as_a_stream_and_whole_and_says_what_it_consumed(local: LiveServer) -> None:
    events = parse_stream(ask(local, stream=True).content)
    whole = ask(local, stream=False).json()
    assert whole["response"] == text_of(events) != ""
    usage, last = whole["usage"], events[-1]["metadata"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 0 < usage["completion_tokens"] <= 12
    assert last["usage"]["input_tokens"] == usage["prompt_tokens"] > 0
    for metadata in (whole["metadata"], last):
        check_consumption(metadata)


def check_consumption(metadata: dict[str, object]) -> None:
    pricing, impact = metadata["pricing"], metadata["impact"]
    assert isinstance(pricing, dict)
    assert isinstance(impact, dict)
    assert pricing["total_cost"] == 0.0
    assert pricing["by_model"][TINY_MODEL]["priced_by"] == "local"
    assert impact["method"] == "cpu-time"
    assert impact["estimated"] is False
    energy = impact["energy_kwh"]
    assert 0 < energy["min"] <= energy["mean"] <= energy["max"] < 1e-3
    assert metadata["emissions_kgCO2eq"] > 0  # type: ignore[operator]


def test_it_is_the_default_model_when_no_key_is_set(local: LiveServer) -> None:
    assert ask(local, stream=False).json()["model"] == TINY_MODEL
    assert httpx.get(f"{local.url}/ready", trust_env=False, timeout=30).status_code == 200


def test_leaving_frees_the_model_and_is_counted(local: LiveServer) -> None:
    body = {"message": "Write a very long story.", "model": TINY_MODEL, "max_tokens": 2000, "stream": True}
    connection = open_completion(local, request_id="left", **body)
    read_until(connection, b'"done": false')
    child = model_process(local)
    connection.close()
    (row,) = local.wait_for_rows(1, "request_id = %s", "left")
    assert row["status"] == "cancelled"
    assert row["output_tokens"] < 2000
    assert row["energy_kwh"] > 0
    assert row["cost_eur"] == 0.0
    wait_until(lambda: child.cpu_percent(0.2) < 20, 60, "the model rests")
    assert ask(local, stream=False).status_code == 200


def model_process(server: LiveServer) -> psutil.Process:
    """The process of the local model: a child of the server's that lives."""
    alive = [process for process in server.root.children(recursive=True) if is_alive(process)]
    (found,) = [process for process in alive if "services.local_models.child" in process.cmdline()]
    return found


def test_the_model_ends_with_the_server_even_in_mid_answer(tmp_path: Path) -> None:
    link_tiny_model(tmp_path)
    with live_server(tmp_path, LOCAL_MODEL=TINY_MODEL, SHUTDOWN_GRACE_S="0.5") as server:
        body = {"message": "Write a very long story.", "model": TINY_MODEL, "max_tokens": 4000, "stream": True}
        with open_completion(server, **body) as connection:
            read_until(connection, b'"done": false')
            child = model_process(server)
            server.terminate()
            assert b"shutting_down" in read_until(connection, b'"done": true')
        server.wait()
        wait_until(lambda: not is_alive(child), 30, "the model's process is gone")
        assert embedded_postgres.status(tmp_path).running is False


def test_without_its_file_the_server_starts_and_says_how_to_fetch_it(tmp_path: Path) -> None:
    with live_server(tmp_path, database=False, LOCAL_MODEL=TINY_MODEL) as server:
        message = check_error(ask(server, stream=False), 503, "model_unavailable")
        assert f"python app.py models pull {TINY_MODEL}" in message
        check_error(ask(server, stream=True), 503, "model_unavailable")
        assert httpx.get(f"{server.url}/ready", trust_env=False, timeout=30).status_code == 503
        # Fetched meanwhile, it serves without a restart.
        link_tiny_model(tmp_path)
        wait_until(lambda: ask(server, stream=False).status_code == 200, 90, "the model serves")
