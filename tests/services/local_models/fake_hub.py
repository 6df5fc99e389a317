"""A strict file server on loopback: each request takes the next step of its script; an unexpected one is an error."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Step:
    """One answer. `cut_at` closes the connection after that many bytes; `stall_s` waits before the body."""

    content: bytes
    status: int | None = None
    honours_range: bool = True
    content_range: str | None = None
    cut_at: int | None = None
    stall_s: float = 0.0
    location: str | None = None


@dataclass
class Hub:
    url: str
    script: list[Step]
    ranges: list[str | None] = field(default_factory=list)
    """The Range header of each request received."""
    paths: list[str] = field(default_factory=list)
    """What each of them asked for."""
    surprises: list[str] = field(default_factory=list)


@contextmanager
def serving(*script: Step) -> Iterator[Hub]:
    """The hub while it answers; fails the test when steps are left over or requests were not foreseen."""
    hub = Hub("", list(script))

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.ranges.append(self.headers.get("Range"))
            hub.paths.append(self.path)
            if self.headers.get("Accept-Encoding") != "identity":
                hub.surprises.append("the file may be compressed on the way")
            if not hub.script:
                hub.surprises.append(f"request {len(hub.ranges)} was not foreseen")
                self.send_error(500)
                return
            _give(self, hub.script.pop(0))

        def log_message(self, *_: Any) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads = False  # Joined at close: no thread outlives its test.
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, name="fake-hub")
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}/model.gguf"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(30)
    assert hub.surprises == []
    assert hub.script == []


def _give(request: BaseHTTPRequestHandler, step: Step) -> None:
    asked = request.headers.get("Range")
    body, status = step.content, step.status or 200
    if asked is not None and step.honours_range and step.status is None:
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        status = 206 if start < len(step.content) else 416
        body = step.content[start:] if status == 206 else b""
        said = f"bytes {start}-{len(step.content) - 1}/{len(step.content)}"
        request.send_response(status)
        request.send_header(
            "Content-Range", step.content_range or (said if status == 206 else f"bytes */{len(step.content)}")
        )
    else:
        request.send_response(status)
    if step.location is not None:
        request.send_header("Location", step.location)
    request.send_header("Content-Length", str(len(body)))
    request.send_header("Connection", "close")
    request.end_headers()
    time.sleep(step.stall_s)
    try:
        request.wfile.write(body if step.cut_at is None else body[: step.cut_at])
    except OSError:
        return  # The client left: that is what some tests are about.
