"""Every answer tells browsers what it may do, and HEAD is answered as GET is."""

import base64
import hashlib
import re
import socket
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from app import create_app
from config.settings import Settings
from services.agent_registry import AgentRegistry
from tests.live_server import LiveServer
from tests.raw_client import WAIT_S

SECRET = "a-secret-of-production-0123456789abcdef"
PAGES = ("/docs", "/redoc", "/docs/oauth2-redirect")
OTHERS = (
    "/health",
    "/ready",
    "/openapi.json",
    "/nowhere",
    "/models",
    "/static-offline-docs/swagger-ui.css",
    "/completion",
)


@pytest.fixture
def production(tmp_path: Path) -> FastAPI:
    settings = Settings(
        _env_file=None, data_dir=tmp_path, local_model="none", environment="production", jwt_secret_key=SECRET
    )
    return create_app(settings, AgentRegistry())


async def get(app: FastAPI, path: str, method: str = "GET") -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.request(method, path)


def check_headers(answer: httpx.Response) -> None:
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    assert answer.headers.get_list("referrer-policy") == ["no-referrer"]
    (policy,) = answer.headers.get_list("content-security-policy")
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize("path", [*PAGES, *OTHERS])
async def test_every_answer_has_them(production: FastAPI, path: str) -> None:
    answer = await get(production, path)
    check_headers(answer)
    assert answer.headers["strict-transport-security"].startswith("max-age=")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "POST", "TRACE"])
async def test_refusals_have_them(production: FastAPI, method: str) -> None:
    check_headers(await get(production, "/health", method))


async def test_an_unexpected_failure_has_them(production: FastAPI) -> None:
    @production.get("/bug")
    async def bug() -> None:
        raise ZeroDivisionError

    answer = await get(production, "/bug")
    assert answer.status_code == 500
    check_headers(answer)
    assert "strict-transport-security" in answer.headers


async def test_refusals_before_any_door_have_them(client: httpx.AsyncClient) -> None:
    for answer in (
        await client.post("/completion", content=b"x" * 300_000),
        await client.post("/completion", content=b"x", headers={"Content-Encoding": "gzip"}),
    ):
        assert answer.status_code in {413, 415}
        check_headers(answer)


async def test_in_development_browsers_are_not_made_to_insist_on_encryption(client: httpx.AsyncClient) -> None:
    assert "strict-transport-security" not in (await client.get("/health")).headers


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_may_run_what_is_written_in_it_and_nothing_else(production: FastAPI, path: str) -> None:
    answer = await get(production, path)
    policy = answer.headers["content-security-policy"]
    scripts = re.findall(r"script-src ([^;]*);", policy)[0]
    assert "unsafe" not in scripts
    inline = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in inline]
    assert scripts.split() == ["'self'", *(f"'sha256-{digest}'" for digest in digests)]
    assert "<script" in answer.text
    for address in re.findall(r'(?:src|href)="([^"]+)"', answer.text):
        assert address.startswith("/"), address


@pytest.mark.parametrize("path", ["/health", "/ready", "/docs", "/openapi.json", "/v1/models", "/agents"])
async def test_head_is_get_without_the_body(client: httpx.AsyncClient, path: str) -> None:
    whole, head = await client.get(path), await client.head(path)
    assert head.status_code == whole.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == str(len(whole.content))
    assert head.headers["content-type"] == whole.headers["content-type"]
    check_headers(head)


async def test_head_of_what_is_not_there_or_takes_no_get(client: httpx.AsyncClient) -> None:
    assert (await client.head("/nowhere")).status_code == 404
    assert (await client.head("/completion")).status_code == 405


@pytest.mark.parametrize("path", ["/health/", "/completion/", "/v1/models/", "/docs/"])
async def test_a_final_slash_redirects_to_no_host(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path, headers={"Host": "evil.example"})
    assert answer.status_code == 404
    assert "location" not in answer.headers
    assert "evil.example" not in answer.text


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"GET /health HTTP/1.1\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nHOST: a\r\n", 400),
        (b"GET /health HTTP/1.0\r\nHost: a\r\nHost: a\r\n", 400),
        (b"GET /health HTTP/1.0\r\n", 200),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nAccept: a\r\nAccept: b\r\n", 200),
        (b"HEAD /health HTTP/1.1\r\nHost: a\r\n", 200),
    ],
)
def test_a_request_names_one_host(server: LiveServer, lines: bytes, status: int) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S) as connection:
        connection.sendall(lines + b"Connection: close\r\n\r\n")
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    if status == 400:
        assert b'"Host: ' in answer
