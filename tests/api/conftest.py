"""One server for all tests of the doors, and the provider behind it."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.live_server import LiveServer, live_server
from tests.postgres_for_tests import folder, tmp_path
from tests.provider_thread import check_all_was_asked, forget, provider_in_thread
from tests.scripted_provider import API_KEY, ScriptedProvider

__all__ = ["tmp_path"]

BODY_LIMIT = 200_000
HISTORY_LIMIT = 20
PING_S = 1.5
"""Longer than a busy machine takes to hear of a failure: before the first comment it still has its status."""
STALL_S = 1.5


@pytest.fixture(scope="session")
def _provider() -> Iterator[ScriptedProvider]:
    with provider_in_thread() as provider:
        yield provider


@pytest.fixture(scope="session")
def server(_provider: ScriptedProvider) -> Iterator[LiveServer]:
    """Development mode, OpenAI configured, Mistral not, no database."""
    with (
        folder() as data_dir,
        live_server(
            data_dir,
            database=False,
            OPENAI_API_KEY=API_KEY,
            OPENAI_BASE_URL=_provider.base_url,
            MAX_BODY_BYTES=str(BODY_LIMIT),
            MAX_HISTORY_MESSAGES=str(HISTORY_LIMIT),
            SSE_PING_S=str(PING_S),
        ) as server,
    ):
        yield server


@pytest.fixture(scope="session")
def impatient(_provider: ScriptedProvider) -> Iterator[LiveServer]:
    """One that leaves a silent provider soon."""
    environment = {"OPENAI_API_KEY": API_KEY, "OPENAI_BASE_URL": _provider.base_url}
    environment |= {"PROVIDER_STALL_TIMEOUT_S": str(STALL_S), "SSE_PING_S": str(STALL_S / 5)}
    with folder() as data_dir, live_server(data_dir, database=False, **environment) as server:
        yield server


@pytest.fixture
def provider(_provider: ScriptedProvider) -> Iterator[ScriptedProvider]:
    """The provider with no script; a script that is never asked for fails the test."""
    forget(_provider)
    yield _provider
    check_all_was_asked(_provider)


@pytest.fixture
async def client(server: LiveServer) -> AsyncIterator[httpx.AsyncClient]:
    async with server.client() as client:
        yield client
