"""What every transcriber promises, whoever hears: the same specification for the API's and this machine's."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr

from config.catalogue import ModelEntry
from services.audio.transcribers.api import ApiTranscriber
from services.audio.transcribers.local import LocalTranscriber
from services.audio.transcribers.transcriber import Transcriber, TranscriptionCall
from tests.house_for_tests import CATALOGUE
from tests.scripted_provider import API_KEY
from tests.speech_in_mp3 import RATE, speech, write_mp3
from tests.tiny_model import SHARED_DATA
from tests.tone_language import spoken
from tests.transcription_server import transcription_server
from tests.whisper_model import whisper_folder
from tests.wire_reader import http_client

SENTENCE = "La réunion de mardi matin est reportée à la semaine prochaine."


@dataclass
class Subject:
    """A transcriber, a model of its own, and speech that it understands."""

    transcriber: Transcriber
    model: ModelEntry
    sound: np.ndarray
    word: str

    def call(self, folder: Path, sound: np.ndarray, **fields: str) -> TranscriptionCall:
        path = write_mp3(folder / "piece.mp3", sound, 128_000)
        return TranscriptionCall(self.model, path, len(sound) / RATE, **fields)  # type: ignore[arg-type]


def model(name: str) -> ModelEntry:
    found = CATALOGUE.get(name)
    assert found is not None
    return found


@pytest.fixture(params=["api", "local"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    if request.param == "api":
        async with transcription_server() as server, http_client() as http:
            api = ApiTranscriber("openai", http, server.base_url, SecretStr(API_KEY), 30.0, "OPENAI_API_KEY")
            tones = np.frombuffer(spoken(["alpha", "bravo", "charlie"]), np.int16)
            yield Subject(api, model("whisper-1"), tones, "bravo")
        return
    whisper_folder()
    local = LocalTranscriber(data_dir=SHARED_DATA, timeout_s=100)
    try:
        yield Subject(local, model("whisper-base"), speech(SENTENCE), "mardi")
    finally:
        await local.close()


async def test_it_hears_and_says_when_and_in_which_language(subject: Subject, tmp_path: Path) -> None:
    call = subject.call(tmp_path, subject.sound, prompt="Ada")
    heard = await subject.transcriber.transcribe(call)
    assert subject.word in heard.text.lower()
    assert heard.text == heard.text.strip()
    assert heard.language == "fr"
    assert heard.segments
    assert [segment.start_s for segment in heard.segments] == sorted(segment.start_s for segment in heard.segments)
    assert all(0 <= segment.start_s <= segment.end_s <= call.audio_s + 1 for segment in heard.segments)
    assert call.usage is not None or call.local_work is not None, "somebody counted"


async def test_in_silence_it_hears_nothing(subject: Subject, tmp_path: Path) -> None:
    heard = await subject.transcriber.transcribe(subject.call(tmp_path, np.zeros(2 * RATE, np.int16)))
    assert (heard.text, heard.segments) == ("", ())


async def test_a_file_that_is_not_there_is_nobody_elses_fault(subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await subject.transcriber.transcribe(TranscriptionCall(subject.model, tmp_path / "none.mp3", 1.0))


async def test_who_leaves_is_let_go_at_once_and_the_next_is_heard(subject: Subject, tmp_path: Path) -> None:
    hearing = asyncio.create_task(subject.transcriber.transcribe(subject.call(tmp_path, subject.sound)))
    await asyncio.sleep(0)
    hearing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hearing
    assert subject.word in (await subject.transcriber.transcribe(subject.call(tmp_path, subject.sound))).text.lower()


async def test_it_names_the_way_out_where_it_cannot_serve(subject: Subject) -> None:
    assert subject.transcriber.unavailable_reason(subject.model) is None
    keyless = ApiTranscriber("openai", None, "http://x/v1", None, 1.0, "OPENAI_API_KEY")  # type: ignore[arg-type]
    other: Transcriber = keyless if isinstance(subject.transcriber, ApiTranscriber) else subject.transcriber
    assert "'whisper-1'" in (other.unavailable_reason(model("whisper-1")) or "")
