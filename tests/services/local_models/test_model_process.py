"""The process that owns the model, without a model: its control protocol and what it reads of the machine."""

import json
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.local_models import child, process
from services.local_models.child import ControlSocket, tool_calling_template, usable_cores
from services.local_models.meter import SharedMeter


class Served:
    """A control socket served in a thread, with a CPU clock the test turns by hand."""

    def __init__(self, path: Path) -> None:
        self.cpu_s = 0.0
        self.path = path
        listener = child.listen(path)
        meter = SharedMeter(cpu_s=lambda: self.cpu_s, ram_bytes=lambda: 0, clock_s=lambda: 0.0)
        control = ControlSocket(listener, {"base_url": "http://127.0.0.1:1/v1", "model": "m", "pid": 1}, meter)
        self.thread = threading.Thread(target=self._serve, args=(control, listener), name="control")
        self.thread.start()

    def _serve(self, control: ControlSocket, listener: socket.socket) -> None:
        with listener:
            control.serve()

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(30)
        connection.connect(str(self.path))
        return connection


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(child, "IDLE_EXIT_S", 0.2)
    monkeypatch.setattr("os.umask", lambda _: 0)  # The test's own process keeps its mask.
    served = Served(tmp_path / "s")
    yield served
    served.thread.join(30)
    assert not served.thread.is_alive()


def say(connection: socket.socket, message: object) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def ask(connection: socket.socket, message: object) -> object:
    say(connection, message)
    return json.loads(connection.recv(4096))


def test_it_greets_and_ends_once_alone(served: Served) -> None:
    with served.connect() as worker:
        assert ask(worker, {"hello": True}) == {"base_url": "http://127.0.0.1:1/v1", "model": "m", "pid": 1}
    served.thread.join(30)
    assert not served.thread.is_alive()


def test_a_call_not_begun_here_has_no_figures(served: Served) -> None:
    with served.connect() as worker:
        assert ask(worker, {"end": 2}) == {"end": 2, "cpu_s": None, "ram_gb_s": None}


def test_the_calls_of_a_lost_connection_no_longer_take_a_share(served: Served) -> None:
    with served.connect() as stays:
        with served.connect() as lost:
            say(lost, {"begin": 1})
            assert ask(lost, {"hello": True})
            say(stays, {"begin": 1})
            assert ask(stays, {"hello": True})
            served.cpu_s = 1.0
        ask(stays, {"hello": True})
        ask(stays, {"hello": True})  # A second turn of its loop: the end of the other connection was read by now.
        served.cpu_s = 3.0
        assert ask(stays, {"end": 1}) == {"end": 1, "cpu_s": 0.5 + 2.0, "ram_gb_s": 0.0}


@pytest.mark.parametrize("nonsense", [b"hello\n", b"[]\n", b'{"what": 1}\n', b'{"begin": "x"}\n', b"x" * 200_000])
def test_nonsense_closes_its_own_connection_only(served: Served, nonsense: bytes) -> None:
    with served.connect() as worker, served.connect() as stranger:
        try:
            stranger.sendall(nonsense)
            assert stranger.recv(10) == b""
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert ask(worker, {"hello": True})


def test_goodbye_says_whether_others_keep_the_process(served: Served) -> None:
    with served.connect() as first, served.connect() as second:
        ask(second, {"hello": True})
        assert ask(first, {"goodbye": True}) == {"stays": True}
        first.close()
        ask(second, {"hello": True})
        ask(second, {"hello": True})
        assert ask(second, {"goodbye": True}) == {"stays": False}
    served.thread.join(30)


def weights_with_template(path: Path, template: str) -> Path:
    text = template.encode()
    key = b"tokenizer.chat_template"
    path.write_bytes(b"GGUF" + struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(text)) + text + b"\0" * 32)
    return path


def test_qwen_is_asked_for_tool_calls_the_way_it_gives_them(tmp_path: Path) -> None:
    weights = weights_with_template(tmp_path / "w", "You are Qwen. <tool_call>\n{…}\n</tool_call>")
    assert tool_calling_template(weights) == "You are Qwen. ```json\n{…}\n```"


def test_other_templates_are_left_to_llama_cpp(tmp_path: Path) -> None:
    assert tool_calling_template(weights_with_template(tmp_path / "w", "{{ messages }}")) == ""
    (tmp_path / "none").write_bytes(b"GGUF" + bytes(64))
    assert tool_calling_template(tmp_path / "none") == ""


@pytest.mark.parametrize(("cpu_max", "expected"), [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1)])
def test_a_container_quota_bounds_the_threads(cpu_max: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: cpu_max + "\n")
    assert usable_cores() == expected


def test_only_one_process_is_started_for_all_workers(tmp_path: Path) -> None:
    plan = process.ChildPlan("m", tmp_path / "no.gguf", 512, 1, tmp_path / "s", tmp_path / "l", tmp_path / "log")
    started = process.start_child(plan)
    assert started is not None
    try:
        assert process.start_child(plan) is None
    finally:
        started._process.kill()
        started._process.wait(30)
    again = process.start_child(plan)
    assert again is not None
    again._process.kill()
    again._process.wait(30)
