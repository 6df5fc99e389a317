"""GET /projects/{project_id}/search: the passages of a project that answer a question."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.deps import CurrentServices, CurrentToken
from api.documents import PROBLEMS
from api.errors import request_id_of
from api.json_response import json_response
from api.schemas import answers, error_example
from domain.documents import Passage
from services.accounting.metadata import report_metadata, usage_tokens
from services.rag.search import MAX_K, MAX_QUESTION_CHARS

router = APIRouter(tags=["documents"])

SEARCH_EXAMPLE: dict[str, Any] = {
    "passages": [
        {
            "source_id": "5b8e7c1e-5d0f-4a43-9a55-0d9b3a6a7f10",
            "title": "bail.pdf",
            "page": 4,
            "headings": ["Résiliation"],
            "text": "Le préavis est de trois mois…",
            "start_char": 10240,
            "end_char": 11031,
            "score": 0.71,
        }
    ],
    "total": 1,
    "metadata": {
        "run_id": "6f1c2f0e-54be-4d0c-8e3c-9a7d4f2f6f0b",
        "request_id": "3f0c…",
        "usage": {"input_tokens": 14, "output_tokens": 0, "total_tokens": 14},
        "latency_s": 0.011,
    },
}


@router.get(
    "/projects/{project_id}/search",
    summary="Search the documents",
    responses={
        **answers(SEARCH_EXAMPLE),
        **PROBLEMS,
        400: error_example("invalid_parameter", "sources: no such documents in project 'dossier-42': 'x'"),
    },
)
async def search(
    project_id: str,
    request: Request,
    services: CurrentServices,
    caller: CurrentToken,
    q: Annotated[str, Query(min_length=1, max_length=MAX_QUESTION_CHARS, description="A question, or words.")],
    sources: Annotated[
        list[str] | None, Query(description="Document ids, or one value with commas. Absent: all.")
    ] = None,
    k: Annotated[int, Query(ge=1, le=MAX_K, description="How many passages at most.")] = 5,
) -> Response:
    """The passages nearest to the question by meaning and by words, the best first.

    `score` is the cosine similarity; `metadata` says what embedding the question consumed.
    """
    library = services.library
    allowed = await library.projects.open_filter_or_raise(caller.principal, project_id, _ids(sources))
    request_id = request_id_of(request)
    run = await library.searches.run(allowed, q, k=k, principal=caller.principal, request_id=request_id)
    passages = [_shown(passage) for passage in run.passages]
    metadata = {
        "run_id": run.run_id,
        "request_id": request_id,
        "usage": usage_tokens(run.report.usage),
        **report_metadata(run.report),
    }
    return json_response({"passages": passages, "total": len(passages), "metadata": metadata})


def _ids(sources: Sequence[str] | None) -> list[str]:
    """`sources` repeated, or one with commas, or both."""
    return [part.strip() for given in sources or () for part in given.split(",") if part.strip()]


def _shown(passage: Passage) -> dict[str, Any]:
    return {
        "source_id": passage.document_id,
        "title": passage.title,
        "page": passage.page,
        "headings": passage.headings,
        "text": passage.text,
        "start_char": passage.start_char,
        "end_char": passage.end_char,
        "score": passage.score,
    }
