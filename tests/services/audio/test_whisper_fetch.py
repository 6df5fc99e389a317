"""The local transcriber's weights come with the first call that needs them, once, whoever waits."""

import asyncio
import hashlib
import threading
from datetime import date
from pathlib import Path

import pytest

from config.catalogue import ModelEntry, UrlSource, Weights
from domain.errors import ModelUnavailable, ShuttingDown
from services.audio.transcribers import local
from services.audio.transcribers.local import LocalTranscriber
from services.audio.transcribers.transcriber import TranscriptionCall
from services.local_models.weights import find_weights, weights_directory
from tests.services.local_models.fake_hub import Hub, Step, serving
from tests.speech_in_mp3 import speech, write_mp3
from tests.whisper_model import whisper_entry, whisper_folder

NO_MODEL = b"these are no weights" * 1000


@pytest.fixture
def short(tmp_path: Path) -> Path:
    return write_mp3(tmp_path / "short.mp3", speech("The meeting has been moved to next week.", voice="en-US"))


def real_model(hub: Hub) -> ModelEntry:
    """The catalogue's own, from the hub."""
    entry = whisper_entry()
    assert entry.weights is not None
    return entry.model_copy(update={"weights": entry.weights.model_copy(update={"sources": (source(hub),)})})


def no_model(hub: Hub) -> ModelEntry:
    """One small file that is soon fetched, and that no library can load."""
    weights = Weights(
        source="https://example.org/model",
        checked=date(2026, 11, 20),
        filename="none/model.bin",
        size_bytes=len(NO_MODEL),
        sha256=hashlib.sha256(NO_MODEL).hexdigest(),
        licence="MIT",
        sources=(source(hub),),
    )
    return whisper_entry().model_copy(update={"weights": weights})


def source(hub: Hub) -> UrlSource:
    return UrlSource(url=hub.url.replace("model.gguf", "model.bin"))


async def test_two_calls_fetch_the_weights_once_and_are_both_heard(tmp_path, short, capfd):
    files = ("config.json", "tokenizer.json", "vocabulary.txt", "model.bin")
    transcriber = LocalTranscriber(data_dir=tmp_path, timeout_s=100)
    with serving(*(Step((whisper_folder() / name).read_bytes()) for name in files)) as hub:
        model = real_model(hub)
        assert transcriber.unavailable_reason(model) is None
        calls = [TranscriptionCall(model, short, 3.0) for _ in range(2)]
        heard = await asyncio.gather(*map(transcriber.transcribe, calls))
    await transcriber.close()
    assert [one.text for one in heard] == ["The meeting has been moved to next week."] * 2
    assert hub.paths == [f"/{name}" for name in files]
    told = capfd.readouterr().err.splitlines()
    assert 10 <= len(told) <= 14  # One line for every 10 %.
    assert "100 %  147.9/147.9 MB" in told[-1]


async def test_who_stops_waiting_does_not_stop_the_fetch(tmp_path, short):
    transcriber = LocalTranscriber(data_dir=tmp_path, timeout_s=100)
    with serving(Step(NO_MODEL, stall_s=1.0)) as hub:
        model = no_model(hub)
        leaving, waiting = (
            asyncio.create_task(transcriber.transcribe(TranscriptionCall(model, short, 3.0))) for _ in range(2)
        )
        while not hub.paths:  # noqa: ASYNC110 — the hub answers in its thread.
            await asyncio.sleep(0.01)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        with pytest.raises(ModelUnavailable, match=r"cannot be loaded.*models pull whisper-base"):
            await waiting
    await transcriber.close()
    assert model.weights is not None
    assert find_weights(model.weights, weights_directory(tmp_path)) is not None


async def test_a_failed_fetch_names_the_way_out_and_is_tried_again_later(tmp_path, short, monkeypatch):
    transcriber = LocalTranscriber(data_dir=tmp_path, timeout_s=100)
    with serving(Step(b"", status=404), Step(NO_MODEL)) as hub:
        call = TranscriptionCall(no_model(hub), short, 3.0)
        for _ in range(2):
            with pytest.raises(ModelUnavailable, match=r"run `python app\.py models pull whisper-base`"):
                await transcriber.transcribe(call)
        assert len(hub.paths) == 1  # The second call, so soon, was refused without another try.
        monkeypatch.setattr(local, "FETCH_AGAIN_S", 0)
        with pytest.raises(ModelUnavailable, match="cannot be loaded"):
            await transcriber.transcribe(call)
    await transcriber.close()


async def test_weights_put_there_after_a_failed_fetch_are_used_at_once(tmp_path, short):
    transcriber = LocalTranscriber(data_dir=tmp_path, timeout_s=100)
    with serving(Step(b"", status=404)) as hub:
        call = TranscriptionCall(no_model(hub), short, 3.0)
        with pytest.raises(ModelUnavailable, match="could not be fetched"):
            await transcriber.transcribe(call)
        path = weights_directory(tmp_path) / "none" / "model.bin"
        await asyncio.to_thread(path.write_bytes, NO_MODEL)
        with pytest.raises(ModelUnavailable, match="cannot be loaded"):
            await transcriber.transcribe(call)
    await transcriber.close()


async def test_closing_stops_the_fetch_and_sends_those_who_wait_away(tmp_path, short):
    transcriber = LocalTranscriber(data_dir=tmp_path, timeout_s=100)
    with serving(Step(NO_MODEL, stall_s=1.0)) as hub:
        waiting = asyncio.create_task(transcriber.transcribe(TranscriptionCall(no_model(hub), short, 3.0)))
        while not hub.paths:  # noqa: ASYNC110 — the hub answers in its thread.
            await asyncio.sleep(0.01)
        await transcriber.close()
        with pytest.raises(ShuttingDown):
            await waiting
    for thread in threading.enumerate():
        if thread.name.startswith("fetch-"):
            await asyncio.to_thread(thread.join, 10)
    assert not (weights_directory(tmp_path) / "none" / "model.bin").exists()
