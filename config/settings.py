"""The settings, from the environment or `.env`. The only reader of the environment in the house."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from domain.errors import ConfigurationError

VERSION = "0.1.0"
MIN_SECRET_BYTES = 32

CommaSeparated = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """Every setting, its safe default, and its meaning (`.env.example` repeats them in a line each)."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        allow_inf_nan=False,
    )

    environment: str = "development"
    api_title: str = "Routeur IA"
    api_version: str = VERSION
    host: str = "127.0.0.1"
    port: int = Field(default=7860, ge=0, le=65535)
    workers: int = Field(default=1, ge=1)
    data_dir: Path = Path("data")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    cors_origins: CommaSeparated = ()
    # Names besides localhost under which development gives out tokens, such as a container's.
    development_hosts: CommaSeparated = ()

    # Who may call
    jwt_secret_key: SecretStr | None = None
    jwt_algorithm: Literal["HS256", "HS384", "HS512"] = "HS256"
    jwt_expiration_minutes: int = Field(default=60, gt=0)
    api_keys: CommaSeparated = Field(default=(), repr=False)
    cygnis_api_key: SecretStr | None = None

    # Models
    default_model: str | None = None
    local_model: str = "qwen2.5-coder-0.5b-instruct"
    local_base_url: str | None = None
    local_context_tokens: int = Field(default=8192, ge=512)
    local_parallel: int = Field(default=2, ge=1)
    openai_api_key: SecretStr | None = None
    openai_base_url: str = "https://api.openai.com/v1"
    mistralai_api_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("MISTRALAI_API_KEY", "MISTRAL_API_KEY")
    )
    mistral_base_url: str = "https://api.mistral.ai/v1"

    hf_token: SecretStr | None = None
    hf_base_url: str = "https://router.huggingface.co/v1"
    endpoint_keys: CommaSeparated = Field(default=(), repr=False)
    spark_app_id: str | None = Field(default=None, validation_alias=AliasChoices("SPARK_APP_ID", "APP_ID"))
    spark_api_secret: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("SPARK_API_SECRET", "API_SECRET")
    )
    spark_api_key: SecretStr | None = Field(default=None, validation_alias=AliasChoices("SPARK_API_KEY", "API_KEY"))
    spark_base_url: str = "wss://spark-api.xf-yun.com"
    spark_vision_base_url: str = "wss://spark-api.cn-huabei-1.xf-yun.com"
    spark_http_base_url: str = "https://spark-api-open.xf-yun.com/v2"

    # Bounds on a request and on a run
    max_body_bytes: int = Field(default=8_000_000, gt=0)
    # A sender of headers, or of a body, that is slower than this is cut off.
    header_timeout_s: float = Field(default=10.0, gt=0)
    body_idle_timeout_s: float = Field(default=30.0, gt=0)
    # Connections that one process serves; beyond them only /health and /ready are.
    max_connections: int = Field(default=2_000, ge=1)
    max_image_bytes: int = Field(default=4_000_000, gt=0)
    image_timeout_s: float = Field(default=10.0, gt=0)
    max_message_chars: int = Field(default=400_000, gt=0)
    max_history_messages: int = Field(default=1_000, gt=0)
    provider_connect_timeout_s: float = Field(default=5.0, gt=0)
    provider_stall_timeout_s: float = Field(default=60.0, gt=0)
    provider_retry_wait_s: float = Field(default=8.0, ge=0)
    run_timeout_s: float = Field(default=600.0, gt=0)
    sse_ping_s: float = Field(default=15.0, gt=0)
    shutdown_grace_s: float = Field(default=30.0, ge=0)
    shutdown_notice_s: float = Field(default=1.0, ge=0)

    # Agents from elsewhere
    agents_config: Path | None = None

    # Agents
    small_model: str | None = None
    agent_tools: CommaSeparated = ()
    clock_timezone: str = "Europe/Paris"
    searxng_url: str | None = None
    tavily_api_key: SecretStr | None = None
    tavily_base_url: str = "https://api.tavily.com"

    # Threads: conversations that the server keeps
    thread_busy: Literal["reject", "wait"] = "reject"
    thread_max_messages: int = Field(default=200, ge=4)
    thread_retention_days: int = Field(default=90, ge=0)

    # Documents, and the jobs that take them in
    embedding_model: str = "use-multilingual-v3"
    max_upload_mb_documents: int = Field(default=100, gt=0)
    max_document_pages: int = Field(default=2_000, gt=0)
    # Unfinished ones; a further upload is 429.
    documents_per_caller: int = Field(default=200, ge=1)
    job_worker: Literal["embedded", "none"] = "embedded"
    job_concurrency: int = Field(default=1, ge=1)

    # Recordings, and the jobs that transcribe them
    transcription_model: str | None = None
    meeting_model: str | None = None
    max_upload_mb_audio: int = Field(default=500, gt=0)
    max_audio_hours: float = Field(default=24.0, gt=0)
    audio_piece_s: float = Field(default=540.0, ge=5)
    audio_parallel: int = Field(default=4, ge=1)
    transcription_timeout_s: float = Field(default=300.0, gt=0)
    whisper_idle_s: float = Field(default=300.0, gt=0)
    audio_job_concurrency: int = Field(default=1, ge=1)
    audio_jobs_per_caller: int = Field(default=100, ge=1)
    audio_retention_days: int = Field(default=30, ge=0)

    # The database and the ledger
    database_url: SecretStr | None = None
    database_pool_size: int = Field(default=8, ge=1)
    database_timeout_s: float = Field(default=3.0, gt=0)
    database_start_wait_s: float = Field(default=10.0, ge=0)
    ledger_max_pending_bytes: int = Field(default=64_000_000, gt=0)
    ledger_flush_s: float = Field(default=0.2, gt=0)

    # Accounting
    impact_zone: str | None = Field(default=None, pattern=r"^[A-Z]{3}$")
    local_impact_zone: str | None = Field(default=None, pattern=r"^[A-Z]{3}$")
    cpu_watts_min: float = Field(default=0.74, gt=0)
    cpu_watts_max: float = Field(default=3.5, gt=0)
    ram_watts_per_gb: float = Field(default=0.392, ge=0)
    usd_eur: float | None = Field(default=None, gt=0)

    @field_validator("cors_origins", "development_hosts", "api_keys", "endpoint_keys", "agent_tools", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("openai_base_url", "mistral_base_url", "local_base_url", "hf_base_url", "spark_http_base_url")
    @classmethod
    def _is_http_address(cls, value: str | None) -> str | None:
        """Without the value in the message: an address may carry a password."""
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0 or parts.query:
            raise ValueError("must be an address like https://api.example.com/v1")
        return value

    @field_validator("cpu_watts_max")
    @classmethod
    def _is_above_min(cls, value: float, info: ValidationInfo) -> float:
        least = info.data.get("cpu_watts_min")
        if least is not None and value < least:
            raise ValueError(f"must not be less than CPU_WATTS_MIN={least:g}")
        return value

    @property
    def is_development(self) -> bool:
        return self.environment == "development"


def load_settings() -> Settings:
    """The settings of this process; raises `ConfigurationError` naming each one that does not hold."""
    try:
        return Settings()
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, p['loc'])).upper()}: {p['msg'].removeprefix('Value error, ')}" for p in error.errors()
        ]
        raise ConfigurationError("; ".join(problems)) from error


@lru_cache(maxsize=1)
def process_settings() -> Settings:
    """The settings a worker process reads once (uvicorn builds the app by name, without arguments)."""
    return load_settings()


_lent: set[str] = set()


def lend_to_agents(variables: Mapping[str, str]) -> None:
    """Set variables that agents' own code reads from the environment. What is set already stays as it is."""
    for name, value in variables.items():
        if name not in os.environ:
            os.environ[name] = value
            _lent.add(name)


@contextmanager
def lending_ends() -> Iterator[None]:
    """Leave the environment as it was: an agent's variable must not become a setting of the server's next process."""
    try:
        yield
    finally:
        for name in _lent:
            os.environ.pop(name, None)
        _lent.clear()
