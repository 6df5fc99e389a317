"""Recordings over HTTP: every format, heard at once or as a job, refused for what they are, their senders' alone."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from tests.api_errors import check_error
from tests.house_for_tests import until
from tests.live_server import LiveServer, live_server, wait_until
from tests.postgres_for_tests import folder
from tests.scripted_provider import API_KEY
from tests.server_sent_events import typed_events
from tests.speech_for_tests import BROWSER_WEBM, PROMISED_FORMATS, encoded
from tests.studio_for_tests import speech
from tests.transcription_server import Status, TranscriptionServer, transcription_server_in_thread

KEYS = {"alice": "key-of-alice-0123456789abcdef0123456789", "bob": "key-of-bob-0123456789abcdef012345678901"}
UPLOAD_MB = 8
WAIT_S = 90
TEXT, PCM = speech(30)
LONG = encoded(PCM, "wav")
SHORT_TEXT, SHORT_PCM = speech(4)
SHORT = encoded(SHORT_PCM, "wav")


@pytest.fixture(scope="module")
def _transcriber() -> Iterator[TranscriptionServer]:
    with transcription_server_in_thread() as server:
        yield server


@pytest.fixture
def transcriber(_transcriber: TranscriptionServer) -> Iterator[TranscriptionServer]:
    yield _transcriber
    _transcriber.gate.set()
    _transcriber.pause_s = 0.0
    _transcriber.check()


@pytest.fixture(scope="module")
def studio(_transcriber: TranscriptionServer) -> Iterator[LiveServer]:
    """A server with its own PostgreSQL, two callers, and OpenAI and Mistral behind it."""
    environment = {
        "API_KEYS": ",".join(f"{name}:{key}" for name, key in KEYS.items()),
        "OPENAI_API_KEY": API_KEY,
        "OPENAI_BASE_URL": _transcriber.base_url,
        "MISTRAL_API_KEY": API_KEY,
        "MISTRAL_BASE_URL": _transcriber.base_url,
        "MAX_UPLOAD_MB_AUDIO": str(UPLOAD_MB),
        "MAX_BODY_BYTES": "100000",
        "AUDIO_PIECE_S": "10",
        "AUDIO_JOBS_PER_CALLER": "3",
        "SSE_PING_S": "0.2",
    }
    with folder() as data_dir, live_server(data_dir, **environment) as server:
        wait_until(lambda: _database_state(server) == "ready", WAIT_S, "the database is ready")
        yield server


def _database_state(server: LiveServer) -> str:
    ready = httpx.get(f"{server.url}/ready", trust_env=False, timeout=60)
    return str(ready.json()["dependencies"]["database"]["state"])


def _client_of(server: LiveServer, name: str) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {KEYS[name]}"}
    return httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False, timeout=60)


@pytest.fixture
async def alice(studio: LiveServer) -> AsyncIterator[httpx.AsyncClient]:
    async with _client_of(studio, "alice") as client:
        yield client


@pytest.fixture
async def bob(studio: LiveServer) -> AsyncIterator[httpx.AsyncClient]:
    async with _client_of(studio, "bob") as client:
        yield client


async def send(
    client: httpx.AsyncClient, path: str, content: bytes = SHORT, name: str = "a.wav", **fields: Any
) -> httpx.Response:
    return await client.post(path, files={"file": (name, content)}, data=fields)


async def until_ended(client: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    async with asyncio.timeout(WAIT_S):
        while True:
            job = (await client.get(f"/transcription/jobs/{job_id}")).json()
            if job["status"] not in {"queued", "running"}:
                return dict(job)
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("kind", [*PROMISED_FORMATS, BROWSER_WEBM])
async def test_every_format_is_heard_word_for_word(
    alice: httpx.AsyncClient, transcriber: TranscriptionServer, kind: str
) -> None:
    answer = await send(alice, "/transcription", encoded(SHORT_PCM, kind), f"a.{kind}")
    assert answer.status_code == 200, answer.text
    content = answer.json()
    assert (content["text"], content["language"], content["model"]) == (SHORT_TEXT, "fr", "whisper-1")
    assert content["duration"] == pytest.approx(len(SHORT_PCM) / 32_000, abs=0.2)
    assert content["segments"][0]["text"] == SHORT_TEXT.split()[0]
    assert content["metadata"]["pricing"]["total_cost"] > 0
    assert content["metadata"]["emissions_gCO2eq"] is None


async def test_a_long_recording_is_cut_and_joined(alice: httpx.AsyncClient, transcriber: TranscriptionServer) -> None:
    content = (await send(alice, "/transcription", LONG)).json()
    assert content["text"] == TEXT
    assert len(transcriber.asked) > 2
    starts = [segment["start"] for segment in content["segments"]]
    assert starts == sorted(starts)
    assert starts[-1] > 20


async def test_fields_may_be_in_the_form_or_in_the_address_and_the_form_goes_before(
    alice: httpx.AsyncClient, transcriber: TranscriptionServer
) -> None:
    await send(alice, "/transcription?language=en&prompt=Grace", prompt="Ada")
    await send(alice, "/transcription?model=gpt-4o-transcribe&language=fr-FR")
    first, second = transcriber.asked
    assert (first.fields["language"], first.fields["prompt"], first.fields["model"]) == ("en", "Ada", "whisper-1")
    assert (second.fields["language"], second.fields["model"]) == ("fr", "gpt-4o-transcribe")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"language": "klingon"}, "language: 'klingon'"),
        ({"context": "both"}, "context: 'both'"),
        ({"max_duration_seconds": "2"}, "lasts 3"),
        ({"max_duration_seconds": "soon"}, "max_duration_seconds: 'soon'"),
        ({"model": "whisper-9"}, "'whisper-9'"),
        ({"model": "gpt-4o"}, "'gpt-4o'"),
        ({"speed": "2"}, "speed: unknown field"),
        ({"prompt": "x" * 5000}, "prompt: 5000 characters"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
async def test_a_wish_that_cannot_be_fulfilled_is_named(
    alice: httpx.AsyncClient, transcriber: TranscriptionServer, fields: dict[str, str], named: str
) -> None:
    for path in ("/transcription", "/transcription/jobs"):
        answer = await send(alice, path, **fields)
        assert named in check_error(answer, 400, answer.json()["error"]["code"])
    assert transcriber.asked == []


async def test_the_longest_duration_is_told_beside_the_recordings(alice: httpx.AsyncClient) -> None:
    answer = await send(alice, "/transcription/meeting", max_duration_seconds="2")
    message = check_error(answer, 400, "invalid_parameter")
    assert f"{len(SHORT_PCM) / 32_000:.1f} s" in message
    assert "2 s allowed" in message


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"Bonjour.\n" * 500, 415, "unsupported_media_type"),
        (b"%PDF-1.7\n" + b"x" * 5000, 415, "unsupported_media_type"),
        (b"#EXTM3U\nhttp://127.0.0.1:1/a.ts\n" * 50, 415, "unsupported_media_type"),
        (b"", 400, "bad_request"),
        (SHORT[:30_000], 400, "bad_request"),
    ],
    ids=["text", "pdf", "playlist", "empty", "truncated"],
)
async def test_what_is_no_whole_recording_is_refused_whatever_its_name(
    alice: httpx.AsyncClient, transcriber: TranscriptionServer, content: bytes, status: int, code: str
) -> None:
    for path in ("/transcription", "/transcription/jobs"):
        assert check_error(await send(alice, path, content, "a.mp3"), status, code).startswith("file: ")
    assert transcriber.asked == []


async def test_a_body_that_is_declared_too_large_is_refused_before_it_is_read(studio: LiveServer) -> None:
    declared = UPLOAD_MB * 1_048_576 + 70_000
    for path in ("/transcription", "/transcription/meeting/jobs", "/v1/audio/transcriptions"):
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        head += f"Authorization: Bearer {KEYS['alice']}\r\nContent-Length: {declared}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", studio.port), timeout=60) as connection:
            await asyncio.to_thread(connection.sendall, head.encode())
            answer = await asyncio.to_thread(connection.recv, 4096)
        assert b" 413 " in answer.split(b"\r\n")[0]


async def test_a_body_of_no_declared_length_is_counted(alice: httpx.AsyncClient) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        for _ in range(UPLOAD_MB + 2):
            yield b"x" * 1_048_576

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = await alice.post("/transcription", content=parts(), headers=headers)
    assert "MAX_UPLOAD_MB_AUDIO" in check_error(answer, 413, "payload_too_large")


async def test_without_a_credential_nothing_of_the_body_is_read(studio: LiveServer) -> None:
    head = "POST /transcription/jobs HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    head += "Content-Length: 4000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", studio.port), timeout=60) as connection:
        await asyncio.to_thread(connection.sendall, head.encode())
        answer = await asyncio.to_thread(connection.recv, 4096)
    assert b" 401 " in answer.split(b"\r\n")[0], "the answer comes though the body never does"


async def test_who_hangs_up_ends_the_hearing(
    studio: LiveServer, alice: httpx.AsyncClient, transcriber: TranscriptionServer
) -> None:
    transcriber.gate.clear()
    left_before = transcriber.left_early
    asking = asyncio.create_task(send(alice, "/transcription"))
    await until(lambda: transcriber.open_now == 1, WAIT_S)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await until(lambda: transcriber.open_now == 0, WAIT_S)
    assert transcriber.left_early == left_before + 1
    rows = await asyncio.to_thread(studio.wait_for_rows, 1, "status = 'cancelled' AND audio_s IS NOT NULL")
    assert rows[0]["estimated"]


async def test_a_provider_that_is_down_is_the_callers_to_hear_with_its_status(
    alice: httpx.AsyncClient, transcriber: TranscriptionServer
) -> None:
    transcriber.play(*[Status(503)] * 3)
    answer = await send(alice, "/transcription", model="gpt-transcribe")
    assert "openai answered 503" in check_error(answer, 502, "provider_refused")


async def test_a_job_is_followed_to_its_end(alice: httpx.AsyncClient, transcriber: TranscriptionServer) -> None:
    transcriber.pause_s = 0.7
    queued = await send(alice, "/transcription/jobs", LONG, "réunion.wav", language="fr")
    assert queued.status_code == 202
    assert queued.json().keys() == {"job_id", "status", "created_at"}
    assert queued.json()["status"] == "queued"
    path = f"/transcription/jobs/{queued.json()['job_id']}"
    async with alice.stream("GET", f"{path}/events") as stream:
        events = typed_events((await stream.aread()).decode())
    kinds = [kind for kind, _ in events]
    assert kinds[-1] == "succeeded"
    assert set(kinds[:-1]) == {"progress"}
    percents = [content["progress_percent"] for _, content in events]
    assert percents == sorted(percents)
    assert any(0 < percent < 100 for percent in percents)
    job = (await alice.get(path)).json()
    assert job == events[-1][1]
    assert (job["transcript_text"], job["transcript_language"], job["transcript_model"]) == (TEXT, "fr", "whisper-1")
    assert (job["job_type"], job["filename"], job["error"]) == ("transcription_audio", "réunion.wav", None)
    assert job["transcript_duration"] == job["duration"] == pytest.approx(len(PCM) / 32_000, abs=0.2)
    assert (await alice.delete(path)).status_code == 204
    check_error(await alice.get(path), 404, "not_found")


async def test_jobs_are_their_senders_alone(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient, transcriber: TranscriptionServer
) -> None:
    job_id = (await send(alice, "/transcription/jobs")).json()["job_id"]
    path = f"/transcription/jobs/{job_id}"
    for answer in (await bob.get(path), await bob.get(f"{path}/events"), await bob.delete(path)):
        check_error(answer, 404, "not_found")
    assert (await bob.get("/transcription/jobs")).json() == {"jobs": [], "total": 0}
    assert job_id in [job["job_id"] for job in (await alice.get("/transcription/jobs")).json()["jobs"]]
    assert (await until_ended(alice, job_id))["transcript_text"] == SHORT_TEXT


async def test_a_job_is_cancelled_at_work_and_the_next_begins(
    alice: httpx.AsyncClient, transcriber: TranscriptionServer
) -> None:
    transcriber.gate.clear()
    first, second = [(await send(alice, "/transcription/jobs")).json()["job_id"] for _ in range(2)]
    await until(lambda: len(transcriber.asked) == 1, WAIT_S)
    cancelled = await alice.delete(f"/transcription/jobs/{first}")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    await until(lambda: len(transcriber.asked) == 2, WAIT_S)
    transcriber.gate.set()
    assert (await until_ended(alice, second))["status"] == "succeeded"
    assert (await until_ended(alice, first))["status"] == "cancelled"


async def test_who_has_too_many_unfinished_jobs_is_told_before_the_body_is_read(
    alice: httpx.AsyncClient, transcriber: TranscriptionServer
) -> None:
    transcriber.gate.clear()
    jobs = [(await send(alice, "/transcription/jobs")).json()["job_id"] for _ in range(3)]
    answer = await send(alice, "/transcription/jobs", b"not even read")
    assert "AUDIO_JOBS_PER_CALLER" in check_error(answer, 429, "too_many_jobs")
    assert answer.headers["retry-after"]
    transcriber.gate.set()
    for job_id in jobs:
        assert (await until_ended(alice, job_id))["status"] == "succeeded"


async def test_what_can_be_sent_is_what_is_enforced(alice: httpx.AsyncClient) -> None:
    formats = (await alice.get("/transcription/supported-formats")).json()
    assert formats["supported_formats"] == list(PROMISED_FORMATS)
    assert formats["max_file_size_mb"] == UPLOAD_MB
    assert (formats["model"], formats["meeting_model"]) == ("whisper-1", "gpt-4o-transcribe")
    assert {"fr", "en"} <= set(formats["languages"])


async def test_the_lists_say_who_transcribes(alice: httpx.AsyncClient) -> None:
    models = {model["name"]: model for model in (await alice.get("/models")).json()["models"]}
    whisper = models["whisper-1"]
    assert (whisper["type"], whisper["available"], whisper["context_window"]) == ("transcription", True, None)
    assert whisper["prices"] == {"per_audio_minute_usd": 0.006, "priced_by": whisper["prices"]["priced_by"]}
    listed = {model["id"]: model for model in (await alice.get("/v1/models")).json()["data"]}
    assert listed["whisper-1"]["available"]
    assert json.dumps(listed["gpt-transcribe"])
