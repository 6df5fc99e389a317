"""POST /api/ask: one question, one answer, in the shapes of the service it replaces."""

import hmac
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.deps import BearerCredential, CurrentServices, Services
from api.development import is_own_host
from api.errors import request_id_of
from api.json_body import read_json_object
from api.json_response import json_response
from api.native_format import source_of
from api.openai.body import A_NAME, A_TEXT, SOME_NAMES, check_fields
from api.openai.model_name import target_of
from api.run_response import RunResponse
from api.schemas import answers
from domain.errors import BadRequest, Forbidden, InvalidParameter
from domain.messages import Message
from domain.principals import Principal
from domain.runs import Failed, Finished, RunRequest, Tokens
from services.completion import CompletionService

router = APIRouter(prefix="/api", tags=["ask"])

DEFAULT_ROUTE = "default"
DEMO_KEY = "cgn_live_stable_demo_api_key_012345"
"""Printed in public documentation: good in development only."""

SUBJECT = "cygnis"
CHECKS = {"question": A_TEXT, "model": A_NAME, "system_prompt": A_TEXT, "project_id": A_NAME, "sources": SOME_NAMES}


def _error(message: str) -> dict[str, Any]:
    schema = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    return {"description": message, "content": {"application/json": {"schema": schema, "example": {"error": message}}}}


ASK_ANY_ERROR: dict[int | str, dict[str, Any]] = {"default": _error("the server failed; its log says why")}
ASK_RESPONSES = answers({"answer": "Paris.", "model_used": "meta-llama/Meta-Llama-3-8B-Instruct", "sources": []}) | {
    400: _error("question: it is missing; send the text to be answered"),
    401: _error("send `Authorization: Bearer <token or API key>`; POST /auth/token gives a token"),
    403: _error("the demonstration key is for development only"),
}
ASK_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["question"],
                    "properties": {
                        "question": {"type": "string"},
                        "model": {"type": ["string", "null"]},
                        "system_prompt": {"type": ["string", "null"]},
                        "project_id": {"type": ["string", "null"]},
                        "sources": {"type": ["array", "null"], "items": {"type": "string"}},
                    },
                },
                "example": {"question": "Quelle est la capitale de la France ?", "model": "default"},
            }
        },
    }
}


class AskCredential(BearerCredential):
    """The keys of this door, besides everybody's tokens and API keys."""

    async def __call__(self, request: Request) -> Principal:  # type: ignore[override]  # Who asks is all that is needed.
        services: Services = request.app.state.services
        credential = request.headers.get("Authorization", "").partition(" ")[2].strip()
        if _is_same(credential, DEMO_KEY):
            if not services.settings.is_development:
                raise Forbidden("the demonstration key is for development only: ask the operator for an API key")
            if not is_own_host(request.headers.get("host", ""), services.settings):
                raise Forbidden("the demonstration key is for this machine only: use localhost, or DEVELOPMENT_HOSTS")
            return Principal(SUBJECT)
        key = services.settings.cygnis_api_key
        if key is not None and _is_same(credential, key.get_secret_value()):
            return Principal(SUBJECT)
        return (await super().__call__(request)).principal


@router.post("/ask", summary="Ask one question", responses=ASK_RESPONSES, openapi_extra=ASK_BODY)
async def ask(
    request: Request, services: CurrentServices, principal: Annotated[Principal, Depends(AskCredential())]
) -> Response:
    """Answers with the named route, model or agent, or with `default`; `model_used` is the model that did.

    An agent may be given a `project_id`, and `sources` to keep to; what it cites is in the answer's `sources`.
    """
    body = await read_json_object(request)
    check_fields(body, CHECKS)
    question, prompt = body.get("question", ""), body.get("system_prompt", "")
    if not question.strip():
        raise InvalidParameter("question", "it is missing; send the text to be answered")
    if len(question) + len(prompt) > services.settings.max_message_chars:
        raise BadRequest(f"question: at most {services.settings.max_message_chars} characters (MAX_MESSAGE_CHARS)")
    system = (Message("system", prompt),) if prompt.strip() else ()
    target = target_of(body.get("model", DEFAULT_ROUTE), services.router.catalogue, services.agents)
    run = RunRequest(
        agent=target.agent,
        messages=(*system, Message("user", question)),
        principal=principal,
        request_id=request_id_of(request),
        model=target.model,
        project_id=body.get("project_id"),
        sources=tuple(body.get("sources", ())),
    )
    return _Answer(services.completion, run)


class _Answer(RunResponse):
    def __init__(self, completion: CompletionService, run: RunRequest) -> None:
        super().__init__()
        self._completion = completion
        self._run = run

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        texts: list[str] = []
        finished: Finished | None = None
        async with aclosing(self._completion.stream(self._run)) as events:
            async for event in events:
                match event:
                    case Tokens(pieces=pieces):
                        texts += pieces
                    case Failed(error=error):
                        raise error
                    case Finished():
                        finished = event
                    case _:
                        pass
        sources = [source_of(passage) for passage in finished.sources] if finished else []
        answer = {"answer": "".join(texts), "model_used": finished and finished.model, "sources": sources}
        await json_response(answer)(scope, receive, send)


def _is_same(credential: str, key: str) -> bool:
    return hmac.compare_digest(credential.encode("utf-8", "surrogateescape"), key.encode())
