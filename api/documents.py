"""The documents of a project: send one, list them, look at one, delete one."""

import re
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.deps import CurrentServices, CurrentToken
from api.errors import request_id_of
from api.json_response import json_response
from api.middleware import BodyLimit
from api.schemas import MAX_OFFSET, UNAUTHORIZED, answers, error_example
from api.uploads import ENVELOPE_BYTES, UploadRules, received_file
from config.settings import Settings
from domain.documents import Document
from services.rag.uploads import Upload, media_type_of, title_of

router = APIRouter(tags=["documents"])

PATH = "/projects/{project_id}/documents"
BYTES_PER_MB = 1_048_576
SETTING = "MAX_UPLOAD_MB_DOCUMENTS"

ACCEPTED_EXAMPLE = {
    "document_id": "5b8e7c1e-5d0f-4a43-9a55-0d9b3a6a7f10",
    "job_id": "f0a2d0f4-6a0b-4c6e-8a53-3f0f4a1c9f77",
    "status": "queued",
}
DOCUMENT_EXAMPLE: dict[str, Any] = {
    "document_id": "5b8e7c1e-5d0f-4a43-9a55-0d9b3a6a7f10",
    "project_id": "dossier-42",
    "job_id": "f0a2d0f4-6a0b-4c6e-8a53-3f0f4a1c9f77",
    "title": "bail.pdf",
    "media_type": "application/pdf",
    "size_bytes": 184213,
    "status": "succeeded",
    "progress_percent": 100.0,
    "pages": 12,
    "passages": 41,
    "error": None,
    "created_at": "2026-11-20T09:30:00+00:00",
    "finished_at": "2026-11-20T09:30:03+00:00",
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    404: error_example("not_found", "no project 'dossier-42'; the first upload to it makes it"),
    503: error_example("database_unavailable", "the database does not answer: try again soon"),
    **UNAUTHORIZED,
}
_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "A .pdf, .docx, .pptx, .html, .md, .txt or .csv.",
                        }
                    },
                },
                "example": {"file": "@bail.pdf"},
            }
        },
    }
}


def upload_limit(settings: Settings) -> BodyLimit:
    """The bound on the body of an upload, known before any of it is read."""
    max_bytes = settings.max_upload_mb_documents * BYTES_PER_MB + ENVELOPE_BYTES
    return BodyLimit(max_bytes, SETTING, re.compile("/projects/[^/]+/documents"))


@router.post(
    PATH,
    summary="Send a document",
    status_code=202,
    responses={
        202: {
            "description": "It will be taken in. 200 instead when these bytes are in the project already.",
            "content": {"application/json": {"example": ACCEPTED_EXAMPLE}},
        },
        **PROBLEMS,
        400: error_example("bad_request", "file: it is missing; send the document as the multipart field 'file'"),
        413: error_example("payload_too_large", "the body is larger than 104923136 bytes (MAX_UPLOAD_MB_DOCUMENTS)"),
        415: error_example("unsupported_media_type", "file: 'notes.odt' cannot be read; send one of .csv, .docx, …"),
        429: error_example(
            "too_many_jobs",
            "200 of your documents are not finished, and 200 may be (DOCUMENTS_PER_CALLER): wait for one to end, …",
        ),
        507: error_example("storage_full", "the server's disk is full: the file was not stored"),
    },
    openapi_extra=_UPLOAD_BODY,
)
async def send_document(project_id: str, request: Request, services: CurrentServices, caller: CurrentToken) -> Response:
    """Takes a PDF, DOCX, PPTX, HTML, Markdown, text or CSV into the project; the first makes the project yours.

    The work is a job: its progress is the document's. The same bytes sent again are recognised; if they failed
    before, they are tried again.
    """
    library = services.library
    await library.projects.check_upload(caller.principal, project_id)
    await library.documents.check_room(caller.principal)
    max_bytes = services.settings.max_upload_mb_documents * BYTES_PER_MB
    rules = UploadRules(library.files, max_bytes, SETTING, check_name=lambda name: media_type_of(title_of(name)))
    async with received_file(request, rules) as received:
        title = title_of(received.filename)
        upload = Upload(title, media_type_of(title), received.size_bytes, received.sha256, received.file)
        accepted = await library.documents.add(upload, caller.principal, project_id, request_id_of(request))
    document = accepted.document
    is_going = document.status in {"queued", "running"}
    content = {"document_id": document.document_id, "job_id": document.job_id, "status": document.status}
    return json_response(content, 202 if is_going else 200)


@router.get(
    PATH, summary="List the documents", responses=answers({"documents": [DOCUMENT_EXAMPLE], "total": 1}) | PROBLEMS
)
async def list_documents(
    project_id: str,
    services: CurrentServices,
    caller: CurrentToken,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0, le=MAX_OFFSET)] = 0,
) -> Response:
    """The documents of your project, the oldest first."""
    found, total = await services.library.documents.find(caller.principal, project_id, limit=limit, offset=offset)
    return json_response({"documents": [document_fields(document) for document in found], "total": total})


@router.get(PATH + "/{document_id}", summary="Look at a document", responses=answers(DOCUMENT_EXAMPLE) | PROBLEMS)
async def get_document(project_id: str, document_id: str, services: CurrentServices, caller: CurrentToken) -> Response:
    """Where its job is, and what it holds. `error` says why it failed, or what it waits for."""
    document = await services.library.documents.get_or_raise(caller.principal, project_id, document_id)
    return json_response(document_fields(document))


@router.delete(
    PATH + "/{document_id}",
    summary="Delete a document",
    status_code=204,
    responses={204: {"description": "Nothing of it is left."}, **PROBLEMS},
)
async def delete_document(
    project_id: str, document_id: str, services: CurrentServices, caller: CurrentToken
) -> Response:
    """Removes it with its passages, its bytes and its job; work going on is stopped."""
    await services.library.documents.delete(caller.principal, project_id, document_id)
    return Response(status_code=204)


def document_fields(document: Document) -> dict[str, Any]:
    """A document as JSON, every field of it."""
    return asdict(document)
