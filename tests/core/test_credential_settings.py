"""The authenticator that settings make: secrets long enough for their algorithm, one development secret for all."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from config.settings import Settings, load_settings
from core.security import create_authenticator
from domain.errors import ConfigurationError, Unauthorized

ROOT = Path(__file__).resolve().parents[2]


def settings_of(data_dir: Path, **more: object) -> Settings:
    return Settings(_env_file=None, **({"data_dir": data_dir, "environment": "production"} | more))


@pytest.mark.parametrize(("algorithm", "needed"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_a_secret_is_as_long_as_its_algorithm_needs(tmp_path: Path, algorithm: str, needed: int) -> None:
    enough = settings_of(tmp_path, jwt_algorithm=algorithm, jwt_secret_key="x" * needed)
    authenticator = create_authenticator(enough)
    assert authenticator.verify(authenticator.issue_token("me")).principal.subject == "me"
    short = settings_of(tmp_path, jwt_algorithm=algorithm, jwt_secret_key="x" * (needed - 1))
    with pytest.raises(ConfigurationError, match=f"JWT_SECRET_KEY must have {needed} bytes"):
        create_authenticator(short)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_the_development_secret_serves_every_algorithm(tmp_path: Path, algorithm: str) -> None:
    authenticator = create_authenticator(settings_of(tmp_path, environment="development", jwt_algorithm=algorithm))
    assert authenticator.verify(authenticator.issue_token("me")).principal.subject == "me"


def test_a_token_of_another_algorithm_is_refused(tmp_path: Path) -> None:
    secret = "x" * 64
    other = create_authenticator(settings_of(tmp_path, jwt_algorithm="HS512", jwt_secret_key=secret))
    ours = create_authenticator(settings_of(tmp_path, jwt_algorithm="HS256", jwt_secret_key=secret))
    with pytest.raises(Unauthorized):
        ours.verify(other.issue_token("me"))


def test_processes_that_start_at_once_share_the_development_secret(tmp_path: Path) -> None:
    program = (
        "import sys; from config.settings import Settings; from core.security import create_authenticator;"
        "print(create_authenticator(Settings(_env_file=None, data_dir=sys.argv[1])).issue_token('me'))"
    )

    def issue(_: int) -> str:
        command = [sys.executable, "-c", program, str(tmp_path / "data")]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        return subprocess.check_output(command, env=environment, cwd=tmp_path, text=True, timeout=30).strip()

    with ThreadPoolExecutor(4) as pool:
        tokens = list(pool.map(issue, range(4)))
    authenticator = create_authenticator(settings_of(tmp_path / "data", environment="development"))
    assert [authenticator.verify(token).principal.subject for token in tokens] == ["me"] * 4
    files = list((tmp_path / "data").iterdir())
    assert [file.name for file in files] == ["jwt_secret"]
    assert files[0].stat().st_mode & 0o777 == 0o600


def test_a_development_secret_that_lost_its_content_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "jwt_secret").write_text("")
    with pytest.raises(ConfigurationError, match="DATA_DIR"):
        create_authenticator(settings_of(tmp_path, environment="development"))


def test_no_setting_shows_its_secrets(tmp_path: Path) -> None:
    secret = "hidden-0123456789abcdef0123456789abcdef"
    names = ("jwt_secret_key", "openai_api_key", "mistralai_api_key", "database_url")
    settings = settings_of(tmp_path, api_keys=f"me:{secret}", **dict.fromkeys(names, secret))
    assert secret not in repr(settings)
    assert secret not in str(settings)


def test_every_bad_setting_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORT", "http")
    monkeypatch.setenv("WORKERS", "0")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://me:hidden@[")
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    message = str(refused.value)
    assert all(name in message for name in ("PORT", "WORKERS", "OPENAI_BASE_URL"))
    assert "hidden" not in message


@pytest.mark.parametrize("name", ["MISTRALAI_API_KEY", "MISTRAL_API_KEY"])
def test_both_names_of_mistrals_key_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, "a-key")
    key = load_settings().mistralai_api_key
    assert key is not None
    assert key.get_secret_value() == "a-key"


def test_a_level_may_be_written_in_capitals_and_empty_means_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOG_LEVEL", "WARNING")
    monkeypatch.setenv("PORT", "")
    assert (load_settings().log_level, load_settings().port) == ("warning", 7860)
