"""Transcription over HTTP, in OpenAI's format: OpenAI, Mistral, and every endpoint that speaks it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import aiohttp
import orjson
from pydantic import SecretStr

from config.catalogue import ModelEntry
from core.http_client import HttpClient
from domain.audio import LANGUAGES, Heard, Segment
from domain.usage import TokenUsage
from services.audio.transcribers.transcriber import TranscriptionCall
from services.llm.providers.whole_call import WholeCall, post_whole, reading

MAX_ANSWER_BYTES = 16_000_000
"""Half an hour of speech with the time of each word takes one or two MB."""
WHAT = "a transcript"
MOST_COUNTED = 1e9
"""Of seconds or tokens of one call: what is above is no count."""

_CODES = {name.casefold(): code for code, name in LANGUAGES.items()}


@dataclass(slots=True)
class ApiTranscriber:
    """One endpoint. `key_setting` names the setting its key comes from; `None` where it asks for no key.

    `timeout_s` is for a whole call. `is_mistral` says whose spelling of the fields for times is meant.
    """

    name: str
    http: HttpClient
    base_url: str
    api_key: SecretStr | None
    timeout_s: float
    key_setting: str | None = None
    is_mistral: bool = False

    def unavailable_reason(self, model: ModelEntry, credential: Any = None) -> str | None:
        if self.key_setting is not None and self.api_key is None:
            return f"{model.id!r} needs the setting {self.key_setting}"
        return None

    async def transcribe(self, call: TranscriptionCall) -> Heard:
        url = f"{self.base_url.rstrip('/')}/audio/transcriptions"
        asked = WholeCall(self.name, url, self.api_key, WHAT, self.timeout_s, MAX_ANSWER_BYTES)
        # Not in a thread: it is quick, and what a thread opens is nobody's when the call is cancelled meanwhile.
        with call.path.open("rb") as file:
            answer = await post_whole(self.http, asked, self._form(call, file), {})
        with reading(self.name, WHAT):
            parsed = orjson.loads(answer)
            call.usage = _usage(parsed.get("usage"))
            return _heard(parsed, call)

    def _form(self, call: TranscriptionCall, file: BinaryIO) -> aiohttp.FormData:
        form = aiohttp.FormData()
        fields = {"model": call.model.name_on_wire, **self._wanted(call)}
        for name, value in fields.items():
            form.add_field(name, value)
        form.add_field("file", file, filename="audio.mp3", content_type="audio/mpeg")
        return form

    def _wanted(self, call: TranscriptionCall) -> Mapping[str, str]:
        """The fields that the model knows."""
        limits = call.model.hears
        wanted: dict[str, str] = {}
        if call.language is not None:
            wanted[limits.language_field] = call.language
        if call.prompt is not None:
            wanted["prompt"] = call.prompt
        if self.is_mistral:
            # It gives times or takes a language, not both (https://docs.mistral.ai/capabilities/audio_transcription).
            if limits.timestamps and (call.times or call.language is None):
                wanted.pop(limits.language_field, None)
                wanted["timestamp_granularities"] = "segment"
        elif limits.timestamps:
            wanted |= {"response_format": "verbose_json", "timestamp_granularities[]": "segment"}
        else:
            wanted["response_format"] = "json"
        return wanted


def _heard(parsed: Any, call: TranscriptionCall) -> Heard:
    text = parsed["text"]
    if not isinstance(text, str):
        raise TypeError("a text that is none")
    segments = parsed.get("segments")
    return Heard(
        text=text.strip(),
        language=_language(parsed.get("language")) or call.language,
        segments=tuple(_segment(each) for each in segments) if segments else (None if text.strip() else ()),
    )


def _segment(said: Any) -> Segment:
    start_s, end_s, text = float(said["start"]), float(said["end"]), said["text"]
    if not (math.isfinite(start_s) and math.isfinite(end_s) and start_s >= 0 and isinstance(text, str)):
        raise ValueError("a segment without its times or its text")
    return Segment(start_s, max(start_s, end_s), text.strip())


def _language(said: Any) -> str | None:
    """The code of `french`, `fr` or `fr-FR`; `None` for anything else."""
    if not isinstance(said, str):
        return None
    lowered = said.casefold()
    code = lowered.partition("-")[0]
    return _CODES.get(lowered) or (code if code in LANGUAGES else None)


def _usage(said: Any) -> TokenUsage | None:
    """What the provider counted: seconds (OpenAI: `seconds`, Mistral: `prompt_audio_seconds`), tokens, or nothing."""
    if not isinstance(said, dict):
        return None
    heard_s = _count(said.get("seconds", said.get("prompt_audio_seconds")))
    read = _count(said.get("input_tokens", said.get("prompt_tokens")))
    written = _count(said.get("output_tokens", said.get("completion_tokens")))
    if heard_s is None and (read is None or written is None):
        return None
    return TokenUsage(_whole(read), _whole(written), audio_s=heard_s)


def _whole(count: float | None) -> int | None:
    return None if count is None else int(count)


def _count(said: Any) -> float | None:
    is_count = isinstance(said, int | float) and not isinstance(said, bool) and 0 <= said < MOST_COUNTED
    return float(said) if is_count else None
