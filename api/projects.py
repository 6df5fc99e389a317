"""The caller's projects: list them, delete one with everything in it. The first upload makes a project."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.deps import CurrentServices, CurrentToken
from api.documents import PROBLEMS
from api.json_response import json_response
from api.schemas import MAX_OFFSET, answers

router = APIRouter(tags=["documents"])

PROJECT_EXAMPLE: dict[str, Any] = {
    "project_id": "dossier-42",
    "embedding_model": "use-multilingual-v3",
    "created_at": "2026-11-20T09:30:00+00:00",
    "documents": 3,
    "unfinished": 1,
    "failed": 0,
    "passages": 118,
    "size_bytes": 921600,
}


@router.get(
    "/projects",
    summary="List your projects",
    responses=answers({"projects": [PROJECT_EXAMPLE], "total": 1}) | PROBLEMS,
)
async def list_projects(
    services: CurrentServices,
    caller: CurrentToken,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0, le=MAX_OFFSET)] = 0,
) -> Response:
    """Your projects, the oldest first, and what is in each."""
    found, total = await services.library.projects.find(caller.principal, limit=limit, offset=offset)
    return json_response({"projects": [asdict(project) for project in found], "total": total})


@router.delete(
    "/projects/{project_id}",
    summary="Delete a project",
    status_code=204,
    responses={204: {"description": "Nothing of it is left."}, **PROBLEMS},
)
async def delete_project(project_id: str, services: CurrentServices, caller: CurrentToken) -> Response:
    """Removes it with its documents, their passages, bytes and jobs; work going on is stopped."""
    await services.library.documents.delete_project(caller.principal, project_id)
    return Response(status_code=204)
