"""POST /completion: the native door to every agent."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.responses import Response

from api.deps import CurrentToken, Services, verified_caller
from api.errors import request_id_of
from api.json_body import TooMuchStructure, read_json
from api.openai.body import MAX_NAMES
from api.run_response import StreamedAnswer, WholeAnswer
from api.schemas import (
    COMPLETION_REQUEST,
    COMPLETION_RESPONSES,
    UNAUTHORIZED,
    CompletionBody,
    error_example,
)
from config.settings import Settings
from domain.errors import BadRequest, InvalidParameter, NotSupportedYet
from domain.messages import Message
from domain.principals import Principal
from domain.runs import UNSET, RunRequest

router = APIRouter(tags=["completion"])

PATH = "/completion"
MAX_LABELS = 32
MAX_LABEL_CHARS = 512
TOO_MANY_LABELS = f"metadata: at most {MAX_LABELS} labels of {MAX_LABEL_CHARS} characters each"
MAX_FIELDS = 64
"""Of the body and of each message: more than exist."""


@router.post(
    PATH,
    summary="Ask an agent",
    responses={
        **COMPLETION_RESPONSES,
        400: error_example("unknown_agent", "unknown agent 'V9'; known agents: RAG, V1, V2"),
        **UNAUTHORIZED,
        413: error_example("payload_too_large", "the body is larger than 4000000 bytes (MAX_BODY_BYTES)"),
        415: error_example("unsupported_media_type", "Content-Type: 'text/plain'; send the body as application/json"),
        429: error_example("rate_limited_by_provider", "openai answered 429 (too many requests): slow down"),
        502: error_example("provider_cut", "openai ended its answer without a finish reason"),
        503: error_example("model_unavailable", "model 'gpt-4o' cannot serve now: it needs the setting OPENAI_API_KEY"),
        504: error_example("provider_stalled", "openai sent nothing for 60 s"),
    },
    openapi_extra=COMPLETION_REQUEST,
)
async def complete(request: Request, _: CurrentToken) -> Response:
    """Runs the agent on the message, and answers whole or as a stream.

    Either form ends with what the run consumed: tokens by model, latency, price in EUR, emissions, equivalences.
    """
    return await answer_completion(request)


async def answer_completion(request: Request) -> Response:
    """The same, without the framework's route (`BusyRoutes`), of which `complete` is the documentation."""
    services: Services = request.app.state.services
    caller = verified_caller(request, services)
    body = await _body_of(request, services.settings)
    run = _run_request(body, caller.principal, request_id_of(request), services.settings)
    if body.stream:
        return StreamedAnswer(services.completion, run, services.settings.sse_ping_s)
    return WholeAnswer(services.completion, run)


async def _body_of(request: Request, settings: Settings) -> CompletionBody:
    """The body, read after the credential was checked: FastAPI would parse a parameter of its type before that."""
    try:
        content = await read_json(request)
    except (InvalidParameter, TooMuchStructure):
        raise
    except BadRequest as error:
        problem = {"type": "json_invalid", "loc": ("body",), "msg": error.message.removeprefix("body: ")}
        raise RequestValidationError([problem]) from error
    if isinstance(content, dict):
        _check_counts(content, settings)
    try:
        return CompletionBody.model_validate(content)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from error


def _check_counts(content: dict[str, Any], settings: Settings) -> None:
    """What is counted before each of it is validated: a problem takes a hundred times the memory of its cause."""
    if len(content) > MAX_FIELDS:
        unknown = next(name for name in content if name not in CompletionBody.model_fields)
        raise InvalidParameter(unknown[:80], "unknown field; see /docs for those that exist")
    if isinstance(history := content.get("conversation_history"), list):
        if len(history) > settings.max_history_messages:
            raise BadRequest(
                f"conversation_history: {len(history)} messages; "
                f"at most {settings.max_history_messages} (MAX_HISTORY_MESSAGES)"
            )
        for place, message in enumerate(history):
            if isinstance(message, dict) and len(message) > MAX_FIELDS:
                raise InvalidParameter(f"conversation_history.{place}", "it has fields that are unknown; see /docs")
    if isinstance(sources := content.get("sources"), list) and len(sources) > MAX_NAMES:
        raise InvalidParameter("sources", f"{len(sources)} documents; at most {MAX_NAMES}")
    if isinstance(labels := content.get("metadata"), dict) and len(labels) > MAX_LABELS:
        raise BadRequest(TOO_MANY_LABELS)


def _run_request(body: CompletionBody, principal: Principal, request_id: str, settings: Settings) -> RunRequest:
    _refuse_what_does_not_work_yet(body)
    history = body.conversation_history or []
    # Beside a message, null is what clients send that write every field they know.
    resumes = body.resume is not None or ("resume" in body.model_fields_set and not body.message.strip())
    if not body.message.strip() and not resumes:
        raise BadRequest("message: it is empty; send the text the agent is to answer")
    chars = len(body.message) + sum(len(message.content) for message in history)
    if chars > settings.max_message_chars:
        raise BadRequest(
            f"message: {chars} characters with its history; at most {settings.max_message_chars} (MAX_MESSAGE_CHARS)"
        )
    labels = body.metadata or {}
    if any(len(key) + len(value) > MAX_LABEL_CHARS for key, value in labels.items()):
        raise BadRequest(TOO_MANY_LABELS)
    return RunRequest(
        agent=body.agent,
        messages=(*(Message(m.role, m.content) for m in history), Message("user", body.message)),
        principal=principal,
        request_id=request_id,
        model=body.model,
        temperature=0.7 if body.temperature is None else body.temperature,
        max_tokens=body.max_tokens,
        project_id=body.project_id,
        sources=tuple(body.sources or ()),
        thread_id=body.thread_id,
        resume=body.resume if resumes else UNSET,
        metadata=labels,
        stream=body.stream,
        events=body.events and body.stream,
    )


def _refuse_what_does_not_work_yet(body: CompletionBody) -> None:
    """A field whose feature is missing is refused by name: ignoring it would be a lie."""
    if body.cache is not None and body.cache is not False:
        raise NotSupportedYet("cache: answers are not cached yet; send false or leave it out")
