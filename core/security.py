"""Credentials: tokens we issue and verify, API keys we compare, and the secret behind them."""

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from config.settings import MIN_SECRET_BYTES, Settings
from core.private_files import make_data_folder
from domain.errors import ConfigurationError, Unauthorized
from domain.principals import Principal

ISSUER = "routeur-ia"
AUDIENCE = "routeur-ia"
DEVELOPMENT_SUBJECT = "user"
ADMIN_SCOPE = "admin"
SUBJECT = "a text of 1 to 256 printable characters that does not begin with `team:`, which is for teams"
REQUIRED_CLAIMS = ["exp", "iat", "sub", "aud", "iss"]
KNOWN_DEFAULT_SECRETS = frozenset(
    {"secret", "changeme", "change-me", "your-secret-key", "your-secret-key-change-in-production"}
)
ACCESS = "access"
"""The `type` of the tokens that open the doors; others, such as refresh tokens, are for other uses."""
MAX_TOKEN_CHARS = 8_192
MAX_SUBJECT_CHARS = 256
MAX_REMEMBERED = 10_000
SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
"""A key as long as the digest, or longer (RFC 7518, section 3.2)."""


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A credential that was checked: who it stands for, its claims, and when it ends (`time.time` seconds)."""

    principal: Principal
    claims: Mapping[str, Any]
    expires_at: float


class Authenticator:
    """Issues and verifies. A verified token is remembered until it expires: verifying costs 40-75 µs."""

    def __init__(self, secret: str, *, algorithm: str, lifetime_s: int, api_keys: Mapping[str, str]) -> None:
        self._secret = secret
        self._algorithm = algorithm
        self._lifetime_s = lifetime_s
        self._pepper = secrets.token_bytes(32)
        self._subjects = {self._digest(key): subject for key, subject in api_keys.items()}
        self._verified: dict[str, VerifiedToken] = {}

    @property
    def lifetime_s(self) -> int:
        return self._lifetime_s

    def issue_token(self, subject: str) -> str:
        """A token for the subject, good for `lifetime_s` seconds."""
        now = int(time.time())
        claims = {
            "sub": subject,
            "type": ACCESS,
            "iss": ISSUER,
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + self._lifetime_s,
            "jti": secrets.token_hex(8),
        }
        return jwt.encode(claims, self._secret, algorithm=self._algorithm)

    def verify(self, credential: str) -> VerifiedToken:
        """Who a bearer credential stands for: one of our tokens, or an API key. Raises `Unauthorized`."""
        remembered = self._verified.get(credential)
        if remembered is not None and remembered.expires_at > time.time():
            return remembered
        if len(credential) > MAX_TOKEN_CHARS:
            raise Unauthorized("the credential is too long to be a token or an API key")
        subject = self.subject_of_api_key(credential)
        verified = _of_api_key(subject) if subject is not None else self._verify_token(credential)
        if len(self._verified) >= MAX_REMEMBERED:
            self._verified.clear()
        self._verified[credential] = verified
        return verified

    def subject_of_api_key(self, key: str) -> str | None:
        """The subject an API key belongs to; compared through keyed digests, in constant time."""
        digest = self._digest(key)
        found = [subject for known, subject in self._subjects.items() if hmac.compare_digest(known, digest)]
        return found[0] if found else None

    def _verify_token(self, token: str) -> VerifiedToken:
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[self._algorithm],
                audience=AUDIENCE,
                issuer=ISSUER,
                options={"require": REQUIRED_CLAIMS, "enforce_minimum_key_length": True},
            )
        except jwt.ExpiredSignatureError as error:
            raise Unauthorized("the token has expired: ask POST /auth/token for a new one") from error
        except (jwt.PyJWTError, ValueError) as error:
            raise Unauthorized("the credential is neither a token of this server nor a known API key") from error
        subject = claims["sub"]
        if claims.get("type") != ACCESS:
            raise Unauthorized(f"the credential is a token of type {str(claims.get('type'))[:40]!r}, not of {ACCESS!r}")
        if not isinstance(subject, str) or not is_subject(subject):
            raise Unauthorized(f"the token's `sub` must be {SUBJECT}")
        return VerifiedToken(Principal(subject=subject), claims, float(claims["exp"]))

    def _digest(self, key: str) -> bytes:
        return hmac.digest(self._pepper, key.encode("utf-8", "surrogatepass"), hashlib.sha256)


def is_subject(text: str) -> bool:
    """Whether a principal may be called so."""
    return 0 < len(text) <= MAX_SUBJECT_CHARS and text.isprintable() and not text.isspace() and text[:5] != "team:"


def _of_api_key(subject: str) -> VerifiedToken:
    return VerifiedToken(Principal(subject=subject), {"sub": subject, "type": "api_key"}, float("inf"))


def create_authenticator(settings: Settings) -> Authenticator:
    """The authenticator of these settings; refuses to start outside development without a proper secret."""
    if not settings.is_development and "*" in settings.cors_origins:
        raise ConfigurationError(
            f"CORS_ORIGINS must not contain * with ENVIRONMENT={settings.environment}: name the origins"
        )
    return Authenticator(
        _secret_of(settings),
        algorithm=settings.jwt_algorithm,
        lifetime_s=settings.jwt_expiration_minutes * 60,
        api_keys=_api_keys(settings.api_keys),
    )


def _secret_of(settings: Settings) -> str:
    secret = settings.jwt_secret_key.get_secret_value() if settings.jwt_secret_key else None
    needed = SECRET_BYTES[settings.jwt_algorithm]
    if settings.is_development and secret is None:
        return _secret_of_this_install(settings.data_dir / "jwt_secret", needed)
    place = f"with ENVIRONMENT={settings.environment}" if not settings.is_development else "even in development"
    if secret is None:
        raise ConfigurationError(f"JWT_SECRET_KEY must be set {place}: a random string of {needed} bytes or more")
    if secret.lower() in KNOWN_DEFAULT_SECRETS:
        raise ConfigurationError(f"JWT_SECRET_KEY must not be a well-known default {place}")
    has = len(secret.encode())
    if has < needed:
        raise ConfigurationError(
            f"JWT_SECRET_KEY must have {needed} bytes or more for {settings.jwt_algorithm} {place}; it has {has}"
        )
    return secret


def _secret_of_this_install(path: Path, needed: int) -> str:
    """The random secret of a development install: made once, shared by its workers, readable by its owner only."""
    try:
        secret = _read_or_make_secret(path)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"DATA_DIR: {path} cannot be made or read: {error}") from error
    if len(secret) < needed:
        raise ConfigurationError(f"DATA_DIR: {path} holds less than {needed} characters: remove it, a new one is made")
    return secret


def _read_or_make_secret(path: Path) -> str:
    make_data_folder(path.parent)
    candidate = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    descriptor = os.open(candidate, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(48))
        # A link appears whole or not at all, so that two workers starting at once read the same secret.
        os.link(candidate, path)
    except FileExistsError:
        pass
    finally:
        candidate.unlink()
    return path.read_text(encoding="ascii").strip()


def _api_keys(entries: tuple[str, ...]) -> Mapping[str, str]:
    """`subject:key` entries of API_KEYS, as key → subject."""
    keys: dict[str, str] = {}
    for position, entry in enumerate(entries, 1):
        subject, separator, key = entry.partition(":")
        if key in keys:
            raise ConfigurationError(f"API_KEYS: entry {position} repeats the key of {keys[key]!r}")
        if separator and subject and not is_subject(subject):
            raise ConfigurationError(f"API_KEYS: the subject of entry {position} must be {SUBJECT}")
        if not separator or not subject or len(key) < MIN_SECRET_BYTES:
            raise ConfigurationError(
                f"API_KEYS: entry {position} must be `subject:key` with a key of {MIN_SECRET_BYTES} characters or more"
            )
        keys[key] = subject
    return keys
