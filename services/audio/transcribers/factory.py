"""Builds the transcribers and their router from the settings and the catalogue."""

from collections.abc import Mapping

from pydantic import SecretStr

from config.catalogue import Catalogue
from config.settings import Settings
from core.http_client import HttpClient
from domain.errors import ConfigurationError
from services.audio.router import TranscriptionRouter
from services.audio.transcribers.api import ApiTranscriber
from services.audio.transcribers.local import LocalTranscriber
from services.audio.transcribers.transcriber import Transcriber


def create_transcription_router(
    catalogue: Catalogue,
    settings: Settings,
    http: HttpClient,
    local: LocalTranscriber,
    endpoint_keys: Mapping[str, SecretStr],
) -> TranscriptionRouter:
    """TRANSCRIPTION_MODEL and MEETING_MODEL must be transcription models of the catalogue, or routes to some."""
    for setting, name in (
        ("TRANSCRIPTION_MODEL", settings.transcription_model),
        ("MEETING_MODEL", settings.meeting_model),
    ):
        if name is not None and not any(model.type == "transcription" for model in catalogue.candidates(name)):
            known = ", ".join(model.id for model in catalogue.models if model.type == "transcription")
            raise ConfigurationError(f"{setting}={name!r} is not one of {known}")
    transcribers: dict[str, Transcriber] = {
        "openai": ApiTranscriber(
            name="openai",
            http=http,
            base_url=settings.openai_base_url,
            api_key=settings.openai_api_key,
            timeout_s=settings.transcription_timeout_s,
            key_setting="OPENAI_API_KEY",
        ),
        "mistral": ApiTranscriber(
            name="mistral",
            http=http,
            base_url=settings.mistral_base_url,
            api_key=settings.mistralai_api_key,
            timeout_s=settings.transcription_timeout_s,
            key_setting="MISTRALAI_API_KEY",
            is_mistral=True,
        ),
        local.name: local,
    }
    for endpoint in catalogue.endpoints:
        transcribers[endpoint.name] = ApiTranscriber(
            name=endpoint.name,
            http=http,
            base_url=endpoint.base_url,
            api_key=endpoint_keys.get(endpoint.name),
            timeout_s=settings.transcription_timeout_s,
            key_setting="ENDPOINT_KEYS" if endpoint.needs_key else None,
        )
    return TranscriptionRouter(
        catalogue,
        transcribers,
        default_model=settings.transcription_model,
        retry_wait_s=settings.provider_retry_wait_s,
    )
