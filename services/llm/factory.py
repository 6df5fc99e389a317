"""Builds the providers, the router and the chat model from the settings."""

from config.catalogue import Catalogue, ModelEntry
from config.settings import Settings
from core.http_client import HttpClient
from domain.errors import ConfigurationError
from services.llm.chat_model import RouteurChatModel
from services.llm.providers.local import Local
from services.llm.providers.mistral import Mistral
from services.llm.providers.openai_compatible import OpenAICompatible
from services.llm.providers.provider import Provider
from services.llm.router import Router
from services.local_models.runtime import LocalRuntime

LOCAL = "local"
NO_LOCAL_MODEL = "none"


def local_entry(catalogue: Catalogue, settings: Settings) -> ModelEntry | None:
    """The catalogue's entry of LOCAL_MODEL; `None` when there is to be no local model."""
    if settings.local_model == NO_LOCAL_MODEL:
        return None
    entry = catalogue.get(settings.local_model)
    if entry is None or entry.provider != LOCAL:
        known = [model.id for model in catalogue.models if model.provider == LOCAL]
        raise ConfigurationError(f"LOCAL_MODEL={settings.local_model!r} is not one of {', '.join(known)} or 'none'")
    return entry


def create_local_runtime(catalogue: Catalogue, settings: Settings) -> LocalRuntime | None:
    """The process that runs the local model; `None` when there is none, or when it runs elsewhere (LOCAL_BASE_URL)."""
    entry = local_entry(catalogue, settings)
    return LocalRuntime(settings, entry) if entry and settings.local_base_url is None else None


def create_router(catalogue: Catalogue, settings: Settings, http: HttpClient, runtime: LocalRuntime | None) -> Router:
    """The router over every provider the settings know; DEFAULT_MODEL must be in the catalogue."""
    if settings.default_model is not None and catalogue.get(settings.default_model) is None:
        known = ", ".join(model.id for model in catalogue.models)
        raise ConfigurationError(f"DEFAULT_MODEL={settings.default_model!r} is not in the catalogue: {known}")
    providers = {
        "openai": _openai(settings, http),
        "mistral": _mistral(settings, http),
        LOCAL: _local(catalogue, settings, http, runtime),
    }
    return Router(catalogue, providers, settings.default_model)


def create_llm(router: Router) -> RouteurChatModel:
    """The chat model that graphs are given."""
    return RouteurChatModel(router=router)


def _openai(settings: Settings, http: HttpClient) -> Provider:
    key = settings.openai_api_key

    def missing(model: ModelEntry) -> str | None:
        return None if key else f"{model.id!r} needs the setting OPENAI_API_KEY"

    return OpenAICompatible(
        name="openai",
        http=http,
        base_url=settings.openai_base_url,
        api_key=key,
        stall_timeout_s=settings.provider_stall_timeout_s,
        is_openai=True,
        missing=missing,
    )


def _mistral(settings: Settings, http: HttpClient) -> Provider:
    return Mistral(
        name="mistral",
        http=http,
        base_url=settings.mistral_base_url,
        api_key=settings.mistralai_api_key,
        stall_timeout_s=settings.provider_stall_timeout_s,
    )


def _local(catalogue: Catalogue, settings: Settings, http: HttpClient, runtime: LocalRuntime | None) -> Provider:
    entry = local_entry(catalogue, settings)
    model_id = entry.id if entry else None
    if settings.local_base_url is None:
        return Local(
            name=LOCAL,
            http=http,
            runtime=runtime,
            model_id=model_id,
            start_timeout_s=settings.provider_stall_timeout_s,
            stall_timeout_s=settings.provider_stall_timeout_s,
            context_limit=settings.local_context_tokens,
        )

    def missing(model: ModelEntry) -> str | None:
        return None if model.id == model_id else f"LOCAL_BASE_URL serves {model_id!r}: set LOCAL_MODEL={model.id}"

    return OpenAICompatible(
        name=LOCAL,
        http=http,
        base_url=settings.local_base_url,
        api_key=None,
        stall_timeout_s=settings.provider_stall_timeout_s,
        missing=missing,
        context_limit=settings.local_context_tokens,
    )
