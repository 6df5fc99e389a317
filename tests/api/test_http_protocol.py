"""Slow, large and many connections are ended within their bounds, and others notice nothing."""

import asyncio
import json
import pickle
import time
from collections.abc import AsyncIterator

import pytest

from api import http_protocol
from api.http_protocol import MAX_HEADER_BYTES, MAX_HEADERS, BoundedHttpProtocol, ConnectionLimits
from config.settings import Settings
from tests.bare_connections import LARGE, WAIT_S, App, Connection, exchange, serving

HEADER_S = 0.6
BODY_S = 0.6
SEND_S = 0.8
GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"


class Limited(BoundedHttpProtocol):
    limits = ConnectionLimits(
        header_timeout_s=HEADER_S, body_idle_timeout_s=BODY_S, max_connections=40, send_idle_timeout_s=SEND_S
    )


class Crowded(BoundedHttpProtocol):
    limits = ConnectionLimits(header_timeout_s=5, body_idle_timeout_s=5, max_connections=3)


@pytest.fixture
async def app() -> App:
    return App()


@pytest.fixture
async def port(app: App) -> AsyncIterator[int]:
    async with serving(Limited, app) as port:
        yield port


def check_refusal(answer: tuple[int, dict[str, str], bytes], status: int, code: str) -> str:
    found, headers, body = answer
    assert found == status, body
    error = json.loads(body)["error"]
    assert error["code"] == code
    assert error["request_id"] == headers["x-request-id"]
    assert headers["connection"] == "close"
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    return str(error["message"])


@pytest.mark.parametrize(
    "head",
    [
        GET + b"X-Big: " + b"x" * MAX_HEADER_BYTES + b"\r\n\r\n",
        GET + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 5_000) for n in range(20)) + b"\r\n",
        GET + b"".join(b"X-%d: a\r\n" % n for n in range(MAX_HEADERS)) + b"\r\n",
        b"GET /" + b"x" * MAX_HEADER_BYTES + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /?" + b"a=b&" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        GET + b"x" * 1_000_000,
        b"GET /" + b"x" * 1_000_000,
        POST + b"X-Big: " + b"x" * MAX_HEADER_BYTES + b"\r\nContent-Length: 500000\r\n\r\n" + b"x" * 500_000,
    ],
    ids=["one", "together", "many", "address", "query", "endless", "endless address", "with a body"],
)
async def test_headers_that_are_too_large_are_refused(port: int, head: bytes) -> None:
    """And the refusal arrives, although more is sent."""
    check_refusal(await exchange(port, head), 431, "headers_too_large")


async def test_large_headers_within_the_bound_are_served(port: int) -> None:
    big = b"X-Big: " + b"x" * (MAX_HEADER_BYTES - 100) + b"\r\n\r\n"
    assert (await exchange(port, GET + big))[0] == 200
    many = b"".join(b"X-%d: a\r\n" % n for n in range(MAX_HEADERS - 1))
    assert (await exchange(port, GET + many + b"\r\n"))[0] == 200


async def test_a_large_body_is_no_header(port: int) -> None:
    body = b"x" * 3_000_000
    assert (await exchange(port, POST + b"Content-Length: %d\r\n\r\n" % len(body) + body))[2] == b"3000000"
    chunked = b"".join(b"1\r\nx\r\n" for _ in range(100_000))
    assert (await exchange(port, POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunked + b"0\r\n\r\n"))[2] == b"100000"


@pytest.mark.parametrize(
    "part",
    [b"1;a=" + b"x" * 500_000 + b"\r\nx\r\n", b"0\r\nX-Trailer: " + b"x" * 500_000],
    ids=["extension", "trailer"],
)
async def test_what_stands_around_a_chunked_body_is_bounded(port: int, part: bytes) -> None:
    check_refusal(await exchange(port, POST + b"Transfer-Encoding: chunked\r\n\r\n" + part), 431, "headers_too_large")


@pytest.mark.parametrize(
    "begun", [b"G", GET, GET + b"X-Slow: ", b"\r\n"], ids=["a letter", "lines", "a name", "a line end"]
)
async def test_slow_headers_are_cut_off(port: int, begun: bytes) -> None:
    connection = await Connection.open(port)
    await connection.send(begun)
    assert "HEADER_TIMEOUT_S" in check_refusal(await connection.answer(), 408, "request_timeout")
    assert await connection.rest() == b""
    connection.close()


@pytest.mark.parametrize("first", [b"", GET + b"\r\n"], ids=["a new connection", "a kept one"])
@pytest.mark.parametrize("begun", [GET + b"X-Slow: ", b"\r\n"], ids=["letters", "line ends"])
async def test_headers_that_come_byte_by_byte_are_cut_off_too(port: int, first: bytes, begun: bytes) -> None:
    connection = await Connection.open(port)
    if first:
        await connection.send(first)
        assert (await connection.answer())[0] == 200
    await connection.send(begun)
    begun_at = time.monotonic()

    async def drip() -> None:
        while True:
            await connection.send(b"\r\n" if begun == b"\r\n" else b"x")
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    try:
        assert b" 408 " in (await connection.rest())[:20]
        assert time.monotonic() - begun_at < WAIT_S / 2
    finally:
        dripping.cancel()
        connection.close()


async def test_a_connection_that_sends_nothing_is_closed_without_a_word(port: int) -> None:
    connection = await Connection.open(port)
    assert await connection.rest() == b""
    connection.close()


@pytest.mark.parametrize("declared", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("is_dripping", [False, True])
async def test_a_slow_body_is_cut_off_and_its_application_learns_it(
    app: App, port: int, declared: bytes, is_dripping: bool
) -> None:
    connection = await Connection.open(port)
    await connection.send(POST + declared + b"\r\n\r\n")

    async def drip() -> None:
        while is_dripping:
            await connection.send(b"1\r\nx\r\n" if b"chunked" in declared else b"x")
            await asyncio.sleep(0.1)

    dripping = asyncio.create_task(drip())
    try:
        assert "BODY_IDLE_TIMEOUT_S" in check_refusal(await connection.answer(), 408, "request_timeout")
        assert await connection.rest() == b""
        async with asyncio.timeout(WAIT_S):
            await app.was_cut_off.wait()
    finally:
        dripping.cancel()
        connection.close()


async def test_a_body_without_end_that_was_already_refused_is_cut_off(port: int) -> None:
    connection = await Connection.open(port)
    await connection.send(b"POST /refuses HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")

    async def pour() -> None:
        while True:
            await connection.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
            await asyncio.sleep(0.01)

    pouring = asyncio.create_task(pour())
    try:
        assert (await connection.answer())[0] == 401
        assert await connection.rest() == b""
    finally:
        pouring.cancel()
        connection.close()


async def test_a_body_that_keeps_coming_may_take_its_time(port: int) -> None:
    connection = await Connection.open(port)
    await connection.send(POST + b"Content-Length: 20000\r\n\r\n")
    for _ in range(20):
        await asyncio.sleep(BODY_S / 8)
        await connection.send(b"x" * 1_000)
    assert (await connection.answer())[2] == b"20000"
    connection.close()


async def test_a_sender_does_not_pay_for_an_application_that_does_not_read(app: App, port: int) -> None:
    connection = await Connection.open(port)
    sending = asyncio.create_task(
        connection.send(b"POST /deaf HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 9_000_000)
    )
    await app.is_waiting.wait()
    await asyncio.sleep(3 * BODY_S)
    app.go.set()
    assert (await connection.answer())[2] == b"9000000"
    await sending
    connection.close()


async def test_a_sender_that_waits_to_be_invited_is_not_cut_off(app: App, port: int) -> None:
    connection = await Connection.open(port)
    await connection.send(b"POST /deaf HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    await app.is_waiting.wait()
    await asyncio.sleep(3 * BODY_S)
    app.go.set()
    await connection.send(b"abc")
    assert b"HTTP/1.1 100 " in await connection._reader.readuntil(b"\r\n\r\n")
    assert (await connection.answer())[2] == b"3"
    connection.close()


@pytest.mark.parametrize("behind", [0, 1, 2])
async def test_a_client_that_leaves_ends_what_it_asked_first_and_begins_nothing_more(
    app: App, port: int, behind: int
) -> None:
    """With requests behind the one that is being answered, uvicorn tells the last of them alone."""
    connection = await Connection.open(port)
    await connection.send(b"GET /watch HTTP/1.1\r\nHost: a\r\n\r\n" + behind * (GET + b"\r\n"))
    async with asyncio.timeout(WAIT_S):
        await app.is_waiting.wait()
        connection.close()
        await app.was_cut_off.wait()
    await asyncio.sleep(0.1)
    assert app.paths == ["/watch"]


@pytest.mark.parametrize("requests", [3, 5])
async def test_requests_in_a_row_are_answered_in_order_and_nothing_is_kept_of_them(app: App, requests: int) -> None:
    """Also while the row never ends: another request comes before the last one of it is answered."""
    connections: list[Limited] = []

    class Noted(Limited):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            connections.append(self)
            super().connection_made(transport)

    turn = b"POST /turn HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b"
    async with serving(Noted, app) as port:
        connection = await Connection.open(port)
        await connection.send(b"".join(turn % (n, n * b"x") for n in range(1, requests)))
        for number in range(requests, 30):
            await connection.send(turn % (number, number * b"x"))
            app.turns.release()
            assert (await connection.answer())[2] == b"%d" % (number - requests + 1)
        kept = connections[-1]._earlier
        assert len(kept) <= requests, "those that are not answered, at most"
        for _ in range(1, requests):
            app.turns.release()
            await connection.answer()
        await connection.send(GET + b"\r\n")
        await connection.answer()
        assert not kept
        connection.close()


async def test_a_long_answer_is_no_slow_request(app: App, port: int) -> None:
    connection = await Connection.open(port)
    await connection.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
    await app.is_waiting.wait()
    await asyncio.sleep(3 * BODY_S)
    app.go.set()
    assert (await connection.answer())[0] == 200
    await connection.send(GET + b"\r\n" + GET + b"\r\n")
    assert [(await connection.answer())[0] for _ in range(2)] == [200, 200]
    connection.close()


async def test_a_client_that_takes_nothing_of_its_answer_is_cut_off(port: int) -> None:
    connection = await Connection.open(port)
    connection._writer.transport.pause_reading()  # type: ignore[attr-defined]
    await connection.send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
    await asyncio.sleep(3 * SEND_S)
    connection._writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert len(await connection.rest()) < LARGE
    connection.close()


async def test_a_client_that_takes_its_answer_slowly_gets_all_of_it(port: int) -> None:
    connection = await Connection.open(port)
    await connection.send(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    received = 0
    while part := await connection._reader.read(LARGE // 20):
        received += len(part)
        await asyncio.sleep(SEND_S / 20)
    assert received > LARGE
    connection.close()


async def test_what_is_no_http_is_refused_in_the_shape_of_the_door(port: int) -> None:
    for nonsense in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"):
        check_refusal(await exchange(port, nonsense + b"\r\n\r\n"), 400, "bad_request")
    both = POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
    check_refusal(await exchange(port, both), 400, "bad_request")
    v1 = await exchange(port, b"GET /v1/models HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 200 + b"\r\n")
    assert v1[0] == 431
    assert json.loads(v1[2])["error"]["type"] == "invalid_request_error"


async def test_many_slow_connections_are_gone_in_time_and_others_notice_nothing(app: App) -> None:
    class Large(BoundedHttpProtocol):
        limits = ConnectionLimits(header_timeout_s=1.0, body_idle_timeout_s=1.0, max_connections=1_000)

    async with serving(Large, app) as port:
        kinds = (GET + b"X-Slow: ", POST + b"Content-Length: 100\r\n\r\nabc", b"")
        slow = await asyncio.gather(*(Connection.open(port) for _ in range(300)))
        for place, connection in enumerate(slow):
            await connection.send(kinds[place % 3])
        for _ in range(20):
            begun = time.monotonic()
            assert (await exchange(port, GET + b"\r\n"))[0] == 200
            assert time.monotonic() - begun < 1
        ends = await asyncio.gather(*(connection.rest() for connection in slow))
        assert [end[:12] for end in ends] == [b"HTTP/1.1 408", b"HTTP/1.1 408", b""] * 100
        for connection in slow:
            connection.close()


async def test_beyond_the_bound_only_health_is_answered(app: App) -> None:
    async with serving(Crowded, app) as port:
        busy = [await Connection.open(port) for _ in range(3)]
        for connection in busy:
            await connection.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        await app.is_waiting.wait()
        answer = await exchange(port, GET + b"\r\n")
        assert "MAX_CONNECTIONS" in check_refusal(answer, 503, "too_many_connections")
        assert int(answer[1]["retry-after"]) >= 1
        for path in (b"/health", b"/ready?a=b"):
            status, headers, _ = await exchange(port, b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (status, headers["connection"]) == (200, "close")
        app.go.set()
        for connection in busy:
            assert (await connection.answer())[0] == 200
        # Those that wait for a next request give up their place.
        assert [(await exchange(port, GET + b"\r\n"))[0] for _ in range(5)] == [200] * 5
        for connection in busy:
            connection.close()


async def test_connections_that_bring_nothing_give_up_their_place(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "PATIENCE_S", 0.0)
    async with serving(Crowded, app) as port:
        silent = [await Connection.open(port) for _ in range(3)]
        await silent[0].send(b"GET / HT")
        assert (await exchange(port, GET + b"\r\n"))[0] == 200
        for connection in silent:
            connection.close()


def test_worker_processes_are_given_the_class_by_its_name() -> None:
    assert pickle.loads(pickle.dumps(BoundedHttpProtocol)) is BoundedHttpProtocol  # noqa: S301 - its own


def test_the_limits_are_settings() -> None:
    settings = Settings(_env_file=None)
    assert (settings.header_timeout_s, settings.body_idle_timeout_s) == (10, 30)
    assert settings.max_connections >= 1_000
