"""POST /v1/audio/transcriptions with the official Python client: every format, streamed, and what is refused."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.live_server import LiveServer, live_server
from tests.postgres_for_tests import folder
from tests.scripted_provider import API_KEY
from tests.speech_for_tests import encoded
from tests.studio_for_tests import speech
from tests.transcription_server import Said, Status, TranscriptionServer, transcription_server_in_thread

TEXT, PCM = speech(30)
LONG = encoded(PCM, "mp3")
SHORT_TEXT, SHORT_PCM = speech(3)
SHORT = encoded(SHORT_PCM, "wav")


@pytest.fixture(scope="module")
def _transcriber() -> Iterator[TranscriptionServer]:
    with transcription_server_in_thread() as server:
        yield server


@pytest.fixture
def transcriber(_transcriber: TranscriptionServer) -> Iterator[TranscriptionServer]:
    yield _transcriber
    _transcriber.check()


@pytest.fixture(scope="module")
def studio(_transcriber: TranscriptionServer) -> Iterator[LiveServer]:
    """Without a database: what is heard within a request needs none."""
    environment = {"OPENAI_API_KEY": API_KEY, "OPENAI_BASE_URL": _transcriber.base_url, "AUDIO_PIECE_S": "10"}
    environment |= {"MISTRAL_API_KEY": API_KEY, "MISTRAL_BASE_URL": _transcriber.base_url}
    with folder() as data_dir, live_server(data_dir, database=False, **environment) as server:
        yield server


@pytest.fixture
def client(studio: LiveServer) -> Iterator[openai.OpenAI]:
    http = openai.DefaultHttpxClient(trust_env=False)
    url = f"{studio.url}/v1"
    with openai.OpenAI(base_url=url, api_key=studio.token(), max_retries=0, http_client=http, timeout=90) as client:
        yield client


def test_a_long_recording_comes_back_whole_with_its_price(
    client: openai.OpenAI, transcriber: TranscriptionServer
) -> None:
    answer = client.audio.transcriptions.create(file=("long.mp3", LONG), model="whisper-1", prompt="Ada", language="fr")
    assert answer.text == TEXT
    assert len(transcriber.asked) > 2
    assert transcriber.asked[0].fields["prompt"] == "Ada"
    assert answer.usage is not None
    assert answer.usage.type == "duration"
    seconds = answer.usage.seconds
    assert seconds == pytest.approx(sum(round(asked.audio_s) for asked in transcriber.asked))
    assert answer.model_extra is not None
    impact = answer.model_extra["impact"]
    assert impact["cost_eur"] == pytest.approx(seconds / 60 * 0.006 * impact["pricing"]["rate"]["usd_eur"])
    assert impact["unaccounted_models"] == ["whisper-1"]


def test_text_is_text(client: openai.OpenAI, transcriber: TranscriptionServer) -> None:
    answer = client.audio.transcriptions.create(file=("a.wav", SHORT), model="whisper-1", response_format="text")
    assert str(answer).strip() == SHORT_TEXT


def test_subtitles_have_each_phrase_at_its_time(client: openai.OpenAI, transcriber: TranscriptionServer) -> None:
    srt = str(client.audio.transcriptions.create(file=("a.wav", SHORT), model="whisper-1", response_format="srt"))
    vtt = str(client.audio.transcriptions.create(file=("a.wav", SHORT), model="whisper-1", response_format="vtt"))
    first, second, *_ = SHORT_TEXT.split()
    assert srt.startswith("1\n00:00:00,0")
    assert f"\n{first}\n\n2\n00:00:00," in srt
    assert vtt.startswith("WEBVTT\n\n00:00:00.0")
    assert f"\n{second}\n\n" in vtt


def test_verbose_json_has_language_duration_and_segments(
    client: openai.OpenAI, transcriber: TranscriptionServer
) -> None:
    answer = client.audio.transcriptions.create(
        file=("long.mp3", LONG), model="whisper-1", response_format="verbose_json", timestamp_granularities=["segment"]
    )
    assert (answer.text, answer.language) == (TEXT, "french")
    assert float(answer.duration) == pytest.approx(len(PCM) / 32_000, abs=0.3)
    assert answer.segments is not None
    assert " ".join(segment.text for segment in answer.segments) == TEXT
    assert answer.segments[-1].end == pytest.approx(len(PCM) / 32_000, abs=1.5)


def test_a_stream_tells_what_is_certain_as_it_is_heard(client: openai.OpenAI, transcriber: TranscriptionServer) -> None:
    stream = client.audio.transcriptions.create(file=("long.mp3", LONG), model="gpt-4o-transcribe", stream=True)
    events = list(stream)
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert len(deltas) > 1
    assert "".join(deltas) == TEXT
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == TEXT
    assert events[-1].usage is not None
    assert events[-1].usage.output_tokens == len(TEXT.split())


@pytest.mark.parametrize("context", ["chained", "parallel"])
def test_a_stream_takes_nothing_back_where_pieces_share_words(
    client: openai.OpenAI, transcriber: TranscriptionServer, context: str
) -> None:
    text, pcm = speech(90, pause_s=0.0, long_pause_every=0)
    file = ("long.wav", encoded(pcm, "wav"))
    stream = client.audio.transcriptions.create(
        file=file, model="gpt-4o-transcribe", stream=True, extra_body={"context": context}
    )
    events = list(stream)
    assert "".join(event.delta for event in events if event.type == "transcript.text.delta") == text
    assert len(transcriber.asked) > 4


def test_subtitles_in_a_language_that_was_told_have_their_times_too(
    client: openai.OpenAI, transcriber: TranscriptionServer
) -> None:
    srt = client.audio.transcriptions.create(
        file=("a.wav", SHORT), model="voxtral-mini-latest", language="fr", response_format="srt"
    )
    assert SHORT_TEXT.split()[1] in str(srt)
    assert transcriber.asked[0].fields["timestamp_granularities"] == "segment"


def test_where_a_stand_in_gives_no_times_each_piece_has_its_own(
    client: openai.OpenAI, transcriber: TranscriptionServer
) -> None:
    transcriber.play(Said({"text": "sans horaires"}))
    srt = str(client.audio.transcriptions.create(file=("a.wav", SHORT), model="whisper-1", response_format="srt"))
    assert srt.startswith("1\n00:00:00,000 --> 00:00:0")
    assert "sans horaires" in srt


def test_thousands_of_fields_are_refused(client: openai.OpenAI, studio: LiveServer) -> None:
    parts = "".join(f'--x\r\nContent-Disposition: form-data; name="f{number}"\r\n\r\n\r\n' for number in range(2000))
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Authorization": f"Bearer {studio.token()}"}
    url = f"{studio.url}/v1/audio/transcriptions"
    answer = httpx.post(url, content=parts.encode(), headers=headers, trust_env=False, timeout=60)
    assert answer.status_code == 400
    assert "fields besides" in answer.json()["error"]["message"]


def test_a_model_that_counts_tokens_says_so(client: openai.OpenAI, transcriber: TranscriptionServer) -> None:
    answer = client.audio.transcriptions.create(file=("a.wav", SHORT), model="gpt-4o-mini-transcribe")
    assert answer.usage is not None
    assert answer.usage.type == "tokens"
    assert answer.usage.output_tokens == 3
    assert answer.model_extra is not None
    assert answer.model_extra["impact"]["cost_eur"] > 0


def test_languages_go_by_the_models_own_name_for_them(client: openai.OpenAI, transcriber: TranscriptionServer) -> None:
    client.audio.transcriptions.create(file=("a.wav", SHORT), model="gpt-transcribe", language="fr")
    assert transcriber.asked[0].fields["languages[]"] == "fr"


def test_times_of_a_model_that_gives_none_are_refused_with_the_way_out(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="whisper-1") as refusal:
        client.audio.transcriptions.create(file=("a.wav", SHORT), model="gpt-4o-transcribe", response_format="srt")  # type: ignore[call-overload]
    assert refusal.value.param == "response_format"


def test_a_model_that_does_not_exist_is_404(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="whisper-9"):
        client.audio.transcriptions.create(file=("a.wav", SHORT), model="whisper-9")


def test_what_is_no_audio_is_415(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refusal:
        client.audio.transcriptions.create(file=("a.mp3", b"Bonjour. " * 500), model="whisper-1")
    assert refusal.value.status_code == 415


def test_what_the_door_does_not_know_is_no_error(client: openai.OpenAI, transcriber: TranscriptionServer) -> None:
    answer = client.audio.transcriptions.create(
        file=("a.wav", SHORT), model="whisper-1", temperature=0.2, extra_body={"chunking_strategy": "auto", "seed": 1}
    )
    assert answer.text == SHORT_TEXT


def test_a_provider_that_is_down_is_an_error_of_its_kind(
    client: openai.OpenAI, transcriber: TranscriptionServer
) -> None:
    transcriber.play(*[Status(500)] * 3)
    with pytest.raises(openai.InternalServerError):
        client.audio.transcriptions.create(file=("a.wav", SHORT), model="gpt-transcribe")


def test_a_stream_whose_first_piece_fails_has_its_status(
    client: openai.OpenAI, transcriber: TranscriptionServer
) -> None:
    transcriber.play(Status(400))
    with pytest.raises(openai.BadRequestError):
        client.audio.transcriptions.create(file=("a.wav", SHORT), model="gpt-transcribe", stream=True)


def test_a_stream_that_fails_later_says_so_in_the_stream(
    client: openai.OpenAI, transcriber: TranscriptionServer
) -> None:
    words = " ".join(f"mot{number}" for number in range(40))
    transcriber.play(Said({"text": words}), Status(400))
    stream = client.audio.transcriptions.create(file=("a.mp3", LONG), model="gpt-transcribe", stream=True)
    with pytest.raises(openai.APIError, match="scripted 400"):
        list(stream)


@pytest.mark.skipif(not shutil.which("npm"), reason="needs Node.js and npm")
def test_the_node_client_is_heard_as_well(
    client_script: Path, studio: LiveServer, transcriber: TranscriptionServer, tmp_path: Path
) -> None:
    (tmp_path / "a.wav").write_bytes(SHORT)
    command = ["node", str(client_script), f"{studio.url}/v1", studio.token(), "transcription", str(tmp_path / "a.wav")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    answer = json.loads(ran.stdout)
    assert (answer["text"], answer["segments"]) == (SHORT_TEXT, 3)
    assert answer["cost"] > 0
