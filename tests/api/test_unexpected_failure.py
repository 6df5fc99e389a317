"""A bug of ours is answered in the house's shape, with the id that finds it in the log, and without its details."""

import logging

import httpx
import pytest
from fastapi import FastAPI

from api.errors import install_error_answers
from api.middleware import BodyLimit, RequestBounds
from domain.errors import Forbidden, RouteurError
from tests.api_errors import check_error


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()
    install_error_answers(app)
    limit = BodyLimit(1000, "MAX_BODY_BYTES")
    app.add_middleware(RequestBounds, limit=limit, upload_limits=[limit])

    @app.get("/bug")
    async def bug() -> None:
        raise ZeroDivisionError("the secret detail")

    @app.get("/refused")
    async def refused() -> None:
        raise Forbidden("half of a pair: \ud83d")

    return app


async def get(app: FastAPI, path: str) -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get(path, headers={"X-Request-ID": "mine-1"})


async def test_a_bug_is_told_neutrally_and_logged_whole(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "routeur.api"):
        answer = await get(app, "/bug")
    assert "mine-1" in check_error(answer, 500, "internal_error")
    assert "secret detail" not in answer.text
    (record,) = [record for record in caplog.records if record.name == "routeur.api"]
    assert record.exc_info
    assert record.request_id == "mine-1"  # type: ignore[attr-defined]


async def test_a_message_that_utf_8_cannot_carry_is_still_an_answer(app: FastAPI) -> None:
    check_error(await get(app, "/refused"), 403, "forbidden")


def test_every_error_has_a_code_of_its_own_and_an_error_status() -> None:
    def tree(kind: type[RouteurError]) -> list[type[RouteurError]]:
        return [kind, *(grandchild for child in kind.__subclasses__() for grandchild in tree(child))]

    errors = [error for error in tree(RouteurError)[1:] if error.__module__ == "domain.errors"]
    codes = [error.code for error in errors]
    assert len(set(codes)) == len(codes)
    assert all(400 <= error.status < 600 for error in errors)
