"""POST /v1/embeddings: texts as vectors, in OpenAI's format."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.deps import CurrentServices, CurrentToken
from api.errors import request_id_of
from api.json_body import TooMuchStructure, read_json_object, short_text
from api.json_response import encoded
from api.openai.body import A_NAME, A_TEXT, a_whole_number, check_fields, is_whole
from api.openai.consumption import impact_figures
from api.openai.schemas import EMBEDDINGS_BODY, EMBEDDINGS_RESPONSES
from api.run_response import RunResponse
from domain.errors import InvalidParameter, ModelUnavailable
from domain.principals import Principal
from services.embeddings.embedder import Vector, as_base64
from services.embeddings.runs import EmbeddingRun, EmbeddingRuns
from services.embeddings.service import EmbeddingRequest

router = APIRouter(prefix="/v1", tags=["openai"])

NO_TOKENS = "tokens are not taken, for each model has its own; send the text"
BEGINS_WITH_A_TOKEN = re.compile(rb'"input"\s*:\s*\[[\s\[]*\d')

VECTORS_A_TURN = 32
"""How many vectors are written as numbers before other requests have their turn: about 5 ms of work."""

CHECKS = {
    "model": A_NAME,
    "user": A_TEXT,
    "dimensions": a_whole_number(1, 65_536),
    "encoding_format": (lambda value: value in ("float", "base64"), '"float" or "base64"'),
}


@router.post("/embeddings", summary="Embed texts", responses=EMBEDDINGS_RESPONSES, openapi_extra=EMBEDDINGS_BODY)
async def embed(request: Request, caller: CurrentToken, services: CurrentServices) -> Response:
    """One vector a text, of the model that was named and of no other."""
    body = await _body_of(request)
    check_fields(body, CHECKS)
    if "model" not in body:
        raise InvalidParameter("model", "name an embedding model of GET /v1/models")
    if services.embeddings is None:
        raise ModelUnavailable("embeddings are not set up on this server")
    asked = EmbeddingRequest(body["model"], _texts(body.get("input")), body.get("dimensions"))
    as_text = body.get("encoding_format") == "base64"
    return _Embeddings(services.embeddings, asked, caller.principal, request_id=request_id_of(request), as_text=as_text)


class _Embeddings(RunResponse):
    """The work is done inside the answer, so that it ends when the client goes."""

    def __init__(
        self,
        embeddings: EmbeddingRuns,
        asked: EmbeddingRequest,
        principal: Principal,
        *,
        request_id: str,
        as_text: bool,
    ) -> None:
        super().__init__()
        self._asked = asked
        self._embeddings = embeddings
        self._principal = principal
        self._request_id = request_id
        self._as_text = as_text

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        run = await self._embeddings.run(self._asked, principal=self._principal, request_id=self._request_id)
        end = _end(run, self._asked, self._request_id)
        data = await _data(run.answer.vectors, as_text=self._as_text)
        body = b'{"object":"list","data":[' + data + b"]," + encoded(end)[1:]
        await Response(body, media_type="application/json")(scope, receive, send)


async def _body_of(request: Request) -> dict[str, Any]:
    """The body. One that holds more tokens than are ever parsed is answered as one that holds a few."""
    try:
        return await read_json_object(request)
    except TooMuchStructure as error:
        if BEGINS_WITH_A_TOKEN.search(await request.body()) is None:
            raise
        raise InvalidParameter("input", NO_TOKENS) from error


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        return tuple(value)
    if isinstance(value, list) and value and all(is_whole(token) or isinstance(token, list) for token in value):
        raise InvalidParameter("input", NO_TOKENS)
    raise InvalidParameter("input", f"send a string or a list of strings (got {short_text(value)})")


async def _data(vectors: list[Vector], *, as_text: bool) -> bytes:
    """The vectors as JSON, with pauses: a large request is megabytes of numbers."""
    items = []
    for index, vector in enumerate(vectors):
        if index % VECTORS_A_TURN == VECTORS_A_TURN - 1:
            await asyncio.sleep(0)
        numbers = orjson.dumps(as_base64(vector) if as_text else vector.tolist())
        items.append(b'{"object":"embedding","index":%d,"embedding":%s}' % (index, numbers))
    return b",".join(items)


def _end(run: EmbeddingRun, asked: EmbeddingRequest, request_id: str) -> Mapping[str, Any]:
    """Everything but the vectors. An embedding writes no tokens: what it read is all there is."""
    read = run.report.usage.input_tokens
    return {
        "model": run.answer.model,
        "usage": None if read is None else {"prompt_tokens": read, "total_tokens": read},
        "impact": {
            **impact_figures(run.report),
            "model": run.answer.model,
            "requested_model": asked.model,
            "run_id": str(run.run_id),
            "request_id": request_id,
        },
    }
