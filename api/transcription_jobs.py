"""Transcription as jobs: send a recording, list your jobs, look at one, follow one, end one."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.deps import CurrentServices, CurrentToken, Services
from api.errors import request_id_of
from api.following import Followed, Following
from api.json_response import encoded, json_response
from api.recordings import WRITTEN_TIMES, received_recording
from api.schemas import MAX_OFFSET, UNAUTHORIZED, answers, error_example
from api.transcription import FIELDS, FORM, PROBLEMS, check_address, wishes_in
from domain.principals import Principal
from services.audio.job import ENDED, Job
from services.audio.jobs import Sent
from services.audio.wishes import JobType

router = APIRouter(tags=["transcription"])

PATH = "/transcription/jobs"
QUEUED_EXAMPLE = {
    "job_id": "5b8e7c1e-5d0f-4a43-9a55-0d9b3a6a7f10",
    "status": "queued",
    "created_at": "2026-11-20T09:30:00+00:00",
}
JOB_EXAMPLE: dict[str, Any] = {
    "job_id": "5b8e7c1e-5d0f-4a43-9a55-0d9b3a6a7f10",
    "status": "succeeded",
    "job_type": "transcription_audio",
    "progress_percent": 100.0,
    "transcript_text": "Bonjour à tous, la réunion commence.",
    "transcript_language": "fr",
    "transcript_duration": 3.2,
    "transcript_model": "whisper-base",
    "error": None,
    "segments": [{"start": 0.0, "end": 3.1, "text": "Bonjour à tous, la réunion commence."}],
    "meeting": None,
    "metadata": {"pricing": {"currency": "EUR", "total_cost": 0.0}},
    "filename": "reunion.m4a",
    "size_bytes": 51200,
    "duration": 3.2,
    "created_at": "2026-11-20T09:30:00+00:00",
    "finished_at": "2026-11-20T09:30:02+00:00",
}
JOB_PROBLEMS: dict[int | str, dict[str, Any]] = {
    404: error_example("not_found", "no transcription job '5b8e…'"),
    503: error_example("database_unavailable", "the database does not answer: try again soon"),
    **UNAUTHORIZED,
}
_QUEUED: dict[int | str, dict[str, Any]] = {
    **PROBLEMS,
    202: {"description": "It will be done.", "content": {"application/json": {"example": QUEUED_EXAMPLE}}},
    429: error_example("too_many_jobs", "100 of your jobs are not finished, and 100 may be (AUDIO_JOBS_PER_CALLER)"),
}


@router.post(PATH, summary="Transcribe in the background", status_code=202, responses=_QUEUED, openapi_extra=FORM)
async def send_recording(request: Request, services: CurrentServices, caller: CurrentToken) -> Response:
    """Takes hours of speech. What was heard is kept piece by piece: no piece is heard twice, whatever is restarted."""
    return await _queue(request, services, caller.principal, "transcription_audio")


@router.post(
    "/transcription/meeting/jobs",
    summary="Transcribe a meeting in the background",
    status_code=202,
    responses=_QUEUED,
    openapi_extra=FORM,
)
async def send_meeting(request: Request, services: CurrentServices, caller: CurrentToken) -> Response:
    """The same, with the account of a meeting beside the transcript."""
    return await _queue(request, services, caller.principal, "transcription_meeting")


@router.get(PATH, summary="List your jobs", responses=answers({"jobs": [JOB_EXAMPLE], "total": 1}) | JOB_PROBLEMS)
async def list_jobs(
    services: CurrentServices,
    caller: CurrentToken,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0, le=MAX_OFFSET)] = 0,
) -> Response:
    """The newest first, without their transcripts: look at one for that."""
    jobs, total = await services.studio.jobs.find(caller.principal, limit=limit, offset=offset)
    return json_response({"jobs": [job_fields(job) for job in jobs], "total": total})


@router.get(PATH + "/{job_id}", summary="Look at a job", responses=answers(JOB_EXAMPLE) | JOB_PROBLEMS)
async def get_job(job_id: str, services: CurrentServices, caller: CurrentToken) -> Response:
    """`progress_percent` counts seconds of audio heard. A failed job's `error` names the piece, and its transcript is
    what was heard of the others."""
    return json_response(job_fields(await services.studio.jobs.get_or_raise(caller.principal, job_id)))


@router.get(
    PATH + "/{job_id}/events",
    summary="Follow a job",
    responses={
        200: {
            "description": "`progress` as often as something changes, then `succeeded`, `failed`, `cancelled`.",
            "content": {
                "text/event-stream": {"example": f"event: succeeded\ndata: {encoded(JOB_EXAMPLE).decode()}\n\n"}
            },
        },
        **JOB_PROBLEMS,
    },
)
async def follow_job(job_id: str, services: CurrentServices, caller: CurrentToken) -> Response:
    """Ends with the job. Each event holds it as GET shows it; a comment keeps a silent line open."""
    jobs, principal = services.studio.jobs, caller.principal

    async def look() -> dict[str, Any]:
        return job_fields(await jobs.get_or_raise(principal, job_id))

    first = await look()
    return Following(services, Followed(look, ENDED, {"job_id": first["job_id"]}), first)


@router.delete(
    PATH + "/{job_id}",
    summary="Cancel a job",
    responses={
        **answers({**JOB_EXAMPLE, "status": "cancelled"}),
        204: {"description": "It had ended: nothing of it is left."},
        **JOB_PROBLEMS,
    },
)
async def end_job(job_id: str, services: CurrentServices, caller: CurrentToken) -> Response:
    """Stops the work on it; the recording goes. A job that has ended is deleted with its transcript."""
    cancelled = await services.studio.jobs.end(caller.principal, job_id)
    return Response(status_code=204) if cancelled is None else json_response(job_fields(cancelled))


def job_fields(job: Job) -> dict[str, Any]:
    """A job as JSON, every field of it."""
    transcript = job.transcript or {}
    return {
        "job_id": job.job_id,
        "status": job.status,
        "job_type": job.job_type,
        "progress_percent": round(job.progress_percent, 1),
        "transcript_text": transcript.get("text"),
        "transcript_language": transcript.get("language"),
        "transcript_duration": transcript.get("duration"),
        "transcript_model": transcript.get("model"),
        "error": job.error,
        "segments": transcript.get("segments"),
        "meeting": transcript.get("meeting"),
        "metadata": transcript.get("metadata"),
        "filename": job.filename,
        "size_bytes": job.size_bytes,
        "duration": job.duration_s,
        "created_at": job.created_at,
        "finished_at": job.finished_at,
    }


async def _queue(request: Request, services: Services, principal: Principal, job_type: JobType) -> Response:
    check_address(request, job_type, services)
    jobs = services.studio.jobs
    await jobs.check_room(principal)
    async with received_recording(request, services, FIELDS, written_times=WRITTEN_TIMES) as received:
        wishes = wishes_in(received, job_type, services)
        sent = Sent(received.filename, received.size_bytes, received.recording.duration_s, received.file)
        job = await jobs.add(sent, wishes, principal, request_id_of(request))
    return json_response({"job_id": job.job_id, "status": job.status, "created_at": job.created_at}, 202)
