"""A recording as it arrives at a door: read to the disk, its fields checked, and probed for what it really is."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastapi import Request

from api.deps import Services
from api.middleware import BodyLimit
from api.uploads import ENVELOPE_BYTES, ReceivedFile, UploadRules, received_file
from config.settings import Settings
from services.audio.transcription import Recording

PATHS = re.compile(r"/transcription(/meeting)?(/jobs)?|/v1/audio/transcriptions")
BYTES_PER_MB = 1_048_576
SETTING = "MAX_UPLOAD_MB_AUDIO"
LONGEST_NAME = 255
WRITTEN_TIMES = 3.0
"""For a job: the upload, its copy in the database and that of the database's log may all be on one disk."""


@dataclass(frozen=True, slots=True)
class Received:
    """A recording that was read and probed. `file` is open until the block is left; `fields` came beside it."""

    filename: str
    size_bytes: int
    fields: Mapping[str, str]
    file: BinaryIO
    recording: Recording


def upload_limit(settings: Settings) -> BodyLimit:
    """The bound on the body of an upload, known before any of it is read."""
    return BodyLimit(settings.max_upload_mb_audio * BYTES_PER_MB + ENVELOPE_BYTES, SETTING, PATHS)


@asynccontextmanager
async def received_recording(
    request: Request, services: Services, fields: frozenset[str] | None, *, written_times: float = 1.0
) -> AsyncIterator[Received]:
    """Raises `BadRequest`, `UnsupportedMedia`, `PayloadTooLarge` or `StorageFull`; nothing of it stays on the disk."""
    studio = services.studio
    rules = UploadRules(
        directory=studio.files,
        max_bytes=services.settings.max_upload_mb_audio * BYTES_PER_MB,
        setting=SETTING,
        check_name=lambda _: None,  # What it is, its bytes tell.
        fields=fields,
        needs_space=written_times,
    )
    async with received_file(request, rules) as received:
        descriptor = received.file.fileno()
        # The file has no name. Another process opens it by its number, on Linux and macOS alike.
        recording = await studio.transcriptions.probe(Path(f"/dev/fd/{descriptor}"), (descriptor,))
        yield Received(
            filename=_shown(received),
            size_bytes=received.size_bytes,
            fields={**request.query_params, **received.fields},  # The form goes before the address.
            file=received.file,
            recording=recording,
        )


def _shown(received: ReceivedFile) -> str:
    """The name alone, fit to be shown. A browser's recording may have none."""
    name = received.filename.replace("\\", "/").rpartition("/")[2]
    shown = "".join(char for char in name if char.isprintable()).strip()
    return shown[-LONGEST_NAME:] or "recording"
