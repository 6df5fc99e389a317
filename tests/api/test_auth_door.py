"""POST /auth/token and GET /auth/verify: who gets a token, and which credentials open the doors."""

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from tests.api_errors import check_error
from tests.live_server import LiveServer, live_server, wait_until
from tests.postgres_for_tests import folder

SECRET = "a-secret-of-production-0123456789abcdef"
KEY = "key-of-the-backend-0123456789abcdef0123"
OTHER_KEY = "key-of-nobody-0123456789abcdef012345678"
FAR_AWAY = 4_000_000_000
"""A time, in 2096."""
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def production() -> Iterator[LiveServer]:
    """A server outside development, with one API key."""
    with (
        folder() as data_dir,
        live_server(
            data_dir,
            database=False,
            ENVIRONMENT="production",
            JWT_SECRET_KEY=SECRET,
            API_KEYS=f"backend:{KEY}",
            CORS_ORIGINS="https://app.example.com",
        ) as server,
    ):
        yield server


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    good = {"sub": "user", "type": "access", "iss": "routeur-ia", "aud": "routeur-ia", "iat": now, "exp": now + 60}
    return {name: value for name, value in (good | changed).items() if value is not None}


def verify(server: LiveServer, credential: str, scheme: str = "Bearer") -> httpx.Response:
    headers = {"Authorization": f"{scheme} {credential}"}
    return httpx.get(f"{server.url}/auth/verify", headers=headers, trust_env=False, timeout=30)


def ask_token(server: LiveServer, **options: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/auth/token", trust_env=False, timeout=30, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"json": {}},
        {"content": b"  "},
        {"json": {"username": "a", "password": "b"}},
        {"content": b"junk"},
        {"content": b"\xff\x00"},
        {"content": b"[" * 5000},
        {"data": {"grant_type": "password", "username": "a"}},
        {"json": {"api_key": None}},
        {"headers": {"Authorization": "Digest a"}},
    ],
    ids=str,
)
def test_development_gives_a_token_whatever_is_posted(server: LiveServer, options: dict[str, Any]) -> None:
    answer = ask_token(server, **options)
    assert answer.status_code == 200, answer.text
    content = answer.json()
    assert list(content) == ["access_token", "token_type", "expires_in"]
    assert (content["token_type"], content["expires_in"]) == ("bearer", 3600)
    assert verify(server, content["access_token"]).json()["user"]["sub"] == "user"


def test_verify_shows_the_contracts_fields_first(server: LiveServer) -> None:
    content = verify(server, server.token()).json()
    assert list(content) == ["valid", "user"]
    assert content["valid"] is True
    assert list(content["user"])[:3] == ["sub", "type", "exp"]
    assert (content["user"]["sub"], content["user"]["type"]) == ("user", "access")
    assert time.time() < content["user"]["exp"] <= time.time() + 3600


def test_the_schemes_name_may_be_written_in_any_case(server: LiveServer) -> None:
    assert verify(server, server.token(), "bearer").status_code == 200


@pytest.mark.parametrize("header", ["", "Bearer", "Basic YTpi", "token", "Bearer é", "Bearer a b"])
def test_what_is_no_bearer_credential_is_refused(server: LiveServer, header: str) -> None:
    sent = [(b"Authorization", header.encode("latin-1"))]
    answer = httpx.get(f"{server.url}/auth/verify", headers=sent, trust_env=False, timeout=30)
    check_error(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_good_token_made_elsewhere_with_the_same_secret_is_accepted(production: LiveServer) -> None:
    assert verify(production, jwt.encode(claims(), SECRET, "HS256")).status_code == 200


@pytest.mark.parametrize(
    "changed",
    [
        {"exp": 1},
        {"exp": None},
        {"iat": None},
        {"iat": FAR_AWAY},
        {"sub": None},
        {"sub": ""},
        {"sub": "s" * 257},
        {"sub": 7},
        {"sub": "half \ud83d"},
        {"sub": "a\x00b"},
        {"sub": "a\nb"},
        {"sub": "   "},
        {"sub": "team:x"},
        {"type": None},
        {"type": "refresh"},
        {"type": "api_key"},
        {"type": ["access"]},
        {"aud": None},
        {"aud": "another"},
        {"iss": None},
        {"iss": "another"},
        {"nbf": FAR_AWAY},
        {"exp": "tomorrow"},
    ],
    ids=str,
)
def test_a_token_whose_claims_do_not_hold_is_refused(production: LiveServer, changed: dict[str, Any]) -> None:
    check_error(verify(production, jwt.encode(claims(**changed), SECRET, "HS256")), 401, "unauthorized")


def test_a_subject_may_be_long(production: LiveServer) -> None:
    assert verify(production, jwt.encode(claims(sub="s" * 256), SECRET, "HS256")).status_code == 200


def test_an_expired_token_says_so(production: LiveServer) -> None:
    answer = verify(production, jwt.encode(claims(exp=int(time.time()) - 1), SECRET, "HS256"))
    assert "expired" in check_error(answer, 401, "unauthorized")


def test_a_token_of_another_secret_or_algorithm_is_refused(production: LiveServer) -> None:
    other = jwt.encode(claims(), "another-secret-0123456789abcdef01234", "HS256")
    stronger = jwt.encode(claims(), SECRET * 2, "HS512")
    for token in (other, stronger, *unsigned_tokens()):
        check_error(verify(production, token), 401, "unauthorized")


def unsigned_tokens() -> list[str]:
    """Tokens that say they need no signature, in the spellings that fooled others."""
    body = base64.urlsafe_b64encode(json.dumps(claims()).encode()).rstrip(b"=").decode()
    tokens = []
    for algorithm in ("none", "None", "NONE", "nOnE", "", "RS256", "ES256"):
        head = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "typ": "JWT"}).encode()).rstrip(b"=").decode()
        tokens += [f"{head}.{body}.", f"{head}.{body}", f"{head}.{body}.AAAA"]
    return tokens


def test_a_token_is_refused_once_one_character_changed(production: LiveServer) -> None:
    token = jwt.encode(claims(), SECRET, "HS256")
    assert verify(production, token).status_code == 200
    head, body, signature = token.split(".")
    swapped = body[:-1] + ("A" if body[-1] != "A" else "B")
    check_error(verify(production, f"{head}.{swapped}.{signature}"), 401, "unauthorized")


def test_a_remembered_token_ends_with_its_time(production: LiveServer) -> None:
    ends = int(time.time()) + 4
    token = jwt.encode(claims(exp=ends), SECRET, "HS256")
    assert verify(production, token).status_code == 200
    wait_until(lambda: verify(production, token).status_code == 401, 60, "the token has ended")
    assert time.time() >= ends


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"Authorization": f"Bearer {KEY}"}},
        {"json": {"api_key": KEY}},
        {"data": {"grant_type": "client_credentials", "client_id": "backend", "client_secret": KEY}},
        {"data": {"client_secret": KEY}},
        {"data": {"grant_type": "client_credentials"}, "auth": ("backend", KEY)},
        {"content": f"client_secret={KEY}", "headers": {"Content-Type": "Application/X-WWW-Form-URLEncoded"}},
    ],
    ids="+".join,
)
def test_an_api_key_gives_a_token_of_its_subject(production: LiveServer, options: dict[str, Any]) -> None:
    answer = ask_token(production, **options)
    assert answer.status_code == 200, answer.text
    assert verify(production, answer.json()["access_token"]).json()["user"]["sub"] == "backend"


def test_an_api_key_opens_the_doors_by_itself(production: LiveServer) -> None:
    assert verify(production, KEY).json() == {"valid": True, "user": {"sub": "backend", "type": "api_key", "exp": None}}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"json": {}},
        {"json": {"api_key": OTHER_KEY}},
        {"json": {"api_key": ""}},
        {"headers": {"Authorization": f"Bearer {OTHER_KEY}"}},
        {"headers": {"Authorization": f"Bearer {KEY}x"}},
        {"data": {"grant_type": "client_credentials"}},
        {"data": {"grant_type": "client_credentials"}, "auth": ("backend", OTHER_KEY)},
    ],
    ids=str,
)
def test_outside_development_a_credential_is_required(production: LiveServer, options: dict[str, Any]) -> None:
    answer = ask_token(production, **options)
    check_error(answer, 401, "unauthorized")
    assert OTHER_KEY not in answer.text


@pytest.mark.parametrize(
    "options",
    [
        {"content": b"junk"},
        {"json": {"user": "a"}},
        {"json": {"api_key": 1}},
        {"data": {"grant_type": "password", "client_secret": KEY}},
        {"headers": {"Authorization": "Basic !!"}},
    ],
    ids=str,
)
def test_outside_development_junk_is_told(production: LiveServer, options: dict[str, Any]) -> None:
    check_error(ask_token(production, **options), 400, "bad_request")


def test_only_named_origins_are_answered_by_name(production: LiveServer) -> None:
    def allowed(origin: str) -> str | None:
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        answer = httpx.options(f"{production.url}/completion", headers=headers, trust_env=False)
        return answer.headers.get("access-control-allow-origin")

    assert allowed("https://app.example.com") == "https://app.example.com"
    assert allowed("https://evil.example") is None


def test_nothing_secret_is_in_the_log(production: LiveServer) -> None:
    ask_token(production, json={"api_key": KEY})
    verify(production, "not-a-token-0123456789")
    assert KEY not in production.log
    assert SECRET not in production.log
    assert "not-a-token" not in production.log


def test_the_development_secret_is_private_and_shared(server: LiveServer, tmp_path: Path) -> None:
    path = server.data_dir / "jwt_secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_text()) >= 64
    assert jwt.decode(server.token(), path.read_text(), ["HS256"], audience="routeur-ia")["sub"] == "user"
