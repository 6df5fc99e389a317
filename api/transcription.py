"""POST /transcription and /transcription/meeting: a recording heard within the request. And what can be sent."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.deps import CurrentServices, CurrentToken, Services
from api.errors import request_id_of
from api.json_response import json_response
from api.recordings import SETTING, Received, received_recording
from api.run_response import RunResponse
from api.schemas import UNAUTHORIZED, answers, error_example
from domain.audio import LANGUAGES, SUPPORTED_FORMATS
from domain.errors import InvalidParameter, ModelUnavailable
from domain.principals import Principal
from services.audio.transcription import Recording
from services.audio.wishes import JobType, Wishes, wishes_of

router = APIRouter(tags=["transcription"])

FIELDS = frozenset({"model", "language", "prompt", "context", "project_id", "max_duration_seconds"})

TRANSCRIPT_EXAMPLE: dict[str, Any] = {
    "text": "Bonjour à tous, la réunion commence.",
    "language": "fr",
    "duration": 3.2,
    "model": "whisper-base",
    "segments": [{"start": 0.0, "end": 3.1, "text": "Bonjour à tous, la réunion commence."}],
    "meeting": None,
    "metadata": {
        "run_id": "5b8e7c1e-5d0f-4a43-9a55-0d9b3a6a7f10",
        "latency_s": 1.1,
        "pricing": {"currency": "EUR", "total_cost": 0.0},
        "emissions_gCO2eq": 0.0009,
    },
}
MEETING_EXAMPLE = {
    **TRANSCRIPT_EXAMPLE,
    "meeting": {
        "summary": "L'équipe a fixé la date de livraison.",
        "decisions": ["Livrer le 3 mars."],
        "actions": [{"task": "Prévenir le client", "owner": "Ada", "due": "lundi"}],
        "error": None,
    },
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: error_example("bad_request", "file: there is no sound in the file"),
    413: error_example("payload_too_large", f"the body is larger than 524353536 bytes ({SETTING})"),
    415: error_example("unsupported_media_type", "file: it is a PDF and not a recording; send audio"),
    502: error_example("provider_error", "openai broke the connection"),
    503: error_example("model_unavailable", "'whisper-1' needs the setting OPENAI_API_KEY"),
    507: error_example("storage_full", "the server's disk is full: the file was not stored"),
    **UNAUTHORIZED,
}
_TEXT = {"type": "string"}
FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "mp3, mp4, m4a, wav, webm, …"},
                        "language": {**_TEXT, "description": "ISO 639-1; found out when absent."},
                        "prompt": {**_TEXT, "description": "Names and words that will come."},
                        "model": {**_TEXT, "description": "A transcription model of GET /models."},
                        "context": {"enum": ["chained", "parallel"], "default": "chained"},
                        "project_id": {**_TEXT, "description": "A label in the accounts."},
                        "max_duration_seconds": {"type": "number", "description": "Longer ones are refused."},
                    },
                },
                "example": {"file": "@reunion.m4a", "language": "fr"},
            }
        },
    }
}
FORMATS_EXAMPLE = {
    "supported_formats": list(SUPPORTED_FORMATS),
    "max_file_size_mb": 500,
    "model": "whisper-base",
    "meeting_model": "whisper-base",
    "languages": ["en", "fr"],
}


@router.post(
    "/transcription", summary="Transcribe", responses=answers(TRANSCRIPT_EXAMPLE) | PROBLEMS, openapi_extra=FORM
)
async def transcribe(request: Request, services: CurrentServices, caller: CurrentToken) -> Response:
    """A recording as text, with times where the model gives them. Fields in the form or the address.

    Hours of speech are better sent to `/transcription/jobs`: this answer ends with the connection.
    """
    return await _transcript(request, services, caller.principal, "transcription_audio")


@router.post(
    "/transcription/meeting",
    summary="Transcribe a meeting",
    responses=answers(MEETING_EXAMPLE) | PROBLEMS,
    openapi_extra=FORM,
)
async def transcribe_meeting(request: Request, services: CurrentServices, caller: CurrentToken) -> Response:
    """The same, with an account: summary, decisions, actions, in the recording's language.

    When the account cannot be written the transcript comes all the same, and `meeting.error` says why.
    """
    return await _transcript(request, services, caller.principal, "transcription_meeting")


@router.get(
    "/transcription/supported-formats",
    summary="What can be sent",
    responses=answers(FORMATS_EXAMPLE) | UNAUTHORIZED,
)
async def supported_formats(services: CurrentServices, _: CurrentToken) -> dict[str, Any]:
    """Formats, the largest file, and who would hear it now; `model` is null when nobody could."""
    return {
        "supported_formats": list(SUPPORTED_FORMATS),
        "max_file_size_mb": services.settings.max_upload_mb_audio,
        "model": _serving(services, Wishes()),
        "meeting_model": _serving(services, Wishes("transcription_meeting")),
        "languages": list(LANGUAGES),
    }


def wishes_in(received: Received, job_type: JobType, services: Services) -> Wishes:
    """What the caller wants of this recording, all of it checked. Raises before anything is paid."""
    _check_names(received.fields)
    wishes = wishes_of(received.fields, job_type)
    wishes.check_duration(received.recording.duration_s)
    services.studio.transcriptions.plan(wishes)
    return wishes


def check_address(request: Request, job_type: JobType, services: Services) -> None:
    """What the address says that cannot be done is refused before the body is read."""
    said = dict(request.query_params)
    _check_names(said)
    wishes = wishes_of(said, job_type)
    if wishes.model is not None:
        services.studio.transcriptions.plan(wishes)


async def _transcript(request: Request, services: Services, principal: Principal, job_type: JobType) -> Response:
    check_address(request, job_type, services)
    open_files = AsyncExitStack()
    received = await open_files.enter_async_context(received_recording(request, services, FIELDS))
    try:
        wishes = wishes_in(received, job_type, services)
    except BaseException:
        await open_files.aclose()
        raise
    return _Transcript(services, received.recording, wishes, principal, request_id_of(request), open_files)


def _check_names(fields: Mapping[str, str]) -> None:
    if unknown := sorted(fields.keys() - FIELDS):
        raise InvalidParameter(unknown[0][:80], f"unknown field; send one of {', '.join(sorted(FIELDS))}")


def _serving(services: Services, wishes: Wishes) -> str | None:
    try:
        return services.studio.transcriptions.plan(wishes).first.id
    except ModelUnavailable:
        return None


class _Transcript(RunResponse):
    """The work is done inside the answer, so that it ends when the client goes."""

    def __init__(
        self,
        services: Services,
        recording: Recording,
        wishes: Wishes,
        principal: Principal,
        request_id: str,
        open_files: AsyncExitStack,
    ) -> None:
        super().__init__()
        self._transcriptions = services.studio.transcriptions
        self._asked = (recording, wishes, principal, request_id)
        self._open_files = open_files

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._open_files:
            done = await self._transcriptions.run(*self._asked)
        await json_response(done.as_json())(scope, receive, send)
