"""Errors as callers see them: the shape of their door, the right status, the request's id."""

import logging
import math
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from api.error_shapes import Problem, shape_of
from api.json_body import short_text
from domain.errors import InternalError, ProviderError, RouteurError

logger = logging.getLogger("routeur.api")

CODES_OF_STATUS = {400: "invalid_request", 404: "not_found", 405: "method_not_allowed", 406: "not_acceptable"}
UNREADABLE_BODY = "body: it cannot be read as JSON in UTF-8"
RETRY_LATER_S = "5"
MAX_PROBLEMS = 20
"""How many fields of a refused body are named."""
MAX_FIELD_CHARS = 200
MAX_MESSAGE_CHARS = 500


def install_error_answers(app: FastAPI) -> None:
    """Make the application answer every failure in the shape of its door."""
    app.add_exception_handler(RouteurError, _routeur_error)
    app.add_exception_handler(RequestValidationError, _invalid_body)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)


def request_id_of(request: Request) -> str:
    """The id that the middleware accepted or made."""
    return str(request.scope["state"]["request_id"])


async def _routeur_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, RouteurError):
        raise error
    response = _answer(request, Problem.of(error, request_id_of(request)))
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    provider_error = error if isinstance(error, ProviderError) else None
    wait_s = provider_error.retry_after_s if provider_error is not None else None
    is_invited = error.status in {429, 503} or wait_s is not None
    if is_invited and (provider_error is None or provider_error.retryable):
        # Where no other try can succeed, a used-up quota say, no client is invited to one.
        response.headers["Retry-After"] = RETRY_LATER_S if wait_s is None else str(max(1, math.ceil(wait_s)))
    return response


async def _invalid_body(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    found = error.errors()
    problems = [_field_problem(problem) for problem in found[:MAX_PROBLEMS]]
    message = "; ".join(f"{problem['field']}: {problem['message']}" for problem in problems)
    if len(found) > MAX_PROBLEMS:
        message += f"; and {len(found) - MAX_PROBLEMS} more"
    return _answer(request, Problem(400, "invalid_request", message, request_id_of(request), detail=problems))


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if isinstance(error.__cause__, RouteurError):
        # FastAPI covers whatever ends its reading of a body, such as our limit on its size.
        return await _routeur_error(request, error.__cause__)
    code = CODES_OF_STATUS.get(error.status_code, "http_error")
    message = UNREADABLE_BODY if error.status_code == 400 else str(error.detail)
    if error.status_code in {404, 405}:
        # Not `request.url`: it is made of the Host header, which may be anything.
        path = str(request.scope["path"])[:200]
        message = f"{message}: {request.method} {path}; the routes are listed at /docs"
    response = _answer(request, Problem(error.status_code, code, message, request_id_of(request)))
    response.headers.update(error.headers or {})
    return response


async def _unexpected(request: Request, error: Exception) -> Response:
    request_id = request_id_of(request)
    logger.error("unexpected failure", exc_info=error, extra={"request_id": request_id})
    message = f"the server failed; its log says why (request {request_id})"
    response = _answer(request, Problem(InternalError.status, InternalError.code, message, request_id))
    # Starlette calls this handler outside of every middleware: the one that adds these never sees the answer.
    response.raw_headers.extend(request.scope["state"]["answer_headers"])
    # The HTTP server closes a connection whose application failed: the client is to know.
    response.headers["Connection"] = "close"
    return response


def _answer(request: Request, problem: Problem) -> Response:
    return shape_of(request.scope["path"])(problem)


def _field_problem(problem: Any) -> dict[str, Any]:
    """One refused field: its name, what is wrong, and the value that was sent, cut short."""
    field = _field_name(problem["loc"])
    message = str(problem["msg"])[:MAX_MESSAGE_CHARS]
    if problem["type"] == "extra_forbidden":
        message = "unknown field; see /docs for those that exist"
    elif problem["type"] == "json_invalid":
        field = "body"
    elif problem["type"] != "missing":
        message = f"{message} (got {short_text(problem.get('input'))})"
    return {"field": field, "message": message, "type": problem["type"]}


def _field_name(location: Sequence[int | str]) -> str:
    parts = [str(part) for part in location if part != "body"]
    return ".".join(parts)[:MAX_FIELD_CHARS] or "body"
