"""The official clients of OpenAI, pointed at our server."""

import fcntl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import openai
import pytest

from tests.live_server import ROOT, LiveServer

PLACE = ROOT / "tests" / "node"
INSTALL_S = 110


@pytest.fixture
def python(server: LiveServer) -> Iterator[openai.OpenAI]:
    """Without the retries that hide what a server answers, and without the tester's proxies."""
    http = openai.DefaultHttpxClient(trust_env=False)
    url = f"{server.url}/v1"
    with openai.OpenAI(base_url=url, api_key=server.token(), max_retries=0, http_client=http, timeout=90) as client:
        yield client


@pytest.fixture
async def python_async(server: LiveServer) -> AsyncIterator[openai.AsyncOpenAI]:
    http = openai.DefaultAsyncHttpxClient(trust_env=False)
    url = f"{server.url}/v1"
    async with openai.AsyncOpenAI(
        base_url=url, api_key=server.token(), max_retries=0, http_client=http, timeout=90
    ) as client:
        yield client


@pytest.fixture(scope="session")
def client_script() -> Path:
    """The script, beside the packages of the lock file; they are fetched once, into a folder that git ignores."""
    installed = PLACE / "node_modules" / ".package-lock.json"
    with (PLACE / "package-lock.json").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.exists() or installed.stat().st_mtime < (PLACE / "package-lock.json").stat().st_mtime:
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            subprocess.run(command, cwd=PLACE, check=True, timeout=INSTALL_S, stdin=subprocess.DEVNULL)
            installed.touch()
    return PLACE / "client.mjs"
