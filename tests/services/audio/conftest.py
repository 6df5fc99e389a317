"""The real PostgreSQL that transcription jobs run on, and a strict provider to ask."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.postgres_for_tests import postgres, tmp_path
from tests.projects_for_tests import _migrated, migrated_url
from tests.studio_for_tests import House, open_studio
from tests.transcription_server import TranscriptionServer, transcription_server

__all__ = ["_migrated", "migrated_url", "postgres", "tmp_path"]


@pytest.fixture
async def provider() -> AsyncIterator[TranscriptionServer]:
    async with transcription_server() as server:
        yield server


@pytest.fixture
async def studio(migrated_url: str, tmp_path: Path, provider: TranscriptionServer) -> AsyncIterator[House]:
    async with open_studio(migrated_url, tmp_path, provider.base_url) as opened:
        yield opened
