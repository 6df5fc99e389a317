"""GET …/documents/{document_id}/events: how taking a document in goes on, as server-sent events."""

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response
from starlette.types import Send

from api.deps import CurrentServices, CurrentToken, Services
from api.documents import DOCUMENT_EXAMPLE, PATH, PROBLEMS, document_fields
from api.json_response import encoded
from api.run_response import EventStream
from domain.documents import Document
from domain.errors import DatabaseUnavailable, NotFound
from domain.principals import Principal

router = APIRouter(tags=["documents"])

LOOK_S = 0.5
"""How often the document is looked at: its job may run in any process."""


@router.get(
    PATH + "/{document_id}/events",
    summary="Follow a document",
    responses={
        200: {
            "description": "`progress` as often as something changes, then `succeeded`, `failed` or `deleted`.",
            "content": {
                "text/event-stream": {
                    "example": f"event: succeeded\ndata: {encoded(DOCUMENT_EXAMPLE).decode()}\n\n",
                }
            },
        },
        **PROBLEMS,
    },
)
async def follow_document(
    project_id: str, document_id: str, services: CurrentServices, caller: CurrentToken
) -> Response:
    """Ends with the job. Each event holds the document as GET shows it; a comment keeps a silent line open."""
    document = await services.library.documents.get_or_raise(caller.principal, project_id, document_id)
    return DocumentEvents(services, caller.principal, document)


class DocumentEvents(EventStream):
    """Looks at the document until its job ends, or the server does."""

    def __init__(self, services: Services, principal: Principal, document: Document) -> None:
        super().__init__(services.settings.sse_ping_s)
        self._services = services
        self._principal = principal
        self._document = document

    async def _pump(self, send: Send) -> None:
        told: Document | None = None
        while not self._services.draining:
            document = self._document
            if document.status in {"succeeded", "failed"}:
                await self._send(send, _event(document.status, document_fields(document)))
                return
            if document != told:
                await self._send(send, _event("progress", document_fields(document)))
                told = document
            await asyncio.sleep(LOOK_S)
            try:
                await self._look()
            except NotFound:
                await self._send(send, _event("deleted", {"document_id": document.document_id}))
                return

    async def _look(self) -> None:
        """While the database is down there is nothing new to tell, and no reason to leave."""
        document = self._document
        try:
            self._document = await self._services.library.documents.get_or_raise(
                self._principal, document.project_id, str(document.document_id)
            )
        except DatabaseUnavailable:
            return


def _event(kind: str, content: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), encoded(content))
