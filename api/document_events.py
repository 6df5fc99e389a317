"""GET …/documents/{document_id}/events: how taking a document in goes on, as server-sent events."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from api.deps import CurrentServices, CurrentToken
from api.documents import DOCUMENT_EXAMPLE, PATH, PROBLEMS, document_fields
from api.following import Followed, Following
from api.json_response import encoded

router = APIRouter(tags=["documents"])


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
    documents, principal = services.library.documents, caller.principal

    async def look() -> dict[str, Any]:
        return document_fields(await documents.get_or_raise(principal, project_id, document_id))

    first = await look()
    gone = {"document_id": first["document_id"]}
    return Following(services, Followed(look, frozenset({"succeeded", "failed"}), gone), first)
