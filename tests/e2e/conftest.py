"""A whole server with its own PostgreSQL, and the provider behind it."""

from collections.abc import Iterator

import pytest

from tests.live_server import LiveServer, live_server
from tests.postgres_for_tests import folder, tmp_path
from tests.provider_thread import check_all_was_asked, forget, provider_in_thread
from tests.scripted_provider import API_KEY, ScriptedProvider

__all__ = ["tmp_path"]


@pytest.fixture(scope="session")
def _provider() -> Iterator[ScriptedProvider]:
    with provider_in_thread() as provider:
        yield provider


@pytest.fixture
def provider(_provider: ScriptedProvider) -> Iterator[ScriptedProvider]:
    """The provider with no script; a script that is never asked for fails the test."""
    forget(_provider)
    yield _provider
    check_all_was_asked(_provider)


@pytest.fixture(scope="session")
def hosted(_provider: ScriptedProvider) -> dict[str, str]:
    """The settings that make a server ask our provider."""
    return {"OPENAI_API_KEY": API_KEY, "OPENAI_BASE_URL": _provider.base_url}


@pytest.fixture(scope="session")
def server(hosted: dict[str, str]) -> Iterator[LiveServer]:
    """One for the tests that neither stop it nor need settings of their own."""
    with folder() as data_dir, live_server(data_dir, **hosted) as server:
        yield server
