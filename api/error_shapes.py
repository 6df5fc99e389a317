"""How a failure is told at each door: natively, as OpenAI's clients read it, and as callers of /api/ask do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from api.json_response import json_response
from domain.errors import (
    AgentFailed,
    AgentUnavailable,
    InsufficientQuota,
    InvalidParameter,
    ModelUnavailable,
    ProviderError,
    RouteurError,
    RunTimeout,
    UnknownAgent,
    UnknownModel,
)

MAX_MESSAGE_CHARS = 4_000


@dataclass(frozen=True, slots=True)
class Problem:
    """A failure, before it has a shape. `detail` is one entry a field, where the message says less."""

    status: int
    code: str
    message: str
    request_id: str
    detail: Any = None
    error: RouteurError | None = None

    @classmethod
    def of(cls, error: RouteurError, request_id: str) -> "Problem":
        message = error.message
        if len(message) > MAX_MESSAGE_CHARS:
            # It may quote a caller, a provider or an agent, who may be long.
            message = f"{message[: MAX_MESSAGE_CHARS - 1]}…"
        return cls(error.status, error.code, message, request_id, error=error)


OPENAI_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    429: "rate_limit_error",
}
OPENAI_CODES: Mapping[str, str] = {
    "unknown_model": "model_not_found",
    "unknown_agent": "model_not_found",
    "model_not_served": "model_not_found",
    "context_overflow": "context_length_exceeded",
    "rate_limited": "rate_limit_exceeded",
    "rate_limited_by_provider": "rate_limit_exceeded",
    "unauthorized": "invalid_api_key",
    "not_found": "unknown_url",
}
"""Our codes in OpenAI's words, which its users' programs look for; the others stay ours."""

NOT_WORTH_RETRYING = (ProviderError, ModelUnavailable, AgentFailed, AgentUnavailable, RunTimeout)
"""The router has retried what deserved it and asked every stand-in: clients that ask again only add load."""


def native_shape(problem: Problem) -> Response:
    """`{"error": {code, message, request_id}, "detail": …}`; the detail repeats the message unless it says more."""
    error = {"code": problem.code, "message": problem.message, "request_id": problem.request_id}
    detail = problem.message if problem.detail is None else problem.detail
    return json_response({"error": error, "detail": detail}, problem.status)


def openai_shape(problem: Problem) -> Response:
    """`{"error": {message, type, param, code}}`, with `x-should-retry` for clients that retry by themselves."""
    response = json_response({"error": openai_error(problem)}, _openai_status(problem))
    if isinstance(problem.error, NOT_WORTH_RETRYING):
        response.headers["x-should-retry"] = "false"
    return response


def openai_error(problem: Problem) -> dict[str, Any]:
    """The object inside, which is also what a stream that fails on its way sends."""
    status = _openai_status(problem)
    kind = "server_error" if status >= 500 else OPENAI_TYPES.get(status, "invalid_request_error")
    if isinstance(problem.error, InsufficientQuota):
        kind = InsufficientQuota.code  # As OpenAI names both.
    return {
        "message": problem.message,
        "type": kind,
        "param": _openai_param(problem),
        "code": OPENAI_CODES.get(problem.code, problem.code),
    }


def ask_shape(problem: Problem) -> Response:
    """`{"error": "…"}`."""
    return json_response({"error": problem.message}, problem.status)


def shape_of(path: str) -> Callable[[Problem], Response]:
    """The shape of the door at this path, also where the door has no such page."""
    if path == "/v1" or path.startswith("/v1/"):
        return openai_shape
    return ask_shape if path.rstrip("/") == "/api/ask" else native_shape


def _openai_status(problem: Problem) -> int:
    """OpenAI's clients know a model that does not exist by 404."""
    return 404 if isinstance(problem.error, UnknownModel | UnknownAgent) else problem.status


def _openai_param(problem: Problem) -> str | None:
    match problem.error:
        case InvalidParameter(param=param):
            return param
        case UnknownModel() | UnknownAgent():
            return "model"
        case _:
            return None
