"""Transcription over HTTP: each vendor's own fields, what it counted, and every failure told as what it is."""

import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr

from config.catalogue import ModelEntry
from core.http_client import HttpClient
from domain.audio import Heard
from domain.errors import (
    BadRequest,
    ProviderCut,
    ProviderRefused,
    ProviderStalled,
    ProviderUnreachable,
    RateLimitedByProvider,
)
from domain.usage import Call, TokenUsage
from services.audio.router import AskedToHear, TranscriptionRouter
from services.audio.transcribers import api
from services.audio.transcribers.api import ApiTranscriber
from services.audio.transcribers.transcriber import TranscriptionCall
from services.llm.providers.whole_call import reading
from tests.house_for_tests import CATALOGUE
from tests.scripted_provider import API_KEY
from tests.speech_in_mp3 import write_mp3
from tests.tone_language import spoken, words_in_turn
from tests.transcription_server import Cut, Said, Silence, Status, TranscriptionServer
from tests.wire_reader import http_client

WORDS = words_in_turn(5)
SECONDS = len(spoken(WORDS)) / 32_000


@pytest.fixture
def piece(tmp_path: Path) -> Path:
    """As the server cuts it: 16 kHz, mono, 128 kbps."""
    return write_mp3(tmp_path / "piece.mp3", np.frombuffer(spoken(WORDS), np.int16), 128_000)


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    async with http_client() as client:
        yield client


def model(name: str) -> ModelEntry:
    found = CATALOGUE.get(name)
    assert found is not None
    return found


def at(
    server: TranscriptionServer, http: HttpClient, *, mistral: bool = False, timeout_s: float = 30
) -> ApiTranscriber:
    return ApiTranscriber(
        "mistral" if mistral else "openai", http, server.base_url, SecretStr(API_KEY), timeout_s, is_mistral=mistral
    )


async def transcribe(
    server: TranscriptionServer, http: HttpClient, piece: Path, name: str, *, timeout_s: float = 30, **fields: Any
) -> tuple[Heard, TranscriptionCall]:
    call = TranscriptionCall(model(name), piece, SECONDS, **fields)
    mistral = call.model.provider == "mistral"
    return await at(server, http, mistral=mistral, timeout_s=timeout_s).transcribe(call), call


async def test_whisper_gives_times_a_language_and_the_seconds_it_bills(
    provider: TranscriptionServer, http: HttpClient, piece: Path
) -> None:
    heard, call = await transcribe(provider, http, piece, "whisper-1", prompt="Ada")
    assert (heard.text, heard.language) == (" ".join(WORDS), "fr")
    assert heard.segments is not None
    assert [segment.text for segment in heard.segments] == WORDS
    assert call.usage == TokenUsage(None, None, audio_s=round(provider.asked[0].audio_s))


async def test_the_gpt_family_gives_text_and_tokens(
    provider: TranscriptionServer, http: HttpClient, piece: Path
) -> None:
    heard, call = await transcribe(provider, http, piece, "gpt-4o-transcribe", language="fr")
    assert (heard.text, heard.language, heard.segments) == (" ".join(WORDS), "fr", None)
    assert call.usage == TokenUsage(round(provider.asked[0].audio_s * 10), 5)


async def test_voxtral_gives_times_unless_it_is_told_the_language(
    provider: TranscriptionServer, http: HttpClient, piece: Path
) -> None:
    timed, call = await transcribe(provider, http, piece, "voxtral-mini-latest")
    told, _ = await transcribe(provider, http, piece, "voxtral-mini-latest", language="fr")
    assert timed.segments is not None
    assert (timed.language, told.language, told.segments) == (None, "fr", None)
    assert call.usage == TokenUsage(4, 5, audio_s=round(provider.asked[0].audio_s))


@pytest.mark.parametrize(
    ("play", "error", "retryable"),
    [
        (Status(500), ProviderRefused, True),
        (Status(429, headers=(("Retry-After", "7"),)), RateLimitedByProvider, True),
        (Status(401), ProviderRefused, False),
        (Status(302, headers=(("Location", "http://127.0.0.1:1/"),)), ProviderRefused, False),
        (Said(["text"]), ProviderCut, True),
        (Said({"text": 5}), ProviderCut, True),
        (Said({"text": "a", "segments": [{"start": "soon"}]}), ProviderCut, True),
        (Cut(), ProviderCut, True),
    ],
    ids=["500", "429", "401", "redirect", "a list", "a number", "half a segment", "cut"],
)
async def test_each_failure_is_told_as_what_it_is(
    provider: TranscriptionServer, http: HttpClient, piece: Path, play: Any, error: Any, retryable: bool
) -> None:
    provider.play(play)
    with pytest.raises(error) as failure:
        await transcribe(provider, http, piece, "whisper-1")
    assert failure.value.retryable == retryable
    assert API_KEY not in failure.value.message


async def test_a_refused_request_is_the_callers_to_mend(
    provider: TranscriptionServer, http: HttpClient, piece: Path
) -> None:
    provider.play(Status(400, {"error": {"message": "audio too short"}}))
    with pytest.raises(BadRequest, match="audio too short"):
        await transcribe(provider, http, piece, "whisper-1")


async def test_a_silent_provider_is_left(provider: TranscriptionServer, http: HttpClient, piece: Path) -> None:
    provider.play(Silence())
    with pytest.raises(ProviderStalled, match=r"0\.5 s"):
        await transcribe(provider, http, piece, "whisper-1", timeout_s=0.5)


async def test_nobody_there_is_unreachable(http: HttpClient, piece: Path) -> None:
    transcriber = ApiTranscriber("openai", http, "http://127.0.0.1:9/v1", None, 5.0)
    with pytest.raises(ProviderUnreachable):
        await transcriber.transcribe(TranscriptionCall(model("whisper-1"), piece, SECONDS))


def test_a_missing_key_is_named_by_its_setting() -> None:
    transcriber = ApiTranscriber("openai", HttpClient(1.0), "http://x/v1", None, 1.0, "OPENAI_API_KEY")
    assert transcriber.unavailable_reason(model("whisper-1")) == "'whisper-1' needs the setting OPENAI_API_KEY"
    keyless = ApiTranscriber("tones", HttpClient(1.0), "http://x/v1", None, 1.0)
    assert keyless.unavailable_reason(model("whisper-1")) is None


anything = st.recursive(
    st.none() | st.integers() | st.text() | st.floats(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["text", "segments", "start", "end", "usage", "seconds", "language"]), inner)
    ),
)


@example(body={"text": "a", "segments": [{"start": 10**400, "end": 1, "text": "a"}]})
@given(body=anything)
def test_no_answer_at_all_makes_anything_but_a_providers_failure(body: Any) -> None:
    call = TranscriptionCall(model("whisper-1"), Path("a.mp3"), 1.0)
    try:
        with reading("fake", "a transcript"):
            usage = api._usage(body.get("usage"))
            heard = api._heard(body, call)
    except ProviderCut:
        return
    assert usage is None or usage.audio_s is None or math.isfinite(usage.audio_s)
    assert all(segment.start_s <= segment.end_s for segment in heard.segments or ())


async def ask_router(
    provider: TranscriptionServer, http: HttpClient, piece: Path, *names: str
) -> tuple[AskedToHear, list[Call], list[str], Heard]:
    calls: list[Call] = []
    hops: list[str] = []
    servers = {"openai": at(provider, http), "mistral": at(provider, http, mistral=True)}
    router = TranscriptionRouter(CATALOGUE, servers)
    asked = AskedToHear(
        piece, SECONDS, None, "Ada", on_call=calls.append, on_hop=lambda hop: hops.append(f"{hop.model}: {hop.reason}")
    )
    heard = await router.hear(router.plan(names[0] if names else None), asked)
    return asked, calls, hops, heard


async def test_a_hiccup_is_tried_again_and_both_calls_are_counted(
    provider: TranscriptionServer, http: HttpClient, piece: Path
) -> None:
    provider.play(Status(500))
    asked, calls, hops, heard = await ask_router(provider, http, piece)
    assert (asked.answering_model, hops, heard.text) == ("whisper-1", [], " ".join(WORDS))
    assert [(call.status, call.usage.audio_s) for call in calls] == [
        ("failed", 0.0),
        ("succeeded", calls[1].usage.audio_s),
    ]


async def test_another_model_stands_in_and_is_not_given_what_it_cannot_read(
    provider: TranscriptionServer, http: HttpClient, piece: Path
) -> None:
    provider.play(Status(429, headers=(("Retry-After", "60"),)))
    asked, calls, hops, _ = await ask_router(provider, http, piece)
    assert asked.answering_model == "voxtral-mini-latest"
    assert "prompt" not in provider.asked[1].fields
    assert hops[0].startswith("whisper-1: openai answered 429")
    assert [call.model for call in calls] == ["whisper-1", "voxtral-mini-latest"]


async def test_a_broken_answer_is_counted_as_the_whole_piece_and_as_an_estimate(
    provider: TranscriptionServer, http: HttpClient, piece: Path
) -> None:
    provider.play(Cut())
    _, calls, _, _ = await ask_router(provider, http, piece, "gpt-transcribe")
    assert (calls[0].status, calls[0].estimated, calls[0].usage.audio_s) == ("failed", True, SECONDS)
