"""What a transcriber is: it turns one piece of a recording into text, and says whether it can serve now."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from config.catalogue import ModelEntry
from domain.audio import Heard
from domain.usage import LocalWork, TokenUsage


@dataclass(slots=True)
class TranscriptionCall:
    """One request to one transcription model: an MP3 file of `audio_s` seconds, within the model's limits.

    `language` is an ISO 639-1 code or `None` (the model finds out); `prompt` is text that goes before: names, or the
    end of what was said so far. `usage` is what the provider counted, `local_work` what it cost this machine, both set
    also when the call fails or is cancelled; `None` is not known.
    """

    model: ModelEntry
    path: Path
    audio_s: float
    language: str | None = None
    prompt: str | None = None
    times: bool = False
    """Whether the caller cannot do without the times of what is said."""
    usage: TokenUsage | None = None
    local_work: LocalWork | None = None
    credential: Any = field(default=None, repr=False)


class Transcriber(Protocol):
    """Serves the catalogue's transcription models of its `name`. It neither retries nor logs what was said."""

    name: str

    def unavailable_reason(self, model: ModelEntry, credential: Any = None) -> str | None:
        """Why it cannot serve this model now, naming the way out; `None` when it can. Never calls out."""

    async def transcribe(self, call: TranscriptionCall) -> Heard:
        """What is said in the file; times count from its beginning. Raises `ProviderError` or `BadRequest`."""
