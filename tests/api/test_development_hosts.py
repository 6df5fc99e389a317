"""What development gives to anyone, it gives under names that are this machine's (DNS rebinding)."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from api.ask import DEMO_KEY
from api.development import is_own_host
from app import create_app
from config.settings import Settings
from services.agent_registry import AgentRegistry
from tests.api_errors import check_error

KEY = "key-of-the-backend-0123456789abcdef0123"


def made(tmp_path: Path, **settings: Any) -> FastAPI:
    return create_app(
        Settings(_env_file=None, data_dir=tmp_path, local_model="none", api_keys=f"backend:{KEY}", **settings),
        AgentRegistry(),
    )


async def post(app: FastAPI, path: str, host: str, peer: str = "127.0.0.1", **options: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app, client=(peer, 1234))
    headers = {"Host": host, **options.pop("headers", {})}
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.post(path, headers=headers, **options)


OWN = [
    "localhost",
    "localhost:7860",
    "LOCALHOST",
    "localhost.",
    "a.localhost:1",
    "127.0.0.1",
    "127.8.9.1:80",
    "[::1]:7860",
]
FOREIGN = [
    "evil.example",
    "evil.example:7860",
    "localhost.evil.example",
    "127.0.0.1.nip.io",
    "notlocalhost",
    "192.168.1.5",
    "0.0.0.0",  # noqa: S104 - a name, not a binding
    "[::]",
    "[fe80::1]:7860",
    "127.0.0.1@evil.example",
    "evil.example@localhost",
    "evil.example/localhost",
    "localhost:7860:1",
    "::1",
    "",
    "[",
    "localhost evil.example",
]


@pytest.mark.parametrize("host", OWN)
@pytest.mark.parametrize("peer", ["127.0.0.1", "172.17.0.1"])
async def test_a_token_is_given_under_a_name_of_this_machine_whoever_the_peer_is(
    tmp_path: Path, host: str, peer: str
) -> None:
    """In a container, the peer is the machine's bridge."""
    assert (await post(made(tmp_path), "/auth/token", host, peer)).status_code == 200


@pytest.mark.parametrize("host", FOREIGN)
async def test_under_another_name_development_gives_no_token(tmp_path: Path, host: str) -> None:
    answer = await post(made(tmp_path), "/auth/token", host)
    assert "DEVELOPMENT_HOSTS" in check_error(answer, 401, "unauthorized")
    with_key = await post(made(tmp_path), "/auth/token", host, json={"api_key": KEY})
    assert with_key.status_code == 200


async def test_configured_names_are_this_machines_too(tmp_path: Path) -> None:
    app = made(tmp_path, development_hosts="Server, dev.example.com", host="192.168.1.5")
    for host in ("server:7860", "dev.example.com", "DEV.example.com:443", "192.168.1.5:7860"):
        assert (await post(app, "/auth/token", host)).status_code == 200
    for host in ("a.dev.example.com", "192.168.1.6"):
        assert (await post(app, "/auth/token", host)).status_code == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104 - names, not bindings
def test_every_interface_is_no_name(host: str) -> None:
    assert not is_own_host(f"[{host}]" if ":" in host else host, Settings(_env_file=None, host=host))


async def test_the_demonstration_key_is_for_this_machine_too(tmp_path: Path) -> None:
    app = made(tmp_path)
    headers = {"Authorization": f"Bearer {DEMO_KEY}"}
    refused = await post(app, "/api/ask", "evil.example", headers=headers, json={"question": "a"})
    assert refused.status_code == 403
    at_home = await post(app, "/api/ask", "localhost", headers=headers, json={})
    assert at_home.status_code == 400
