"""An upload that the disk has no room for: 507, and nothing else."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from fastapi import FastAPI, Request

from api import uploads
from api.errors import install_error_answers
from api.middleware import BodyLimit, RequestBounds
from api.uploads import UploadRules, received_file
from tests.api_errors import check_error

LIMIT = BodyLimit(10_000_000, "LIMIT")


@pytest.fixture
def client(tmp_path: Path) -> httpx.AsyncClient:
    app = FastAPI()
    install_error_answers(app)
    rules = UploadRules(tmp_path / "files", 5_000_000, "LIMIT", check_name=lambda name: None)

    @app.post("/")
    async def receive(request: Request) -> dict[str, int]:
        async with received_file(request, rules) as received:
            return {"size": received.size_bytes}

    app.add_middleware(RequestBounds, limit=LIMIT, upload_limits=[LIMIT])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@pytest.mark.parametrize("size", [10, 3_000_000], ids=["at the last bytes", "on the way"])
async def test_a_disk_that_is_full_while_an_upload_is_written(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(uploads, "_open", lambda _: os.fdopen(os.open("/dev/full", os.O_RDWR), "r+b", 0))
    async with client:
        answer = await client.post("/", files={"file": ("a.txt", b"x" * size)})
    assert "disk is full" in check_error(answer, 507, "storage_full")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
async def test_a_disk_that_is_full_or_read_only_before_an_upload_begins(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(**_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(uploads.tempfile, "TemporaryFile", full)
    async with client:
        answer = await client.post("/", files={"file": ("a.txt", b"x")})
    check_error(answer, 507, "storage_full")


async def test_with_room_it_is_taken_and_leaves_no_file(client: httpx.AsyncClient, tmp_path: Path) -> None:
    async with client:
        answer = await client.post("/", files={"file": ("a.txt", b"x" * 3_000_000)})
        assert answer.json() == {"size": 3_000_000}
        too_large = await client.post("/", files={"file": ("a.txt", b"x" * 5_000_001)})
        assert "LIMIT" in check_error(too_large, 413, "payload_too_large")
    assert list((tmp_path / "files").iterdir()) == []


async def test_a_body_that_is_known_not_to_fit_is_refused_before_it_is_read(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    async with client:
        answer = await client.post("/", files={"file": ("a.txt", b"x" * 1_500_000)})
        assert "bytes are needed" in check_error(answer, 507, "storage_full")
        assert (await client.post("/", files={"file": ("a.txt", b"x" * 500_000)})).status_code == 200
