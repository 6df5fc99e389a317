"""A client on a bare TCP socket: it can leave in the middle, and read as slowly as it likes."""

import json
import socket
from typing import Any

from tests.live_server import LiveServer

WAIT_S = 60.0


def open_completion(
    server: LiveServer, *, request_id: str = "raw", receive_buffer: int | None = None, **body: Any
) -> socket.socket:
    """A connection on which a completion was asked."""
    content = json.dumps({"message": "Raconte.", "model": "gpt-4o"} | body).encode()
    head = (
        "POST /completion HTTP/1.1\r\n"
        "Host: 127.0.0.1\r\n"
        f"Authorization: Bearer {server.token()}\r\n"
        "Content-Type: application/json\r\n"
        f"X-Request-ID: {request_id}\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    connection = socket.socket()
    connection.settimeout(WAIT_S)
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(head.encode() + content)
    return connection


def read_until(connection: socket.socket, mark: bytes) -> bytes:
    """What came until the mark, or until the end."""
    received = b""
    while mark not in received and (part := connection.recv(65536)):
        received += part
    assert mark in received, received[-500:]
    return received


def read_to_its_end(connection: socket.socket) -> bytes:
    """A whole chunked answer; its last bytes, too, may come in parts."""
    received = bytearray()
    while not received.endswith(b"\r\n0\r\n\r\n"):
        part = connection.recv(65536)
        assert part, bytes(received[-500:])
        received += part
    return bytes(received)


def body_of(answer: bytes) -> bytes:
    """The body of a whole chunked answer."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head.lower(), head
    body = []
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            assert rest == b"\r\n", rest
            return b"".join(body)
        body.append(rest[:length])
        assert rest[length : length + 2] == b"\r\n"
        rest = rest[length + 2 :]
