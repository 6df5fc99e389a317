"""Who transcribes: the chain without a name, settings that name models, endpoints, limits of pieces."""

from pathlib import Path
from typing import Any

import pytest

from config.catalogue import Catalogue
from core.http_client import HttpClient
from domain.errors import BadRequest, ConfigurationError, InvalidParameter, ModelUnavailable, UnknownModel
from services.audio.router import TranscriptionRouter
from services.audio.transcribers.factory import create_transcription_router
from services.audio.transcribers.local import LocalTranscriber
from services.audio.transcription import Transcriptions
from services.audio.wishes import Wishes, language_of, wishes_of
from services.llm.factory import endpoint_keys
from tests.house_for_tests import CATALOGUE
from tests.postgres_for_tests import settings_for
from tests.speech_for_tests import silence, wav

MEETING = Wishes("transcription_meeting")


def catalogue(**more: Any) -> Catalogue:
    return Catalogue.model_validate({**CATALOGUE.model_dump(), **more})


def router_for(folder: Path, used: Catalogue = CATALOGUE, **settings: Any) -> TranscriptionRouter:
    chosen = settings_for(folder, **settings)
    local = LocalTranscriber(data_dir=folder, timeout_s=30)
    return create_transcription_router(used, chosen, HttpClient(1.0), local, endpoint_keys(chosen.endpoint_keys))


def transcriptions(folder: Path, used: Catalogue = CATALOGUE, **settings: Any) -> Transcriptions:
    router = router_for(folder, used, **settings)
    return Transcriptions(
        router=router,
        accounts=None,  # type: ignore[arg-type]  # Nothing is heard here.
        meetings=None,  # type: ignore[arg-type]
        settings=settings_for(folder, **settings),
        directory=folder,
    )


def ids(plan: Any) -> list[str]:
    return [model.id for model in plan.candidates]


def test_with_no_key_this_machine_hears(tmp_path: Path) -> None:
    work = transcriptions(tmp_path)
    assert ids(work.plan(Wishes())) == ids(work.plan(MEETING)) == ["whisper-base"]
    assert len(work.plan(Wishes()).steps) == 1, "those without a key were never asked for"


def test_keys_bring_their_models_and_meetings_have_their_own(tmp_path: Path) -> None:
    work = transcriptions(tmp_path, openai_api_key="k", mistralai_api_key="k")
    assert ids(work.plan(Wishes())) == ["whisper-1", "voxtral-mini-latest", "whisper-base"]
    assert ids(work.plan(MEETING)) == ["gpt-4o-transcribe", "voxtral-mini-latest", "whisper-base"]


def test_settings_name_the_models_that_go_first(tmp_path: Path) -> None:
    keys = {"openai_api_key": "k", "transcription_model": "gpt-transcribe", "meeting_model": "gpt-4o-mini-transcribe"}
    work = transcriptions(tmp_path, **keys)
    assert ids(work.plan(Wishes()))[0] == "gpt-transcribe"
    assert ids(work.plan(MEETING))[0] == "gpt-4o-mini-transcribe"


@pytest.mark.parametrize("setting", ["transcription_model", "meeting_model"])
@pytest.mark.parametrize("name", ["whisper-9", "gpt-4o"])
def test_a_setting_that_names_no_transcription_model_stops_the_start(tmp_path: Path, setting: str, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{setting.upper()}='{name}'.*whisper-1"):
        router_for(tmp_path, **{setting: name})


def test_a_named_model_without_its_key_says_which_setting_gives_it(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="OPENAI_API_KEY"):
        transcriptions(tmp_path).plan(Wishes(model="whisper-1"))


def test_a_chat_model_does_not_transcribe(tmp_path: Path) -> None:
    with pytest.raises(
        UnknownModel, match="unknown transcription model 'gpt-4o'; known transcription models: whisper-1"
    ):
        transcriptions(tmp_path).plan(Wishes(model="gpt-4o"))


def test_an_endpoint_of_the_catalogue_hears_with_its_own_key(tmp_path: Path) -> None:
    audio = {"max_s": 60, "max_bytes": 500_000, "source": "its operator", "checked": "2026-11-20"}
    tones = {"id": "tones", "provider": "studio", "type": "transcription", "description": "", "audio": audio}
    with_endpoint = catalogue(
        endpoints=[{"name": "studio", "base_url": "http://127.0.0.1:9/v1", "needs_key": True}],
        models=[*CATALOGUE.model_dump()["models"], tones],
    )
    with pytest.raises(ModelUnavailable, match="ENDPOINT_KEYS"):
        transcriptions(tmp_path, with_endpoint).plan(Wishes(model="tones"))
    work = transcriptions(tmp_path, with_endpoint, endpoint_keys="studio:secret")
    plan = work.plan(Wishes(model="tones"))
    assert ids(plan) == ["tones"]
    cut = work.cut_plan(plan, 3600)
    assert cut.target_s == cut.max_s == pytest.approx(0.95 * 500_000 / 16_000), "its bytes are the tighter bound"


def test_pieces_suit_whoever_may_stand_in(tmp_path: Path) -> None:
    work = transcriptions(tmp_path, openai_api_key="k")
    cut = work.cut_plan(work.plan(Wishes()), 7200)
    assert cut.target_s == 540
    assert cut.max_s == pytest.approx(0.95 * 1200), "the local model's bound, the tightest of the chain"


async def test_a_recording_may_last_so_many_hours_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(silence(40)))
    assert (await transcriptions(tmp_path, max_audio_hours=0.02).probe(tmp_path / "a.wav")).duration_s == 40
    with pytest.raises(BadRequest, match="MAX_AUDIO_HOURS"):
        await transcriptions(tmp_path, max_audio_hours=0.01).probe(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("sent", "code"),
    [("fr", "fr"), ("FR", "fr"), ("fr-FR", "fr"), ("pt_BR", "pt"), ("French", "fr"), ("auto", None), (None, None)],
)
def test_languages_are_known_by_code_region_and_name(sent: str | None, code: str | None) -> None:
    assert language_of(sent) == code


def test_empty_fields_are_fields_that_were_not_sent() -> None:
    sent = {"language": "", "prompt": "  ", "model": "", "max_duration_seconds": "", "context": ""}
    assert wishes_of(sent, "transcription_audio") == Wishes()


@pytest.mark.parametrize("sent", ["0", "-1", "nan", "inf", "1e999", "ten", "\x00"])
def test_a_duration_that_is_none_is_refused(sent: str) -> None:
    with pytest.raises(InvalidParameter, match="max_duration_seconds"):
        wishes_of({"max_duration_seconds": sent}, "transcription_audio")


@pytest.mark.parametrize("sent", ["a/b", "x" * 129, "a\x00b"])
def test_a_project_that_cannot_exist_is_refused(sent: str) -> None:
    with pytest.raises(InvalidParameter, match="project_id"):
        wishes_of({"project_id": sent}, "transcription_audio")
