"""What a caller wants done with a recording, checked before anything is read or paid."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from domain.audio import LANGUAGES
from domain.errors import InvalidParameter
from services.audio.hearing import Context
from services.rag.projects import check_project_id

JobType = Literal["transcription_audio", "transcription_meeting"]
CONTEXTS: tuple[Context, ...] = ("chained", "parallel")
MAX_PROMPT_CHARS = 4_000
NAMES = {name.casefold(): code for code, name in LANGUAGES.items()}


@dataclass(frozen=True, slots=True)
class Wishes:
    """`model` names a model or a route; `language` is an ISO 639-1 code; both `None` leave the choice to the server."""

    job_type: JobType = "transcription_audio"
    model: str | None = None
    language: str | None = None
    prompt: str | None = None
    context: Context = "chained"
    project_id: str | None = None
    max_duration_s: float | None = None
    times: bool = False
    """Whether the times of what is said are what is asked for: subtitles."""

    @property
    def is_meeting(self) -> bool:
        return self.job_type == "transcription_meeting"

    def check_duration(self, duration_s: float) -> None:
        """Raises `InvalidParameter` for a recording longer than the caller wants to pay for."""
        if self.max_duration_s is not None and duration_s > self.max_duration_s:
            problem = f"the recording lasts {duration_s:.1f} s, more than the {self.max_duration_s:g} s allowed"
            raise InvalidParameter("max_duration_seconds", f"{problem}; allow more, or send a part of it")


def wishes_of(fields: Mapping[str, str], job_type: JobType) -> Wishes:
    """What was sent as text, empty fields left out. Raises `InvalidParameter` naming the field and its value."""
    sent = {name: value.strip() for name, value in fields.items() if value.strip()}
    prompt = sent.get("prompt")
    if prompt is not None and len(prompt) > MAX_PROMPT_CHARS:
        raise InvalidParameter("prompt", f"{len(prompt)} characters are too many: {MAX_PROMPT_CHARS} at most")
    if (project_id := sent.get("project_id")) is not None:
        check_project_id(project_id)
    return Wishes(
        job_type=job_type,
        model=sent.get("model"),
        language=language_of(sent.get("language")),
        prompt=prompt,
        context=_context(sent.get("context", "chained")),
        project_id=project_id,
        max_duration_s=_seconds(sent.get("max_duration_seconds")),
    )


def language_of(sent: str | None) -> str | None:
    """The ISO 639-1 code of `fr`, `fr-FR` or `French`; `None` for `auto`."""
    if sent is None or sent.casefold() == "auto":
        return None
    code = sent.casefold().replace("_", "-").partition("-")[0]
    found = code if code in LANGUAGES else NAMES.get(sent.casefold())
    if found is None:
        known = ", ".join(LANGUAGES)
        raise InvalidParameter("language", f"{sent[:40]!r} is not known; leave it out, or send one of {known}")
    return found


def _context(sent: str) -> Context:
    for context in CONTEXTS:
        if sent == context:
            return context
    raise InvalidParameter("context", f"{sent[:40]!r}: send 'chained' or 'parallel'")


def _seconds(sent: str | None) -> float | None:
    if sent is None:
        return None
    try:
        seconds = float(sent)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InvalidParameter("max_duration_seconds", f"{sent[:40]!r}: send a number of seconds above 0")
    return seconds
