"""Several workers on one ledger, and kill -9: what was answered is counted, exactly once."""

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.live_server import LiveServer, live_server, wait_until
from tests.postgres_for_tests import folder
from tests.provider_thread import play
from tests.raw_client import open_completion, read_until
from tests.scripted_provider import ScriptedProvider, Stall, finish, say

SCRIPT = [*say("Oui"), *finish(5, 1)]


def ask(server: LiveServer, client: httpx.Client | None = None) -> str:
    """The id of a run that was answered."""
    options = {
        "json": {"message": "Raconte.", "model": "gpt-4o"},
        "headers": {"Authorization": f"Bearer {server.token()}"},
    }
    url = f"{server.url}/completion"
    answer = client.post(url, **options) if client else httpx.post(url, trust_env=False, timeout=60, **options)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["metadata"]["run_id"])


@pytest.fixture(scope="module")
def two_workers(hosted: dict[str, str]) -> Iterator[LiveServer]:
    with folder() as data_dir, live_server(data_dir, WORKERS="2", **hosted) as server:
        wait_until(lambda: len(serving_pids(server)) == 2, 90, "both workers serve")
        yield server


def serving_pids(server: LiveServer) -> set[int]:
    """The worker processes that took one of many connections opened at once."""
    ports = set()
    clients = [httpx.Client(trust_env=False, timeout=30) for _ in range(24)]
    try:
        for client in clients:
            try:
                client.get(f"{server.url}/health")
            except httpx.TransportError:
                continue
        for process in workers(server):
            try:
                held = process.net_connections("tcp")
            except psutil.NoSuchProcess:
                continue
            if any(c.status == psutil.CONN_ESTABLISHED and c.laddr.port == server.port for c in held):
                ports.add(process.pid)
    finally:
        for client in clients:
            client.close()
    return ports


def workers(server: LiveServer) -> list[psutil.Process]:
    """The server's children that may serve (Python starts another, which only watches over shared resources)."""
    found = []
    for process in server.root.children():
        try:
            if "spawn_main" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_both_workers_serve_and_share_one_ledger(two_workers: LiveServer, provider: ScriptedProvider) -> None:
    play(provider, *[SCRIPT] * 40)
    answered: list[str] = []

    def some() -> None:
        answered.extend(ask(two_workers) for _ in range(5))

    threads = [threading.Thread(target=some) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert len(answered) == 40
    check_each_is_counted_once(two_workers, answered)
    assert len(serving_pids(two_workers)) == 2


def test_a_token_of_one_worker_is_good_at_the_other(two_workers: LiveServer) -> None:
    token = two_workers.token()
    clients = [
        httpx.Client(trust_env=False, timeout=30, headers={"Authorization": f"Bearer {token}"}) for _ in range(16)
    ]
    statuses = [client.get(f"{two_workers.url}/auth/verify").status_code for client in clients]
    for client in clients:
        client.close()
    assert statuses == [200] * 16


def test_a_worker_that_is_killed_is_replaced_while_the_other_serves(
    two_workers: LiveServer, provider: ScriptedProvider
) -> None:
    play(provider, *[SCRIPT] * 6)
    victim = psutil.Process(min(serving_pids(two_workers)))
    answered = [ask(two_workers) for _ in range(3)]
    victim.kill()
    wait_until(lambda: not psutil.pid_exists(victim.pid) or victim.status() == "zombie", 30, "the worker is dead")
    # The kernel may still hand a connection to the dead worker's socket for a moment: such a caller asks again.
    wait_until(lambda: serving_pids(two_workers) - {victim.pid}, 30, "the other worker serves")
    answered += [ask(two_workers) for _ in range(3)]
    wait_until(lambda: len(serving_pids(two_workers) - {victim.pid}) == 2, 90, "uvicorn replaced the worker")
    check_each_is_counted_once(two_workers, answered)


def test_workers_end_with_a_supervisor_that_is_killed_and_free_the_port(
    tmp_path: Path, hosted: dict[str, str], provider: ScriptedProvider
) -> None:
    play(provider, SCRIPT)
    with live_server(tmp_path, WORKERS="2", **hosted) as server:
        ask(server)
        wait_until(lambda: len(serving_pids(server)) == 2, 90, "both workers serve")
        pids = serving_pids(server)
        assert server.process is not None
        server.process.kill()
        server.process.wait(30)
        wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), 30, "the workers are gone")
        server.start(server.port)


def test_what_was_answered_before_kill_9_is_in_the_ledger_after_the_next_start(
    tmp_path: Path, hosted: dict[str, str], provider: ScriptedProvider
) -> None:
    play(provider, *[SCRIPT] * 60)
    with (
        live_server(tmp_path, **hosted, LEDGER_FLUSH_S="5") as server,
        httpx.Client(trust_env=False, timeout=60) as client,
    ):
        answered = [ask(server, client) for _ in range(25)]
        server.kill()
        assert server.processes() == []
        server.start()
        more = [ask(server) for _ in range(5)]
        server.kill()
        server.start()
        check_each_is_counted_once(server, [*answered, *more])
        provider.scripts.clear()


def test_a_run_that_a_kill_9_cut_off_is_in_the_ledger_as_lost(
    tmp_path: Path, hosted: dict[str, str], provider: ScriptedProvider
) -> None:
    play(provider, [*say("La moitié"), Stall()])
    with live_server(tmp_path, **hosted) as server:
        with open_completion(server, stream=True) as client:
            read_until(client, b"La moiti")
            server.kill()
        server.start()
        (row,) = server.wait_for_rows(1)
    assert (row["status"], row["model"], row["subject"], row["stream"]) == ("lost", "gpt-4o", "user", True)
    assert (row["estimated"], row["input_tokens"]) == (True, 6), "8 characters and a message"
    assert [row[name] for name in ("output_tokens", "cost_eur", "gwp_kgco2eq", "latency_s")] == [None] * 4
    assert [call["status"] for call in row["calls"]] == ["lost"]


def check_each_is_counted_once(server: LiveServer, answered: list[str]) -> None:
    rows = server.wait_for_rows(len(answered), "run_id = ANY(%s::uuid[])", answered, limit_s=90)
    assert Counter(str(row["run_id"]) for row in rows) == Counter(answered)
    assert {row["status"] for row in rows} == {"succeeded"}
