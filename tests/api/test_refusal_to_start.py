"""A configuration that does not hold stops the start: one line that names the setting, and a status that is not 0."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app import create_app
from config.settings import Settings, load_settings
from domain.errors import ConfigurationError
from tests.live_server import run_until_it_ends

SECRET = "a-secret-of-production-0123456789abcdef"
PRODUCTION = {"ENVIRONMENT": "production", "JWT_SECRET_KEY": SECRET}

REFUSED = {
    "no secret": ({"ENVIRONMENT": "production"}, "JWT_SECRET_KEY"),
    "a default secret": ({**PRODUCTION, "JWT_SECRET_KEY": "your-secret-key-change-in-production"}, "JWT_SECRET_KEY"),
    "a short secret": ({**PRODUCTION, "JWT_SECRET_KEY": "x" * 31}, "JWT_SECRET_KEY"),
    "a secret too short for HS384": ({**PRODUCTION, "JWT_ALGORITHM": "HS384"}, "JWT_SECRET_KEY"),
    "a secret too short for HS512": ({**PRODUCTION, "JWT_ALGORITHM": "HS512", "JWT_SECRET_KEY": "x" * 63}, "HS512"),
    "a short secret in development": ({"JWT_SECRET_KEY": "x"}, "JWT_SECRET_KEY"),
    "any origin": ({**PRODUCTION, "CORS_ORIGINS": "https://a.example,*"}, "CORS_ORIGINS"),
    "an algorithm without a secret": ({"JWT_ALGORITHM": "none"}, "JWT_ALGORITHM"),
    "a token that never lives": ({"JWT_EXPIRATION_MINUTES": "0"}, "JWT_EXPIRATION_MINUTES"),
    "a short API key": ({"API_KEYS": "backend:short"}, "API_KEYS"),
    "an API key without a subject": ({"API_KEYS": "x" * 40}, "API_KEYS"),
    "an API key twice": ({"API_KEYS": f"a:{SECRET},b:{SECRET}"}, "API_KEYS"),
    "a port that is no number": ({"PORT": "http"}, "PORT"),
    "a port out of range": ({"PORT": "70000"}, "PORT"),
    "no workers": ({"WORKERS": "0"}, "WORKERS"),
    "an unknown level": ({"LOG_LEVEL": "loud"}, "LOG_LEVEL"),
    "an unknown local model": ({"LOCAL_MODEL": "gpt-4o"}, "LOCAL_MODEL"),
    "an unknown default model": ({"DEFAULT_MODEL": "gpt-0"}, "DEFAULT_MODEL"),
    "the same, with workers": ({"DEFAULT_MODEL": "gpt-0", "WORKERS": "2"}, "DEFAULT_MODEL"),
    "a database that is no address": ({"DATABASE_URL": "localhost"}, "DATABASE_URL"),
    "a data folder that is a file": ({"DATA_DIR": "file"}, "DATA_DIR"),
    "a provider that is no address": ({"OPENAI_BASE_URL": "api.openai.com/v1"}, "OPENAI_BASE_URL"),
    "a local server that is no address": ({"LOCAL_BASE_URL": "ftp://127.0.0.1"}, "LOCAL_BASE_URL"),
    "no body": ({"MAX_BODY_BYTES": "0"}, "MAX_BODY_BYTES"),
    "pings without pause": ({"SSE_PING_S": "0"}, "SSE_PING_S"),
    "an endless run": ({"RUN_TIMEOUT_S": "inf"}, "RUN_TIMEOUT_S"),
    "a stall of no number": ({"PROVIDER_STALL_TIMEOUT_S": "nan"}, "PROVIDER_STALL_TIMEOUT_S"),
    "a negative grace": ({"SHUTDOWN_GRACE_S": "-1"}, "SHUTDOWN_GRACE_S"),
    "an unknown zone": ({"IMPACT_ZONE": "france"}, "IMPACT_ZONE"),
    "watts upside down": ({"CPU_WATTS_MIN": "4"}, "CPU_WATTS_MAX"),
    "money for nothing": ({"USD_EUR": "0"}, "USD_EUR"),
}


SEEN_FROM_OUTSIDE = {"no secret", "a default secret", "a short secret", "any origin", "a port that is no number"} | {
    "the same, with workers",
    "a data folder that is a file",
}
"""Those are started for real: each costs two seconds of imports. The others are checked by the function it calls."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """How each real start ended; two at a time."""
    folder = tmp_path_factory.mktemp("refused")
    (folder / "file").write_text("not a folder")
    with ThreadPoolExecutor(2) as pool:
        ended = pool.map(lambda case: run_until_it_ends(folder, **REFUSED[case][0]), sorted(SEEN_FROM_OUTSIDE))
        return dict(zip(sorted(SEEN_FROM_OUTSIDE), ended, strict=True))


@pytest.mark.parametrize("case", sorted(SEEN_FROM_OUTSIDE))
def test_a_bad_setting_stops_the_start_in_one_line(outcomes: dict[str, tuple[int, str]], case: str) -> None:
    environment, named = REFUSED[case]
    status, printed = outcomes[case]
    assert status == 1
    assert len(printed.strip().splitlines()) == 1, printed
    assert printed.startswith("routeur: ")
    assert named in printed
    assert environment.get("JWT_SECRET_KEY", SECRET) not in printed


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_a_bad_setting_is_named(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment, named = REFUSED[case]
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.lower() in Settings.model_fields]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=named) as refused:
        create_app(load_settings())
    assert "\n" not in str(refused.value)


def test_a_command_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    status, printed = run_until_it_ends(tmp_path, "fly")
    assert status == 2
    assert "serve" in printed
