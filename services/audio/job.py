"""A transcription job as its owner sees it, and as the work on it does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from services.audio.hearing import Context
from services.audio.wishes import JobType

JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ENDED: frozenset[JobStatus] = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Job:
    """`transcript` is set once the job has succeeded (`services.audio.transcript_format`); `error` says why it failed,
    or what it waits for."""

    job_id: UUID
    job_type: JobType
    status: JobStatus
    filename: str
    size_bytes: int
    duration_s: float
    progress_percent: float
    transcript: Mapping[str, Any] | None
    error: str | None
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Taken:
    """A job that this attempt works on. `calls` is what was consumed in attempts before."""

    job_id: UUID
    claim: UUID
    owner: str
    job_type: JobType
    request_id: str
    project_id: str | None
    requested_model: str | None
    language: str | None
    prompt: str | None
    context: Context
    duration_s: float
    target_s: float
    max_s: float
    attempts: int
    error: str | None
    calls: Sequence[Mapping[str, Any]]
    created_at: datetime
