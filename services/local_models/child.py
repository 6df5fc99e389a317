"""The process that owns llama.cpp: serves one model on loopback, and a control socket that meters it.

Started by `runtime.py`. It imports the standard library, xllamacpp and the meter only, to be ready in a second.

The control socket speaks one JSON object a line:
    {"hello": true}  → {"base_url": …, "api_key": …, "model": …, "pid": …} once the model is loaded, or {"error": …}
    {"begin": 7}       a call begins (no answer)
    {"end": 7}       → {"end": 7, "cpu_s": …, "ram_gb_s": …}; both `null` for a call not begun here
    {"goodbye": true} → {"stays": …}: whether other workers keep the process
An open connection is a worker's presence. Without any for `IDLE_EXIT_S` the process ends: a server killed by force
leaves no orphan.
"""

import argparse
import contextlib
import faulthandler
import json
import mmap
import os
import resource
import secrets
import selectors
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.local_models.meter import SharedMeter

IDLE_EXIT_S = 5.0
MAX_LINE_BYTES = 65_536
MAX_HTTP_CONNECTIONS = 64
"""Calls beyond the parallel ones wait for their turn inside llama.cpp, each on an idle thread."""
PROMPT_CACHE_MIB = 256
"""llama.cpp's own default is 8 GiB, more than the machines this server is for can spare."""
OOM_SCORE = 500
"""When memory runs out the system should end this process, not the server (proc(5), oom_score_adj)."""

_TEMPLATE_KEY = b"tokenizer.chat_template"
_HEADER_BYTES = 64 << 20
_GGUF_STRING = 8


@dataclass(slots=True, eq=False)
class _Peer:
    socket: socket.socket
    unread: bytearray = field(default_factory=bytearray)
    calls: set[int] = field(default_factory=set)


class ControlSocket:
    """Answers the workers until none is left. One thread: llama.cpp serves HTTP on its own, outside Python."""

    def __init__(self, listener: socket.socket, hello: dict[str, Any], meter: SharedMeter) -> None:
        self._listener = listener
        self._hello = hello
        self._meter = meter
        self._peers: set[_Peer] = set()
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._leaving = False

    def serve(self) -> None:
        """Until the last worker has taken leave, or none was there for a while."""
        with self._selector:
            self._serve()
            for peer in list(self._peers):
                self._drop(peer)

    def _serve(self) -> None:
        alone_since = time.monotonic()
        while not self._leaving:
            if self._peers:
                alone_since = time.monotonic()
            left_s = alone_since + IDLE_EXIT_S - time.monotonic()
            if left_s <= 0:
                return
            for key, _ in self._selector.select(None if self._peers else left_s):
                if isinstance(key.data, _Peer):
                    self._read(key.data)
                else:
                    self._accept()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # The worker gave up between its connect and our accept.
        connection.setblocking(False)
        peer = _Peer(connection)
        self._peers.add(peer)
        self._selector.register(connection, selectors.EVENT_READ, peer)

    def _read(self, peer: _Peer) -> None:
        try:
            received = peer.socket.recv(MAX_LINE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        peer.unread += received
        *lines, rest = bytes(peer.unread).split(b"\n")
        peer.unread = bytearray(rest)
        try:
            for line in lines:
                self._answer(peer, json.loads(line))
        except (ValueError, TypeError, OSError):
            received = b""  # Not our protocol, or nobody listens: the connection is closed.
        if not received or len(rest) > MAX_LINE_BYTES:
            self._drop(peer)

    def _answer(self, peer: _Peer, message: dict[str, Any]) -> None:
        match message:
            case {"begin": int(call)}:
                peer.calls.add(call)
                self._meter.begin((id(peer), call))
            case {"end": int(call)}:
                peer.calls.discard(call)
                share = self._meter.end((id(peer), call))
                cpu_s, ram_gb_s = (share.cpu_s, share.ram_gb_s) if share else (None, None)
                _send(peer, {"end": call, "cpu_s": cpu_s, "ram_gb_s": ram_gb_s})
            case {"hello": _}:
                _send(peer, self._hello)
            case {"goodbye": _}:
                self._leaving = self._peers == {peer}
                _send(peer, {"stays": not self._leaving})
            case _:
                raise ValueError("unknown message")

    def _drop(self, peer: _Peer) -> None:
        for call in peer.calls:
            self._meter.end((id(peer), call))
        self._peers.discard(peer)
        self._selector.unregister(peer.socket)
        peer.socket.close()


def _send(peer: _Peer, message: dict[str, Any]) -> None:
    line = json.dumps(message).encode() + b"\n"
    if peer.socket.send(line) != len(line):
        raise OSError("the worker does not read")


def load(weights: Path, *, model: str, context_tokens: int, parallel: int, api_key: str) -> Any:
    """llama.cpp serving these weights; the caller keeps the reference. Raises `RuntimeError` when it cannot.

    Loopback is open to every user of the machine: who has not the key is refused.
    """
    import xllamacpp

    cores = usable_cores()
    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.model_alias = {model}
    params.api_keys = [api_key]
    params.n_ctx = context_tokens * parallel  # llama.cpp divides it between the parallel calls.
    params.n_parallel = parallel
    params.fit_params = False  # The context promised to callers is not quietly reduced.
    params.cpuparams.n_threads = max(1, cores - 1)  # With all cores a busy machine collapses (4-8 tokens/s).
    params.cpuparams_batch.n_threads = cores
    params.n_threads_http = MAX_HTTP_CONNECTIONS
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.chat_template = tool_calling_template(weights)
    params.verbosity = 1  # Errors only: prompts stay out of the log.
    params.ui = False
    params.endpoint_slots = False
    params.cors_origins = ""  # A web page open on this machine may not read answers.
    return xllamacpp.Server(params)


def tool_calling_template(weights: Path) -> str:
    """The file's own chat template, mended when it needs be; empty when llama.cpp may take it as it is.

    Qwen 2.5 Coder answers tool calls in a Markdown fence, not in the tags its template asks for, and llama.cpp then
    takes them for text. Asking for the fence, 6 calls of 6 are understood. To be removed when a newer model is the
    default.
    """
    with weights.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(_TEMPLATE_KEY, 0, _HEADER_BYTES)
        if at < 0:
            return ""
        at += len(_TEMPLATE_KEY)
        kind, length = struct.unpack_from("<IQ", content, at)
        if kind != _GGUF_STRING or at + 12 + length > len(content):
            return ""
        template = content[at + 12 : at + 12 + length].decode("utf-8", errors="replace")
    if "<tool_call>" not in template or "Qwen" not in template:
        return ""
    return template.replace("<tool_call>", "```json").replace("</tool_call>", "```")


def usable_cores() -> int:
    """The cores this process may use: those it is bound to, or fewer where a container has a quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # No cgroup v2, or "max": no quota.
        return cores


def resident_bytes() -> int:
    """The memory this process holds, weights included."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except FileNotFoundError:  # macOS: the peak, in bytes.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages * os.sysconf("SC_PAGE_SIZE")


def listen(path: Path) -> socket.socket:
    """The control socket, open before the model is loaded so that workers wait in it rather than poll."""
    path.unlink(missing_ok=True)  # Left by a process that was killed: the lock we inherit says it is gone.
    os.umask(0o177)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(128)
    listener.setblocking(False)
    return listener


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve one local model; started by the server itself.")
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--parallel", type=int, required=True)
    wanted = parser.parse_args()
    faulthandler.enable()
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE), encoding="ascii")
    listener = listen(wanted.socket)
    hello: dict[str, Any] = {"model": wanted.model, "pid": os.getpid()}
    # Workers learn it through the control socket, which only their user can open.
    api_key = secrets.token_urlsafe(32)
    try:
        server = load(
            wanted.weights,
            model=wanted.model,
            context_tokens=wanted.context,
            parallel=wanted.parallel,
            api_key=api_key,
        )
        hello["base_url"] = f"{server.listening_address}/v1"
        hello["api_key"] = api_key
    except (RuntimeError, ImportError, OSError, ValueError) as error:
        hello["error"] = f"llama.cpp could not load {wanted.weights.name!r}: {error}"
    meter = SharedMeter(cpu_s=time.process_time, ram_bytes=resident_bytes, clock_s=time.monotonic)
    ControlSocket(listener, hello, meter).serve()
    wanted.socket.unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # llama.cpp's destructor waits for calls in flight, and nobody waits for their answers.


if __name__ == "__main__":
    main()
