"""A strict provider of transcription under real HTTP: OpenAI's or Mistral's `/audio/transcriptions`.

It hears the language of tones, and so its text is exactly what was sent. What a request got wrong is kept, and leaving
the block fails when anything was. `plays` are answers for the next requests instead of hearing; it may run in a thread.
"""

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import av
from aiohttp import web

from tests.scripted_provider import API_KEY
from tests.tone_language import Word, heard

WAIT_S = 30.0
MAX_BYTES = 26_214_400
MAX_S = 1400.0
OPENAI_MODELS = {"whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe", "gpt-transcribe"}
FIELDS = {
    "whisper-1": {"language", "prompt", "response_format", "timestamp_granularities[]"},
    "gpt-4o-transcribe": {"language", "prompt", "response_format"},
    "gpt-4o-mini-transcribe": {"language", "prompt", "response_format"},
    "gpt-transcribe": {"languages[]", "prompt", "response_format"},
    "voxtral-mini-latest": {"language", "timestamp_granularities"},
    "tones": {"language", "prompt", "response_format", "timestamp_granularities[]"},
}


@dataclass(frozen=True, slots=True)
class Status:
    """Answer with this status and headers instead of a transcript."""

    status: int
    body: Any = None
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Said:
    """Answer with this body, as it is."""

    body: Any


@dataclass(frozen=True, slots=True)
class Cut:
    """Break the connection before the end of the answer."""


@dataclass(frozen=True, slots=True)
class Silence:
    """Say nothing until the client goes, or the test is over."""


Play = Status | Said | Cut | Silence


@dataclass
class Asked:
    """One request: its fields, and what was heard in its file."""

    fields: dict[str, str]
    words: list[str]
    audio_s: float

    @property
    def text(self) -> str:
        return " ".join(self.words)


@dataclass
class TranscriptionServer:
    """`gate` holds answers back while it is not set; `asked` is every request that was well-formed."""

    base_url: str
    key: str | None
    plays: list[Play] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    pause_s: float = 0.0
    open_now: int = 0
    most_open: int = 0
    left_early: int = 0
    gate: threading.Event = field(default_factory=threading.Event)

    def play(self, *answers: Play) -> None:
        """For the next requests, in order."""
        self.plays += answers

    def check(self) -> None:
        """No request was ill-formed, and each answer was asked for."""
        complaints, left = self.complaints, self.plays
        self.complaints, self.plays, self.asked = [], [], []
        assert not complaints, complaints
        assert not left, f"{len(left)} answers were never asked for"


@asynccontextmanager
async def transcription_server(*plays: Play, key: str | None = API_KEY) -> AsyncIterator[TranscriptionServer]:
    """In this event loop. Leaving the block checks what was asked."""
    server = TranscriptionServer("", key, list(plays))
    server.gate.set()

    async def answer(request: web.Request) -> web.StreamResponse:
        return await _answer(server, request)

    app = web.Application(client_max_size=64_000_000)
    app.router.add_post("/v1/audio/transcriptions", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield server
        server.check()
    finally:
        server.gate.set()
        await runner.cleanup()


@contextmanager
def transcription_server_in_thread(key: str | None = API_KEY) -> Iterator[TranscriptionServer]:
    """In a thread of its own, for servers that outlive a test."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="transcription server", daemon=True)
    thread.start()
    serving = transcription_server(key=key)
    try:
        yield asyncio.run_coroutine_threadsafe(serving.__aenter__(), loop).result(WAIT_S)
        asyncio.run_coroutine_threadsafe(serving.__aexit__(None, None, None), loop).result(WAIT_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT_S)
        loop.close()


async def _answer(server: TranscriptionServer, request: web.Request) -> web.StreamResponse:
    server.open_now += 1
    server.most_open = max(server.most_open, server.open_now)
    try:
        return await _answered(server, request)
    except asyncio.CancelledError:
        server.left_early += 1
        raise
    finally:
        server.open_now -= 1


async def _answered(server: TranscriptionServer, request: web.Request) -> web.StreamResponse:
    form = await request.post()
    fields = {name: value for name, value in form.items() if isinstance(value, str)}
    file = form.get("file")
    content = b""
    if isinstance(file, web.FileField):
        with file.file:
            content = file.file.read()
    if wrong := _complaints(server, request, fields, file, content):
        server.complaints += wrong
        return web.json_response({"error": {"message": "; ".join(wrong)}}, status=400)
    words = await asyncio.to_thread(heard, content)
    audio_s = _seconds(content)
    server.asked.append(Asked(fields, [word.text for word in words], audio_s))
    if server.plays:
        return await _played(server, server.plays.pop(0), request)
    await asyncio.sleep(server.pause_s)
    await _opened(server)
    return web.json_response(_body(fields, words, audio_s))


async def _played(server: TranscriptionServer, play: Play, request: web.Request) -> web.StreamResponse:
    match play:
        case Status():
            body = play.body if play.body is not None else {"error": {"message": f"scripted {play.status}"}}
            return web.json_response(body, status=play.status, headers=dict(play.headers))
        case Said():
            return web.json_response(play.body)
        case Cut():
            response = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
            await response.prepare(request)
            await response.write(b'{"text": "ha')
            assert request.transport is not None
            request.transport.close()
            return response
        case Silence():
            server.gate.clear()
            await _opened(server)
            return web.json_response({})


async def _opened(server: TranscriptionServer) -> None:
    while not server.gate.is_set():  # noqa: ASYNC110 - opened from other threads
        await asyncio.sleep(0.01)


def _body(fields: dict[str, str], words: list[Word], audio_s: float) -> dict[str, Any]:
    """As the vendor answers: times for whisper-1 and Voxtral, tokens for the GPT family."""
    text = " ".join(word.text for word in words)
    segments = [
        {"id": place, "start": word.start_s, "end": word.end_s, "text": f" {word.text}"}
        for place, word in enumerate(words)
    ]
    model = fields["model"]
    if model == "voxtral-mini-latest":
        usage: dict[str, Any] = {
            "prompt_audio_seconds": round(audio_s),
            "prompt_tokens": 4,
            "completion_tokens": len(words),
            "total_tokens": len(words) + 4,
        }
        timed = "timestamp_granularities" in fields
        return {"model": model, "text": text, "language": None, "segments": segments if timed else [], "usage": usage}
    if fields.get("response_format") == "verbose_json":
        usage = {"type": "duration", "seconds": round(audio_s)}
        language = {"en": "english"}.get(fields.get("language", ""), "french")
        return {
            "task": "transcribe",
            "language": language,
            "duration": audio_s,
            "text": text,
            "segments": segments,
            "usage": usage,
        }
    if model == "gpt-transcribe":
        return {"text": text, "usage": {"type": "duration", "seconds": round(audio_s)}}
    read, written = round(audio_s * 10), len(words)
    usage = {"type": "tokens", "input_tokens": read, "output_tokens": written, "total_tokens": read + written}
    return {"text": text, "usage": usage}


def _complaints(
    server: TranscriptionServer, request: web.Request, fields: dict[str, str], file: Any, content: bytes
) -> list[str]:
    """Everything that a vendor would refuse, or that the server promised."""
    wrong = []
    expected = None if server.key is None else f"Bearer {server.key}"
    if request.headers.get("Authorization") != expected:
        wrong.append("the credential")
    model = fields.get("model", "none")
    if model not in FIELDS:
        return [*wrong, f"model {model!r}"]
    if unknown := fields.keys() - FIELDS[model] - {"model"}:
        wrong.append(f"{model} knows no {sorted(unknown)}")
    asked = fields.get("response_format")
    if model.startswith("gpt-") and asked not in {"json", None}:
        wrong.append(f"{model} answers no {asked}")
    if "timestamp_granularities[]" in fields and asked != "verbose_json":
        wrong.append("times without verbose_json")
    if "timestamp_granularities" in fields and "language" in fields:
        wrong.append("Voxtral gives times or takes a language")
    if len(fields.get("prompt", "x").split()) not in range(1, 201):
        wrong.append("a prompt of no words, or of over 200")
    if not isinstance(file, web.FileField) or file.content_type != "audio/mpeg" or not file.filename.endswith(".mp3"):
        return [*wrong, "the file is no audio/mpeg"]
    return wrong + _file_complaints(content)


def _file_complaints(content: bytes) -> list[str]:
    wrong = []
    if not 0 < len(content) <= MAX_BYTES:
        wrong.append(f"{len(content)} bytes")
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.audio[0]
        if container.format.name != "mp3" or stream.rate != 16_000 or stream.channels != 1:
            wrong.append(f"{container.format.name}, {stream.rate} Hz, {stream.channels} channels")
        if abs((stream.bit_rate or 0) - 128_000) > 1_000:
            wrong.append(f"{stream.bit_rate} bits a second")
    if _seconds(content) > MAX_S:
        wrong.append("longer than 1400 s")
    return wrong


def _seconds(content: bytes) -> float:
    return len(content) / 16_000
