"""A caller's address is fetched from the public internet and from nowhere else, within its bounds."""

import asyncio
import gzip
import ssl
import time
from typing import Any

import pytest

from core.safe_fetch import Fetched, Network, fetch_public, shown_url
from domain.errors import FetchRefused
from tests.throwaway_tls import throwaway_tls
from tests.tls_server import HERE, Play, TlsServer, answer_with, is_here, send, tls_server

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"


async def fetch(server: TlsServer, url: str = "", *, network: Network | None = None, **changed: Any) -> Fetched:
    bounds: dict[str, Any] = {"max_bytes": 10_000, "timeout_s": 30.0, "content_types": IMAGES, **changed}
    address = (url or "https://pictures.test:PORT/cat.png").replace("PORT", str(server.port))
    return await fetch_public(address, network=network or server.network(), **bounds)


async def refusal_of(play: Play, url: str = "", **changed: Any) -> str:
    async with tls_server(play) as server:
        with pytest.raises(FetchRefused) as refused:
            await fetch(server, url, **changed)
    return refused.value.message


async def test_a_picture_is_fetched_with_its_type():
    async with tls_server(answer_with(200, PNG, "image/png; charset=binary")) as server:
        assert await fetch(server) == Fetched(PNG, "image/png")
    [request] = server.requests
    lines = request.decode().split("\r\n")
    assert lines[0] == "GET /cat.png HTTP/1.1"
    names = {line.partition(":")[0].lower() for line in lines[1:] if line}
    assert names == {"host", "accept", "accept-encoding", "user-agent", "connection"}
    assert f"Host: pictures.test:{server.port}" in lines
    assert "Accept-Encoding: identity" in lines


@pytest.mark.parametrize(
    ("head", "content_type"),
    [(b"\xff\xd8\xff\xe0", "image/jpeg"), (b"GIF89a", "image/gif"), (b"RIFF\x08\0\0\0WEBPVP8 ", "image/webp")],
)
async def test_each_kind_of_picture_is_known_by_its_bytes(head, content_type):
    async with tls_server(answer_with(200, head + PNG, content_type)) as server:
        assert (await fetch(server)).content_type == content_type


async def test_image_jpg_is_taken_for_what_it_means():
    async with tls_server(answer_with(200, b"\xff\xd8\xff\xe0", "Image/JPG")) as server:
        assert (await fetch(server)).content_type == "image/jpeg"


async def test_a_page_is_fetched_where_pages_are_asked_for():
    async with tls_server(answer_with(200, b"<p>Hello", "text/html; charset=utf-8")) as server:
        fetched = await fetch(server, content_types=frozenset({"text/html"}))
    assert fetched == Fetched(b"<p>Hello", "text/html")


async def test_a_picture_without_a_length_is_read_to_its_end():
    for play in (
        answer_with(200, PNG, "image/png", Content_Length=""),
        send(CHUNKED, b"d0\r\n" + PNG + b"\r\n0\r\n\r\n"),
    ):
        async with tls_server(play) as server:
            assert (await fetch(server)).content == PNG


# Where it may go


@pytest.mark.parametrize(
    "url",
    [
        "http://pictures.test/cat.png",
        "ftp://pictures.test/cat.png",
        "file:///etc/passwd",
        "gopher://pictures.test/",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "//pictures.test/cat.png",
        "pictures.test/cat.png",
        "https:pictures.test",
        "https:/pictures.test",
        "",
        " https://pictures.test/",
        "https://pictures.test/\n",
        "https://pic\ttures.test/",
        "https://pictures.test\\@evil.test/",
        "https://pictures.test/\x7f",
        "https://",
        "https:///cat.png",
        "https://user:secret@pictures.test/",
        "https://user@pictures.test/",
        "https://@pictures.test/",
        "https://:@pictures.test/",
        "https://127.0.0.1%2f@pictures.test/",
        "https://pictures.test:80/",
        "https://pictures.test:8443/",
        "https://pictures.test:0/",
        "https://pictures.test:99999/",
        "https://pictures.test:x/",
        "https://pic%74ures.test/",
        "https://pictures..test/",
        "https://-pictures.test-/" + "a" * 10,
        "https://" + "a" * 64 + ".test/",
        "https://" + "a." * 130 + "test/",
        "https://pictures.test/" + "a" * 5000,
        "https://[::1/",
        "https://[v1.x]/",
        "https://0/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://127.0.0.1./",
        "https://8.8.8.8.8/",
        "https://1.2.3.256/",
        "https://pictures.0x/",
    ],
)
async def test_an_odd_address_is_refused_before_its_name_is_looked_up(url):
    async def never(host: str, port: int) -> list[str]:
        raise AssertionError(f"{host!r} was looked up")

    network = Network(resolve=never, may_connect=lambda _: True)
    with pytest.raises(FetchRefused) as refused:
        await fetch_public(url, max_bytes=10, timeout_s=1.0, content_types=IMAGES, network=network)
    assert "secret" not in refused.value.message
    assert len(refused.value.message) < 250


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "0.0.0.0",  # noqa: S104 - it is refused
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:8.8.8.8]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:7f00:1::]",
        "[fe80::1%25eth0]",
        "１２７.0.0.1",
        "127。0。0。1",
        "localhost",
        "LOCALHOST.",
    ],
)
async def test_a_private_address_is_refused_in_the_url_itself(host):
    with pytest.raises(FetchRefused, match="public"):
        await fetch_public(f"https://{host}/", max_bytes=10, timeout_s=30.0, content_types=IMAGES)


@pytest.mark.parametrize(
    "answer",
    [
        ["10.0.0.1"],
        ["::1"],
        ["fe80::1%eth0"],
        [HERE, "10.0.0.1"],
        ["192.168.1.1", HERE],
        [],
        ["nonsense"],
    ],
)
async def test_a_name_that_leads_anywhere_private_is_refused_and_nothing_is_connected_to(answer):
    async with tls_server(answer_with(200, PNG, "image/png")) as server:
        with pytest.raises(FetchRefused, match="does not lead to a public address"):
            await fetch(server, network=server.network(answer))
    assert server.connections == 0


async def test_an_unknown_name_and_a_private_one_get_the_same_words():
    async def unknown(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    async def private(host: str, port: int) -> list[str]:
        return ["10.0.0.1"]

    words = set()
    for resolve in (unknown, private):
        with pytest.raises(FetchRefused) as refused:
            await fetch_public(
                "https://db.internal/",
                max_bytes=1,
                timeout_s=30.0,
                content_types=IMAGES,
                network=Network(resolve=resolve),
            )
        words.add(refused.value.message)
    assert len(words) == 1


async def test_the_connection_goes_to_the_address_that_was_checked_whatever_the_name_says_next():
    async with tls_server(answer_with(200, PNG, "image/png")) as server:
        inside = tls_server(answer_with(200, PNG + b"secret", "image/png"), host="127.0.0.2", port=server.port)
        async with inside as forbidden:
            network = server.network([HERE], ["127.0.0.2"])
            assert (await fetch(server, network=network)).content == PNG
            assert server.looked_up == ["pictures.test"]
            with pytest.raises(FetchRefused, match="public"):
                await fetch(server, network=network)
    assert (server.connections, forbidden.connections) == (1, 0)


async def test_an_international_name_is_looked_up_and_asked_by_its_one_spelling():
    async with tls_server(answer_with(200, PNG, "image/png")) as server:
        assert (await fetch(server, "https://Bücher.test:PORT/a b".replace(" ", "%20"))).content == PNG
    assert server.looked_up == ["xn--bcher-kva.test"]
    assert f"Host: xn--bcher-kva.test:{server.port}".encode() in server.requests[0]


async def test_an_allowed_address_may_be_written_in_the_url_and_no_name_is_looked_up():
    async with tls_server(answer_with(200, PNG, "image/png")) as server:
        assert (await fetch(server, f"https://{HERE}:PORT/")).content == PNG
    assert server.looked_up == []


async def test_the_certificate_is_verified_and_so_is_its_name():
    async with tls_server(answer_with(200, PNG, "image/png")) as server:
        stranger = server.network(client=ssl.create_default_context())
        with pytest.raises(FetchRefused, match="certificate"):
            await fetch(server, network=stranger)
        with pytest.raises(FetchRefused, match="certificate"):
            await fetch(server, "https://other.test:PORT/")
    assert server.requests == []


async def test_no_proxy_of_the_environment_is_used(monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with tls_server(answer_with(200, PNG, "image/png")) as server:
        assert (await fetch(server)).content == PNG


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_named_and_not_followed(status):
    async with tls_server(answer_with(status, b"", Location="https://elsewhere.test/cat.png?sig=s3")) as server:
        with pytest.raises(FetchRefused, match=r"redirects to 'https://elsewhere\.test/cat\.png'"):
            await fetch(server)
    assert (server.looked_up, server.connections) == (["pictures.test"], 1)


# What may come


@pytest.mark.parametrize("status", [201, 204, 206, 304, 401, 403, 404, 500])
async def test_only_a_200_is_a_picture(status):
    assert str(status) in await refusal_of(answer_with(status, b"", "image/png")) or status == 304


async def test_no_cookie_is_kept_from_one_fetch_to_the_next():
    async with tls_server(answer_with(200, PNG, "image/png", Set_Cookie="a=1; Domain=pictures.test")) as server:
        await fetch(server)
        await fetch(server)
    assert b"cookie" not in b"".join(server.requests).lower()


@pytest.mark.parametrize(
    ("content_type", "body", "words"),
    [
        ("text/html", b"<html>", "text/html"),
        ("image/svg+xml", b"<svg/>", "svg"),
        ("application/octet-stream", PNG, "octet-stream"),
        (None, PNG, "accepted: image/gif"),
        ("image/png", b"<html><body>Not found", "no known image"),
        ("image/png", b"\xff\xd8\xff\xe0", "image/jpeg"),
        ("image/png", b"", "no known image"),
        ("image/webp", b"RIFF\x08\0\0\0WAVE", "no known image"),
    ],
)
async def test_what_is_no_picture_is_refused_whatever_it_is_called(content_type, body, words):
    assert words in await refusal_of(answer_with(200, body, content_type))


async def test_compressed_answers_are_neither_asked_for_nor_opened():
    bomb = gzip.compress(bytes(5_000_000))
    for encoding in ("gzip", "br", "x-unheard-of"):
        message = await refusal_of(answer_with(200, bomb, "image/png", Content_Encoding=encoding))
        assert "compressed" in message


ENDLESS = send(CHUNKED, b"3e8\r\n" + PNG[:8] + bytes(992) + b"\r\n", times=1_000_000_000)


@pytest.mark.parametrize(
    "play",
    [
        answer_with(200, PNG, "image/png", Content_Length="10001"),
        answer_with(200, PNG + bytes(100_000), "image/png", Content_Length=""),
        ENDLESS,
    ],
)
async def test_what_is_too_large_is_given_up_whatever_length_it_claims(play):
    assert "larger than 10000 bytes" in await refusal_of(play)


async def test_the_largest_size_is_still_allowed():
    async with tls_server(answer_with(200, PNG, "image/png")) as server:
        assert (await fetch(server, max_bytes=len(PNG))).content == PNG
        with pytest.raises(FetchRefused, match="larger"):
            await fetch(server, max_bytes=len(PNG) - 1)


@pytest.mark.parametrize(
    "play",
    [
        answer_with(200, PNG, "image/png", Content_Length="5000"),
        send(CHUNKED, b"ff\r\n" + PNG),
        send(b"HTTP/1.1 200 OK\r\nContent-Type: image"),
        send(b"not HTTP\r\n\r\n"),
        send(b""),
        answer_with(200, PNG, "image/png", Content_Length="20"),
        answer_with(200, PNG, "image/png", Content_Length="-1"),
        answer_with(200, PNG, "image/png", Content_Length="x"),
        send(b"HTTP/1.1 200 OK\r\nA: " + b"a" * 100_000),
        send(b"HTTP/1.1 200 OK\r\n", *[b"A%d: a\r\n" % n for n in range(5000)]),
    ],
)
async def test_a_broken_answer_is_refused(play):
    assert "pictures.test" in await refusal_of(play)


@pytest.mark.parametrize(
    "play",
    [
        send(b"HTTP/1.1 200 OK\r\n", b"A: a\r\n", pause_s=0.05, times=1000),
        send(
            b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 9000\r\n\r\n",
            b"a",
            pause_s=0.05,
            times=1000,
        ),
        send(b"HTTP/1.1 102 Processing\r\n\r\n", pause_s=0.05, times=1000),
    ],
)
async def test_a_slow_drip_is_cut_off_when_the_time_is_up(play):
    started = time.perf_counter()
    assert "took longer than 0.4 s" in await refusal_of(play, timeout_s=0.4)
    assert time.perf_counter() - started < 20  # The drip lasts 50 s.


async def test_a_name_server_that_says_nothing_is_not_waited_for():
    async def silent(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return [HERE]

    network = Network(resolve=silent, may_connect=is_here, tls=throwaway_tls().client)
    with pytest.raises(FetchRefused, match=r"longer than 0\.1 s"):
        await fetch_public("https://pictures.test/", max_bytes=1, timeout_s=0.1, content_types=IMAGES, network=network)


def test_a_message_shows_neither_passwords_nor_signatures_nor_endless_addresses():
    assert shown_url("https://a:b@pictures.test/cat.png?sig=s3#f") == "https://…@pictures.test/cat.png"
    assert len(shown_url("https://pictures.test/" + "a" * 9000)) == 80
