"""Builds the providers, the router and the chat model from the settings."""

from pydantic import SecretStr

from config.catalogue import Catalogue, Endpoint, ModelEntry
from config.settings import Settings
from core.http_client import HttpClient
from domain.errors import ConfigurationError
from services.llm.chat_model import RouteurChatModel
from services.llm.providers.local import Local
from services.llm.providers.mistral import Mistral
from services.llm.providers.openai_compatible import OpenAICompatible
from services.llm.providers.provider import Provider
from services.llm.providers.quirks import Quirks
from services.llm.providers.spark import Spark
from services.llm.providers.spark_auth import SparkCredentials
from services.llm.providers.spark_http import SparkHttp
from services.llm.router import Router
from services.local_models.runtime import LocalRuntime
from services.run_context import follow_runs_into_pools

LOCAL = "local"
NO_LOCAL_MODEL = "none"


def local_entry(catalogue: Catalogue, settings: Settings) -> ModelEntry | None:
    """The catalogue's entry of LOCAL_MODEL; `None` when there is to be no local model."""
    if settings.local_model == NO_LOCAL_MODEL:
        return None
    entry = catalogue.get(settings.local_model)
    if entry is None or entry.provider != LOCAL or entry.type != "llm":
        known = [model.id for model in catalogue.models if model.provider == LOCAL and model.type == "llm"]
        raise ConfigurationError(f"LOCAL_MODEL={settings.local_model!r} is not one of {', '.join(known)} or 'none'")
    return entry


def create_local_runtime(catalogue: Catalogue, settings: Settings) -> LocalRuntime | None:
    """The process that runs the local model; `None` when there is none, or when it runs elsewhere (LOCAL_BASE_URL)."""
    entry = local_entry(catalogue, settings)
    return LocalRuntime(settings, entry) if entry and settings.local_base_url is None else None


def create_router(catalogue: Catalogue, settings: Settings, http: HttpClient, runtime: LocalRuntime | None) -> Router:
    """The router over every provider the settings know; DEFAULT_MODEL and SMALL_MODEL must be in the catalogue."""
    for setting, name in (("DEFAULT_MODEL", settings.default_model), ("SMALL_MODEL", settings.small_model)):
        if name is not None and not any(model.type == "llm" for model in catalogue.candidates(name)):
            known = ", ".join(model.id for model in catalogue.models if model.type == "llm")
            raise ConfigurationError(f"{setting}={name!r} is not in the catalogue: {known}")
    providers = {
        "openai": _keyed("openai", settings.openai_base_url, settings.openai_api_key, "OPENAI_API_KEY", settings, http),
        "mistral": _mistral(settings, http),
        "huggingface": _keyed("huggingface", settings.hf_base_url, settings.hf_token, "HF_TOKEN", settings, http),
        "spark": _spark(settings),
        "spark-http": _spark_http(settings, http),
        LOCAL: _local(catalogue, settings, http, runtime),
        **_endpoints(catalogue, settings, http),
    }
    return Router(catalogue, providers, settings.default_model, retry_wait_s=settings.provider_retry_wait_s)


def create_llm(router: Router) -> RouteurChatModel:
    """The chat model that graphs are given. Nodes may call it from thread pools of their own."""
    follow_runs_into_pools()
    return RouteurChatModel(router=router)


def _keyed(
    name: str, base_url: str, key: SecretStr | None, setting: str, settings: Settings, http: HttpClient
) -> Provider:
    """A hosted provider that speaks OpenAI's format and asks for a key."""

    def missing(model: ModelEntry) -> str | None:
        return None if key else f"{model.id!r} needs the setting {setting}"

    return OpenAICompatible(
        name=name,
        http=http,
        base_url=base_url,
        api_key=key,
        stall_timeout_s=settings.provider_stall_timeout_s,
        is_openai=name == "openai",
        missing=missing,
    )


def _endpoints(catalogue: Catalogue, settings: Settings, http: HttpClient) -> dict[str, Provider]:
    """The OpenAI-compatible servers that the catalogue names."""
    keys = endpoint_keys(settings.endpoint_keys)
    if unknown := sorted(keys.keys() - {endpoint.name for endpoint in catalogue.endpoints}):
        raise ConfigurationError(f"ENDPOINT_KEYS names {', '.join(unknown)}, which the catalogue's endpoints do not")
    return {
        endpoint.name: _endpoint(endpoint, keys.get(endpoint.name), settings, http) for endpoint in catalogue.endpoints
    }


def _endpoint(endpoint: Endpoint, key: SecretStr | None, settings: Settings, http: HttpClient) -> Provider:
    def missing(model: ModelEntry) -> str | None:
        if endpoint.needs_key and key is None:
            return f"{model.id!r} needs a key for {endpoint.name!r} in the setting ENDPOINT_KEYS"
        return None

    return OpenAICompatible(
        name=endpoint.name,
        http=http,
        base_url=endpoint.base_url,
        api_key=key,
        stall_timeout_s=settings.provider_stall_timeout_s,
        missing=missing,
        quirks=Quirks(takes_stream_options=endpoint.stream_options),
    )


def endpoint_keys(entries: tuple[str, ...]) -> dict[str, SecretStr]:
    """The keys of ENDPOINT_KEYS, by the endpoint's name."""
    keys: dict[str, SecretStr] = {}
    for position, entry in enumerate(entries, 1):
        name, separator, key = entry.partition(":")
        if not separator or not name or not key:
            raise ConfigurationError(f"ENDPOINT_KEYS: entry {position} must be `name:key`")
        keys[name] = SecretStr(key)
    return keys


def _spark_credentials(settings: Settings) -> SparkCredentials | None:
    parts = (settings.spark_app_id, settings.spark_api_secret, settings.spark_api_key)
    if any(parts) and not all(parts):
        raise ConfigurationError("Spark needs all three of SPARK_APP_ID, SPARK_API_SECRET and SPARK_API_KEY, or none")
    app_id, secret, key = parts
    return SparkCredentials(app_id, secret, key) if app_id and secret and key else None


def _spark(settings: Settings) -> Provider:
    return Spark(
        credentials=_spark_credentials(settings),
        text_base_url=settings.spark_base_url,
        vision_base_url=settings.spark_vision_base_url,
        stall_timeout_s=settings.provider_stall_timeout_s,
        connect_timeout_s=settings.provider_connect_timeout_s,
    )


def _spark_http(settings: Settings, http: HttpClient) -> Provider:
    return SparkHttp(
        http=http,
        credentials=_spark_credentials(settings),
        base_url=settings.spark_http_base_url,
        stall_timeout_s=settings.provider_stall_timeout_s,
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
