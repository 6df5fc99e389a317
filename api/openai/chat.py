"""POST /v1/chat/completions: models and agents in OpenAI's format."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.deps import CurrentToken, Services, verified_caller
from api.errors import request_id_of
from api.json_body import read_json_object
from api.openai.chat_answers import StreamedChat, WholeChat
from api.openai.chat_request import chat_request
from api.openai.schemas import CHAT_BODY, CHAT_RESPONSES

router = APIRouter(prefix="/v1", tags=["openai"])


PATH = "/v1/chat/completions"


@router.post("/chat/completions", summary="Chat", responses=CHAT_RESPONSES, openapi_extra=CHAT_BODY)
async def complete_chat(request: Request, _: CurrentToken) -> Response:
    """What OpenAI's clients ask, answered by any model, route or agent; `impact` says what it consumed."""
    return await answer_chat(request)


async def answer_chat(request: Request) -> Response:
    """The same, without the framework's route (`BusyRoutes`), of which `complete_chat` is the documentation."""
    services: Services = request.app.state.services
    caller = verified_caller(request, services)
    asked = await chat_request(
        await read_json_object(request),
        request.scope["headers"],
        services,
        principal=caller.principal,
        request_id=request_id_of(request),
    )
    return StreamedChat(services, asked) if asked.run.stream else WholeChat(services, asked)
