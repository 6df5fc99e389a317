"""Every request: its id, the limit on its body, and what hostile clients send."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.api_errors import check_error
from tests.live_server import LiveServer
from tests.provider_thread import play
from tests.scripted_provider import ScriptedProvider, finish, say

BODY_LIMIT = 200_000
JSON = {"Content-Type": "application/json"}
MADE = re.compile(r"[0-9a-f]{32}")


@pytest.mark.parametrize("sent", ["a", "req-1", "x" * 128, "0b9f:7c/2~!"])
async def test_the_callers_request_id_is_kept(client: httpx.AsyncClient, sent: str) -> None:
    assert (await client.get("/health", headers={"X-Request-ID": sent})).headers["x-request-id"] == sent


@pytest.mark.parametrize("sent", [b"", b"x" * 129, b"a b", b"a\tb", "né".encode(), b"\xff"])
async def test_a_request_id_that_is_not_printable_or_too_long_is_replaced(
    client: httpx.AsyncClient, sent: bytes
) -> None:
    answer = await client.get("/health", headers=[(b"X-Request-ID", sent)])
    assert MADE.fullmatch(answer.headers["x-request-id"])


async def test_the_callers_id_is_in_the_answer_and_in_the_errors(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, [*say("Oui"), *finish()])
    named = {"X-Request-ID": "mine-1"}
    content = (await client.post("/completion", json={"message": "a", "model": "gpt-4o"}, headers=named)).json()
    assert content["metadata"]["request_id"] == "mine-1"
    refused = await client.post("/completion", json={}, headers=named)
    assert refused.json()["error"]["request_id"] == refused.headers["x-request-id"] == "mine-1"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/completion", 405, "method_not_allowed"),
        ("PUT", "/health", 405, "method_not_allowed"),
        ("GET", "/agents/V9/graph", 404, "not_found"),
    ],
)
async def test_what_does_not_exist_is_told_in_the_same_shape(
    client: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    check_error(await client.request(method, path), status, code)


async def test_a_body_over_the_limit_is_refused_by_its_length(client: httpx.AsyncClient) -> None:
    answer = await client.post("/completion", json={"message": "x" * (BODY_LIMIT + 1)})
    assert "MAX_BODY_BYTES" in check_error(answer, 413, "payload_too_large")


async def test_a_body_over_the_limit_is_refused_without_a_length(client: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"message": "'
        for _ in range(8):
            yield b"x" * (BODY_LIMIT // 4)
        yield b'"}'

    answer = await client.post("/completion", content=chunks(), headers=JSON)
    assert "MAX_BODY_BYTES" in check_error(answer, 413, "payload_too_large")


async def test_a_body_of_exactly_the_limit_is_read(client: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    play(provider, [*say("Oui"), *finish()])
    around = len(json.dumps({"message": "", "model": "gpt-4o"}))
    body = json.dumps({"message": "x" * (BODY_LIMIT - around), "model": "gpt-4o"})
    assert len(body) == BODY_LIMIT
    assert (await client.post("/completion", content=body, headers=JSON)).status_code == 200


async def test_an_upload_of_many_times_the_limit_still_reads_its_refusal(server: LiveServer) -> None:
    """Closing at once would reset the connection, and the refusal would be lost on its way."""
    for declared in (True, False):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        body = b"x" * 3_000_000
        length = b"Content-Length: %d" % len(body) if declared else b"Transfer-Encoding: chunked"
        # A caller without a credential is refused before anything of the body is read.
        credential = b"Authorization: Bearer " + server.token().encode()
        head = [b"POST /completion HTTP/1.1", b"Host: a", b"Content-Type: application/json", credential, length]
        writer.write(b"\r\n".join([*head, b"", b""]))
        framed = body if declared else b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
        try:
            async with asyncio.timeout(60):
                for start in range(0, len(framed), 65536):
                    writer.write(framed[start : start + 65536])
                    await writer.drain()
                received = await reader.read()
        finally:
            writer.close()
        assert received.startswith(b"HTTP/1.1 413 "), received[:200]
        assert b"connection: close" in received


async def test_a_client_that_waits_for_100_continue_is_refused_before_it_sends(server: LiveServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = b"POST /completion HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9000000\r\n\r\n"
    writer.write(head)
    try:
        async with asyncio.timeout(30):
            assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    finally:
        writer.close()


@pytest.mark.parametrize(
    "body",
    [
        b'{"message": "\xff\xfe"}',
        b"\x00",
        b'{"message": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"message": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
        b'{"message": "a", "max_tokens": ' + b"9" * 5_000 + b"}",
        b'{"message": "a", "temperature": NaN}',
        b'{"message": "a", "temperature": 1e999}',
        b'{"message": "half \\ud83d"}',
        b'{"message": "a", "conversation_history": [{"role": "user", "content": "\\udc00"}]}',
        b'{"message": "a", "metadata": {"\\ud83d": "b"}}',
        b'{"message": "a", "model": "\\ud83d"}',
        b'{"message": "a", "agent": "\\ud83d"}',
        b'{"message": "a", "\\ud83d": 1}',
        b'{"message": "a", "cache": "\\ud83d"}',
    ],
    ids=lambda body: body[:60].decode("latin-1"),
)
async def test_a_hostile_body_is_the_callers_fault(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post("/completion", content=body, headers=JSON)
    assert answer.status_code == 400, answer.text
    check_error(answer, 400, answer.json()["error"]["code"])


@pytest.mark.parametrize("path", ["/completion", "/nowhere", "/health"])
@pytest.mark.parametrize("host", [b"[", b"a b", b"a:b:c", b"evil.example/x?y#z@w", b"\xff"])
async def test_the_host_header_may_be_anything(server: LiveServer, host: bytes, path: str) -> None:
    received = await exchange(server, f"GET {path} HTTP/1.1\r\nHost: ".encode() + host + b"\r\n\r\n")
    status = int(received.split(b" ")[1])
    assert status in {200, 400, 404, 405}, received
    assert b"evil.example" not in received


async def test_a_request_id_cannot_add_headers(server: LiveServer) -> None:
    for injected in (b"a\r\nSet-Cookie: b=c", b"a\nSet-Cookie: b=c", b"a\rSet-Cookie: b=c", b"a\x00b"):
        request = b"GET /health HTTP/1.1\r\nHost: a\r\nX-Request-ID: " + injected + b"\r\n\r\n"
        received = await exchange(server, request)
        assert b"set-cookie" not in received.lower()
        assert received.split(b" ")[1] in {b"200", b"400"}


@pytest.mark.parametrize("size", [20_000, 70_000, 1_000_000])
async def test_huge_headers_do_not_break_the_server(server: LiveServer, size: int) -> None:
    received = await exchange(server, b"GET /health HTTP/1.1\r\nHost: a\r\nX-Big: " + b"x" * size + b"\r\n\r\n")
    assert received.split(b" ")[1] == (b"200" if size < 65_536 else b"431")
    async with server.client() as client:
        assert (await client.get("/health")).status_code == 200


async def test_slow_headers_on_many_sockets_do_not_stop_others(server: LiveServer) -> None:
    sockets = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(200)]
    try:
        for slow in sockets:
            slow.sendall(b"POST /completion HTTP/1.1\r\nHost: a\r\nX-Slow: ")
        async with server.client() as client:
            for _ in range(5):
                assert (await client.get("/health", timeout=30)).status_code == 200
    finally:
        for slow in sockets:
            slow.close()


async def exchange(server: LiveServer, request: bytes) -> bytes:
    """What comes back on a connection of its own, until it is silent or closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    received = b""
    try:
        writer.write(request)
        await writer.drain()
        async with asyncio.timeout(5):
            while b"\r\n\r\n" not in received and (data := await reader.read(65536)):
                received += data
            async with asyncio.timeout(0.2):
                while data := await reader.read(65536):
                    received += data
    except (ConnectionError, TimeoutError):
        pass
    finally:
        writer.close()
    return received
