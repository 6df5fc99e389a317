"""Builds the embedders and their service from the settings and the catalogue."""

from collections.abc import Mapping

from pydantic import SecretStr

from config.catalogue import Catalogue
from config.settings import Settings
from core.http_client import HttpClient
from services.embeddings.api import ApiEmbedder
from services.embeddings.embedder import BatchLimits, Embedder
from services.embeddings.local import LocalEmbedder

MISTRAL_BATCH = BatchLimits(max_texts=64, max_chars=16_000)
"""Mistral limits the tokens of a whole request, to 16,000 (MAX_TOKENS in langchain-mistralai): fewer in any script."""


def create_embedders(
    catalogue: Catalogue,
    settings: Settings,
    http: HttpClient,
    local: LocalEmbedder,
    endpoint_keys: Mapping[str, SecretStr] | None = None,
) -> dict[str, Embedder]:
    """One embedder a provider; the catalogue's endpoints too, with their keys by name."""
    timeout_s = settings.provider_stall_timeout_s
    keys = endpoint_keys or {}
    embedders: dict[str, Embedder] = {
        "openai": ApiEmbedder(
            name="openai",
            http=http,
            base_url=settings.openai_base_url,
            api_key=settings.openai_api_key,
            timeout_s=timeout_s,
            key_setting="OPENAI_API_KEY",
        ),
        "mistral": ApiEmbedder(
            name="mistral",
            http=http,
            base_url=settings.mistral_base_url,
            api_key=settings.mistralai_api_key,
            timeout_s=timeout_s,
            key_setting="MISTRALAI_API_KEY",
            batch=MISTRAL_BATCH,
        ),
        local.name: local,
    }
    for endpoint in catalogue.endpoints:
        embedders[endpoint.name] = ApiEmbedder(
            name=endpoint.name,
            http=http,
            base_url=endpoint.base_url,
            api_key=keys.get(endpoint.name),
            timeout_s=timeout_s,
            key_setting="ENDPOINT_KEYS" if endpoint.needs_key else None,
        )
    return embedders
