"""The paths that carry the load are answered before the framework's layers, and otherwise like all others."""

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from api.errors import install_error_answers
from api.middleware import BodyLimit, BusyRoutes, RequestBounds
from domain.errors import ModelUnavailable
from tests.api_errors import check_error


async def answered(request: Request) -> Response:
    match await request.body():
        case b"bug":
            raise ZeroDivisionError("the secret detail")
        case b"down":
            raise ModelUnavailable("no model can serve now")
        case body:
            return PlainTextResponse(b"busy " + body)


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI(redirect_slashes=False)
    install_error_answers(app)

    @app.post("/busy")
    async def documented() -> str:
        return "the framework's"

    @app.post("/other")
    async def other() -> str:
        return "the framework's"

    app.add_middleware(BusyRoutes, endpoints={"/busy": answered}, error_handlers=app.exception_handlers)
    limit = BodyLimit(10, "MAX_BODY_BYTES")
    app.add_middleware(RequestBounds, limit=limit, upload_limits=[limit])
    return app


async def ask(app: FastAPI, method: str, path: str, body: bytes = b"") -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, content=body)


async def test_post_on_a_busy_path_does_not_reach_the_framework(app: FastAPI) -> None:
    assert (await ask(app, "POST", "/busy", b"1")).text == "busy 1"
    assert (await ask(app, "POST", "/other")).json() == "the framework's"


async def test_other_methods_are_refused_as_anywhere(app: FastAPI) -> None:
    answer = await ask(app, "GET", "/busy")
    check_error(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"
    check_error(await ask(app, "POST", "/busy/"), 404, "not_found")


async def test_failures_have_the_shape_of_all_others(app: FastAPI) -> None:
    answer = await ask(app, "POST", "/busy", b"down")
    check_error(answer, 503, "model_unavailable")
    assert answer.headers["retry-after"] == "5"
    bug = await ask(app, "POST", "/busy", b"bug")
    check_error(bug, 500, "internal_error")
    assert "secret detail" not in bug.text
    check_error(await ask(app, "POST", "/busy", b"x" * 11), 413, "payload_too_large")
