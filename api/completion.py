"""POST /completion: the native door to every agent."""

from typing import Annotated

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from api.deps import CurrentServices, CurrentToken
from api.errors import request_id_of
from api.run_response import StreamedAnswer, WholeAnswer
from api.schemas import (
    COMPLETION_EXAMPLES,
    COMPLETION_RESPONSES,
    UNAUTHORIZED,
    CompletionBody,
    error_example,
)
from config.settings import Settings
from domain.errors import BadRequest, NotSupportedYet
from domain.messages import Message
from domain.principals import Principal
from domain.runs import RunRequest

router = APIRouter(tags=["completion"])

MAX_LABELS = 32
MAX_LABEL_CHARS = 512


@router.post(
    "/completion",
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
)
async def complete(
    body: Annotated[CompletionBody, Body(openapi_examples=COMPLETION_EXAMPLES)],
    request: Request,
    caller: CurrentToken,
    services: CurrentServices,
) -> Response:
    """Runs the agent on the message, and answers whole or as a stream.

    Either form ends with what the run consumed: tokens by model, latency, price in EUR, emissions, equivalences.
    """
    run = _run_request(body, caller.principal, request_id_of(request), services.settings)
    if body.stream:
        return StreamedAnswer(services.completion, run, services.settings.sse_ping_s)
    return WholeAnswer(services.completion, run)


def _run_request(body: CompletionBody, principal: Principal, request_id: str, settings: Settings) -> RunRequest:
    _refuse_what_does_not_work_yet(body)
    history = body.conversation_history or []
    if not body.message.strip() and body.resume is None:
        raise BadRequest("message: it is empty; send the text the agent is to answer")
    if len(history) > settings.max_history_messages:
        raise BadRequest(
            f"conversation_history: {len(history)} messages; "
            f"at most {settings.max_history_messages} (MAX_HISTORY_MESSAGES)"
        )
    chars = len(body.message) + sum(len(message.content) for message in history)
    if chars > settings.max_message_chars:
        raise BadRequest(
            f"message: {chars} characters with its history; at most {settings.max_message_chars} (MAX_MESSAGE_CHARS)"
        )
    labels = body.metadata or {}
    if len(labels) > MAX_LABELS or any(len(key) + len(value) > MAX_LABEL_CHARS for key, value in labels.items()):
        raise BadRequest(f"metadata: at most {MAX_LABELS} labels of {MAX_LABEL_CHARS} characters each")
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
        resume=body.resume,
        metadata=labels,
        stream=body.stream,
        events=body.events and body.stream,
    )


def _refuse_what_does_not_work_yet(body: CompletionBody) -> None:
    """A field whose feature is missing is refused by name: ignoring it would be a lie."""
    if body.cache is not None and body.cache is not False:
        raise NotSupportedYet("cache: answers are not cached yet; send false or leave it out")
