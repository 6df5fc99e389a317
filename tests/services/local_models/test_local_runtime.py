"""A real tiny model in its own process: it answers, is metered and shared, comes back when killed, leaves no orphan."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from config.settings import Settings
from domain.errors import ConfigurationError, ModelUnavailable
from domain.usage import LocalWork
from services.local_models import control, process, runtime
from services.local_models.control import ControlConnection
from services.local_models.runtime import LocalRuntime
from tests.tiny_model import TINY_MODEL, link_tiny_model, tiny_model_entry, tiny_model_path

ROOT = Path(__file__).resolve().parents[3]
READY_TIMEOUT_S = 60.0
WAIT_S = 30.0


@pytest.fixture(scope="session", autouse=True)
def _weights() -> None:
    tiny_model_path()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine's process answers late and ends late: its call is measured and its last words heard even so."""
    monkeypatch.setattr(control, "ANSWER_TIMEOUT_S", WAIT_S)
    monkeypatch.setattr(control, "GOODBYE_TIMEOUT_S", WAIT_S)
    wait = process.Child.wait
    monkeypatch.setattr(process.Child, "wait", lambda child, _: wait(child, WAIT_S))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    link_tiny_model(tmp_path)
    return settings_in(tmp_path)


def settings_in(data_dir: Path) -> Settings:
    return Settings(_env_file=None, data_dir=data_dir, local_context_tokens=1024, local_parallel=2)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[LocalRuntime]:
    local = LocalRuntime(settings, tiny_model_entry())
    await local.start()
    try:
        yield local
    finally:
        async with asyncio.timeout(WAIT_S):
            await local.stop()


async def until(fact: Callable[[], bool], timeout_s: float) -> None:
    async with asyncio.timeout(timeout_s):
        while not fact():  # noqa: ASYNC110 — states of other processes announce nothing.
            await asyncio.sleep(0.02)


async def pid_of(local: LocalRuntime) -> int:
    await local.base_url(READY_TIMEOUT_S)
    connection = await ControlConnection.open(local._plan.socket)
    hello = await connection.hello(WAIT_S)
    await connection.close()
    return int(hello["pid"])


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def question(max_tokens: int = 24, *, stream: bool = False) -> dict[str, object]:
    messages = [{"role": "user", "content": "Tell me about the sea."}]
    return {"messages": messages, "max_tokens": max_tokens, "temperature": 0, "stream": stream}


@dataclass
class Answer:
    text: str
    model: str


def key_of(local: LocalRuntime) -> dict[str, str]:
    assert local.api_key is not None
    return {"Authorization": f"Bearer {local.api_key.get_secret_value()}"}


async def ask(local: LocalRuntime, max_tokens: int = 24, *, within_s: float = READY_TIMEOUT_S) -> Answer:
    url = await local.base_url(within_s)
    async with httpx.AsyncClient(timeout=90, headers=key_of(local)) as client:
        response = await client.post(f"{url}/chat/completions", json=question(max_tokens))
    response.raise_for_status()
    body = response.json()
    return Answer(body["choices"][0]["message"]["content"], body["model"])


async def ask_streaming(local: LocalRuntime) -> str:
    pieces: list[str] = []
    url = await local.base_url(READY_TIMEOUT_S)
    async with (
        httpx.AsyncClient(timeout=90, headers=key_of(local)) as client,
        client.stream("POST", f"{url}/chat/completions", json=question(stream=True)) as response,
    ):
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                pieces += [c["delta"].get("content") or "" for c in json.loads(line[6:])["choices"]]
    assert len(pieces) > 5
    return "".join(pieces)


async def test_its_port_requires_a_key_that_is_made_at_each_start(settings: Settings) -> None:
    """Loopback is open to every user and every page of this machine."""
    async with running(settings) as first:
        url = await first.base_url(READY_TIMEOUT_S)
        first_key = key_of(first)
        async with running(settings) as second, httpx.AsyncClient(timeout=90) as client:
            await second.base_url(WAIT_S)
            assert key_of(second) == first_key
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": ""}):
                for path in ("/chat/completions", "/completions", "/embeddings"):
                    answer = await client.post(f"{url}{path}", json=question(), headers=headers)
                    assert answer.status_code in {401, 403}, (path, answer.text)
        process = psutil.Process(await pid_of(first))
        assert first_key["Authorization"].partition(" ")[2] not in " ".join(process.cmdline())
    async with running(settings) as third:
        await third.base_url(READY_TIMEOUT_S)
        assert key_of(third) != first_key


async def test_it_starts_in_the_background_answers_and_leaves_nothing_behind(settings: Settings) -> None:
    async with running(settings) as local:
        assert local.state == "starting"
        url = await local.base_url(READY_TIMEOUT_S)
        assert (local.state, local.reason) == ("ready", None)
        assert url.startswith("http://127.0.0.1:")
        assert url.endswith("/v1")
        whole = await ask(local)
        assert whole.model == TINY_MODEL
        assert await ask_streaming(local) == whole.text
        pid = await pid_of(local)
        socket = local._plan.socket
        assert socket.stat().st_mode & 0o777 == 0o600
    await until(lambda: is_gone(pid), WAIT_S)
    assert not socket.exists()
    with pytest.raises(ModelUnavailable, match="is stopped"):
        await local.base_url(WAIT_S)


async def test_concurrent_calls_share_the_cpu_time_of_the_process_and_nothing_is_lost(settings: Settings) -> None:
    async with running(settings) as local:
        await local.base_url(READY_TIMEOUT_S)
        model = psutil.Process(await pid_of(local))

        async def measured(max_tokens: int) -> LocalWork:
            async with local.metered() as meter:
                await ask(local, max_tokens)
            assert meter.work is not None
            return meter.work

        before = sum(model.cpu_times()[:2])
        works = await asyncio.gather(measured(64), measured(128))
        after = sum(model.cpu_times()[:2])
    counted = sum(work.cpu_s for work in works)
    assert all(work.cpu_s > 0 and work.ram_gb_s > 0 for work in works)
    assert works[1].cpu_s > works[0].cpu_s
    assert counted == pytest.approx(after - before, rel=0.1, abs=0.03)  # psutil counts in hundredths of a second


async def test_a_call_that_is_given_up_is_still_metered(settings: Settings) -> None:
    async with running(settings) as local:
        await local.base_url(READY_TIMEOUT_S)
        model = psutil.Process(await pid_of(local))
        meters = []

        async def call() -> None:
            async with local.metered() as meter:
                meters.append(meter)
                await ask(local, 1000)

        task = asyncio.create_task(call())
        before = sum(model.cpu_times()[:2])
        await until(lambda: bool(meters) and sum(model.cpu_times()[:2]) > before, WAIT_S)
        task.cancel()
        await asyncio.wait([task], timeout=WAIT_S)
        assert task.cancelled()
        assert meters[0].work is not None
        assert meters[0].work.cpu_s > 0


async def test_two_workers_share_one_process_and_the_last_to_leave_ends_it(settings: Settings) -> None:
    async with running(settings) as first:
        async with running(settings) as second:
            pids = {await pid_of(first), await pid_of(second)}
            assert len(pids) == 1
            async with first.metered() as one, second.metered() as other:
                await ask(second, 128, within_s=WAIT_S)
            assert one.work is not None
            assert other.work is not None
            assert one.work.cpu_s == pytest.approx(other.work.cpu_s, rel=0.2)
        assert not is_gone(next(iter(pids)))
        assert first.state == "ready"
        await ask(first, within_s=WAIT_S)
    await until(lambda: is_gone(next(iter(pids))), WAIT_S)


async def test_the_starter_may_leave_before_the_others(settings: Settings) -> None:
    first = LocalRuntime(settings, tiny_model_entry())
    await first.start()
    pid = await pid_of(first)
    async with running(settings) as second:
        assert await pid_of(second) == pid
        await first.stop()
        await ask(second, within_s=WAIT_S)
        assert not is_gone(pid)
    await until(lambda: is_gone(pid), WAIT_S)
    os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 — let go while it served the other: ours to reap, and over.


async def test_a_killed_process_is_restarted_and_the_call_in_flight_is_not_metered(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "RESTART_DELAYS_S", (3.0, 3.0))
    async with running(settings) as local:
        await local.base_url(READY_TIMEOUT_S)
        pid = await pid_of(local)
        async with local.metered() as meter:
            call = asyncio.create_task(ask(local, 1000))
            await asyncio.sleep(0.2)
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(httpx.TransportError):
                await call
        assert meter.work is None
        await until(lambda: local.state == "starting" and "SIGKILL" in (local.reason or ""), WAIT_S)
        await local.base_url(READY_TIMEOUT_S)
        assert await pid_of(local) != pid
        assert (await ask(local)).text


async def test_a_killed_server_leaves_no_orphan(settings: Settings, tmp_path: Path) -> None:
    worker = start_worker(tmp_path)
    assert worker.stdout is not None
    with worker:
        pid = int(await asyncio.wait_for(asyncio.to_thread(worker.stdout.readline), READY_TIMEOUT_S))
        assert not is_gone(pid)
        worker.kill()
    await until(lambda: is_gone(pid), WAIT_S)


def start_worker(data_dir: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WORKER, str(data_dir)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


WORKER = """
import asyncio, sys
from pathlib import Path
from tests.services.local_models.test_local_runtime import pid_of, settings_in
from tests.tiny_model import tiny_model_entry
from services.local_models.runtime import LocalRuntime

async def main():
    local = LocalRuntime(settings_in(Path(sys.argv[1])), tiny_model_entry())
    await local.start()
    print(await pid_of(local), flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_absent_weights_are_told_with_the_way_out_and_a_later_pull_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_WEIGHTS_POLL_S", 0.05)
    async with running(settings_in(tmp_path)) as local:
        await until(lambda: local.state == "absent", WAIT_S)
        with pytest.raises(ModelUnavailable, match=f"python app.py models pull {TINY_MODEL}.*OPENAI_API_KEY"):
            await local.base_url(WAIT_S)
        async with local.metered() as meter:
            pass
        assert meter.work is None
        link_tiny_model(tmp_path)
        await until(lambda: local.state != "absent", WAIT_S)
        assert (await ask(local)).text


async def test_weights_llama_cpp_cannot_read_fail_after_the_last_try_and_say_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "RESTART_DELAYS_S", (0.05, 0.05))
    entry = tiny_model_entry()
    assert entry.weights is not None
    (tmp_path / "models").mkdir()
    with (tmp_path / "models" / entry.weights.filename).open("wb") as junk:
        junk.truncate(entry.weights.size_bytes)
    async with running(settings_in(tmp_path)) as local:
        await until(lambda: local.state == "failed", READY_TIMEOUT_S)
        assert local.reason is not None
        assert "invalid magic" in local.reason
        assert "MISTRALAI_API_KEY" in local.reason


async def test_a_missing_runtime_is_told_at_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    async with running(settings) as local:
        with pytest.raises(ModelUnavailable, match="pip install xllamacpp"):
            await local.base_url(WAIT_S)


async def test_waiting_for_a_start_is_bounded(settings: Settings) -> None:
    local = LocalRuntime(settings, tiny_model_entry())  # Never started.
    with pytest.raises(ModelUnavailable, match=r"not ready after 0\.01 s"):
        await local.base_url(0.01)
    await local.stop()


def test_a_model_without_weights_stops_the_start(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="weights"):
        LocalRuntime(settings, tiny_model_entry().model_copy(update={"weights": None}))


async def test_a_deep_data_directory_moves_the_socket_to_a_private_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    link_tiny_model(deep)
    short = tmp_path / "t"
    short.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(short))
    async with running(settings_in(deep)) as local:
        assert (await ask(local)).text
        assert local._plan.socket.is_relative_to(short)
        assert local._plan.socket.parent.stat().st_mode & 0o777 == 0o700
    (short / f"routeur-{os.getuid()}").chmod(0o755)
    with pytest.raises(ConfigurationError, match="only you can read"):
        process.socket_path(deep, "model")
