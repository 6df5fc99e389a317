"""POST /v1/audio/transcriptions: a recording as text, in OpenAI's format."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from api.deps import CurrentServices, CurrentToken, Services
from api.error_shapes import Problem, openai_error
from api.errors import request_id_of
from api.json_response import encoded, json_response
from api.openai.consumption import impact_figures
from api.openai.schemas import TRANSCRIPTIONS_BODY, TRANSCRIPTIONS_RESPONSES
from api.recordings import Received, received_recording
from api.run_response import EventStream, RunResponse
from domain.audio import LANGUAGES, Segment
from domain.errors import InvalidParameter, RouteurError
from domain.principals import Principal
from domain.transcripts import Transcript
from services.accounting.metadata import usage_tokens
from services.audio.transcription import OnHeard, Recording, Transcribed, Transcriptions, nobody
from services.audio.wishes import Wishes, wishes_of

router = APIRouter(prefix="/v1", tags=["openai"])

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
WITH_TIMES = frozenset({"srt", "vtt", "verbose_json"})
HELD_BACK_WORDS = 20
"""More than an overlap of two pieces holds (`domain/transcripts.py`)."""
OURS = ("model", "language", "prompt", "context", "project_id", "max_duration_seconds")


@router.post(
    "/audio/transcriptions",
    summary="Transcribe",
    responses=TRANSCRIPTIONS_RESPONSES,
    openapi_extra=TRANSCRIPTIONS_BODY,
)
async def transcribe(request: Request, services: CurrentServices, caller: CurrentToken) -> Response:
    """As OpenAI's clients send it. Recordings of any length: they are cut and joined here.

    `stream` sends the text of each piece as it is heard. The answer as JSON carries `impact`.
    """
    open_files = AsyncExitStack()
    received = await open_files.enter_async_context(received_recording(request, services, None))
    try:
        wishes = wishes_of({name: received.fields.get(name, "") for name in OURS}, "transcription_audio")
        wishes.check_duration(received.recording.duration_s)
        response_format = _format_of(received, wishes, services)
        wishes = replace(wishes, times=response_format in WITH_TIMES)
    except BaseException:
        await open_files.aclose()
        raise
    asked = _Asked(
        services.studio.transcriptions,
        received.recording,
        wishes,
        caller.principal,
        request_id_of(request),
        open_files,
    )
    if received.fields.get("stream", "").lower() in {"true", "1"}:
        return _Streamed(asked, services.settings.sse_ping_s)
    return _Whole(asked, response_format)


def _format_of(received: Received, wishes: Wishes, services: Services) -> str:
    """Raises `InvalidParameter` for one that does not exist, or that the model has no times for."""
    asked = received.fields.get("response_format") or "json"
    if asked not in FORMATS:
        raise InvalidParameter("response_format", f"{asked[:40]!r}: send one of {', '.join(FORMATS)}")
    model = services.studio.transcriptions.plan(wishes).first
    if asked in WITH_TIMES and not model.hears.timestamps:
        able = [each.id for each in services.router.catalogue.models if each.audio and each.audio.timestamps]
        problem = f"{model.id!r} gives no times, which {asked!r} is made of; send 'json' or 'text'"
        raise InvalidParameter("response_format", f"{problem}, or name one of {', '.join(able)}")
    return asked


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is to be heard; `open_files` hold it until it was."""

    transcriptions: Transcriptions
    recording: Recording
    wishes: Wishes
    principal: Principal
    request_id: str
    open_files: AsyncExitStack

    async def run(self, on_heard: OnHeard) -> Transcribed:
        async with self.open_files:
            return await self.transcriptions.run(self.recording, self.wishes, self.principal, self.request_id, on_heard)


class _Whole(RunResponse):
    """The work is done inside the answer, so that it ends when the client goes."""

    def __init__(self, asked: _Asked, response_format: str) -> None:
        super().__init__()
        self._asked = asked
        self._format = response_format

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _shaped(await self._asked.run(nobody), self._format)(scope, receive, send)


class _Streamed(EventStream):
    """`transcript.text.delta` for what is certain of each piece, `transcript.text.done` at the end."""

    def __init__(self, asked: _Asked, ping_s: float) -> None:
        super().__init__(ping_s)
        self._asked = asked
        self._sent = 0
        self._telling = asyncio.Lock()

    async def _pump(self, send: Send) -> None:
        async def tell(so_far: Transcript) -> None:
            # The next piece may take back a few words that it holds as well.
            certain, *held = so_far.text.rsplit(maxsplit=HELD_BACK_WORDS) or [""]
            if len(held) == HELD_BACK_WORDS:
                await self._tell(send, certain)

        try:
            done = await self._asked.run(tell)
        except RouteurError as error:
            if not self._started:
                raise
            # After the first word it is an event: OpenAI's clients raise it.
            await self._send(send, _error(error, self._asked.request_id))
            return
        text = done.transcript.text
        await self._tell(send, text)
        await self._send(send, _event("transcript.text.done", text=text, usage=_usage(done), impact=_impact(done)))

    async def _tell(self, send: Send, text: str) -> None:
        """One at a time: pieces that are heard at once end at once."""
        async with self._telling:
            if len(text) > self._sent:
                await self._send(send, _event("transcript.text.delta", delta=text[self._sent :]))
                self._sent = len(text)


def _shaped(done: Transcribed, response_format: str) -> Response:
    transcript = done.transcript
    match response_format:
        case "text":
            return PlainTextResponse(transcript.text + "\n")
        case "srt":
            return PlainTextResponse(_srt(_timed(transcript)))
        case "vtt":
            return PlainTextResponse(_vtt(_timed(transcript)), media_type="text/vtt")
        case "verbose_json":
            return json_response({**_verbose(transcript), "usage": _usage(done), "impact": _impact(done)})
        case _:
            return json_response({"text": transcript.text, "usage": _usage(done), "impact": _impact(done)})


def _timed(transcript: Transcript) -> tuple[Segment, ...]:
    """Each phrase at its time; where a stand-in gave none, each piece at its own."""
    return transcript.stretches if transcript.segments is None else transcript.segments


def _verbose(transcript: Transcript) -> dict[str, Any]:
    """Whisper's own figures of a segment are not known here: they are null."""
    unknown = dict.fromkeys(("seek", "tokens", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob"))
    return {
        "task": "transcribe",
        "language": LANGUAGES.get(transcript.language or "", transcript.language or "").lower(),
        "duration": transcript.duration_s,
        "text": transcript.text,
        "segments": [
            {"id": place, "start": segment.start_s, "end": segment.end_s, "text": segment.text, **unknown}
            for place, segment in enumerate(_timed(transcript))
        ],
    }


def _usage(done: Transcribed) -> dict[str, Any]:
    """Tokens where the model counts them, else the seconds of audio."""
    usage = done.report.usage
    if usage.input_tokens and usage.total_tokens is not None:
        return {"type": "tokens", **usage_tokens(usage)}
    heard_s = done.transcript.duration_s if usage.audio_s is None else usage.audio_s
    return {"type": "duration", "seconds": round(heard_s, 3)}


def _impact(done: Transcribed) -> dict[str, Any]:
    """Price and emissions as in `/v1/chat/completions`: OpenAI's clients ignore or expose them."""
    return {
        **impact_figures(done.report),
        "model": done.transcript.model,
        "requested_model": done.hearing.requested_model,
        "fallbacks": [{"model": hop.model, "reason": hop.reason} for hop in done.transcript.hops],
        "run_id": str(done.hearing.run_id),
        "request_id": done.hearing.request_id,
    }


def _srt(segments: tuple[Segment, ...]) -> str:
    return "".join(
        f"{place}\n{_clock(segment.start_s, ',')} --> {_clock(segment.end_s, ',')}\n{segment.text}\n\n"
        for place, segment in enumerate(segments, 1)
    )


def _vtt(segments: tuple[Segment, ...]) -> str:
    cues = (f"{_clock(each.start_s, '.')} --> {_clock(each.end_s, '.')}\n{each.text}\n\n" for each in segments)
    return "WEBVTT\n\n" + "".join(cues)


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"


def _error(error: RouteurError, request_id: str) -> bytes:
    return b"data: %s\n\n" % encoded({"error": openai_error(Problem.of(error, request_id))})


def _event(kind: str, **content: Any) -> bytes:
    return b"data: %s\n\n" % encoded({"type": kind, **content})
