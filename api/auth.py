"""POST /auth/token and GET /auth/verify."""

import base64
import binascii
import re
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Header, Request
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from api.deps import CurrentServices, CurrentToken, Services
from api.development import is_development_at_home
from api.json_body import parse_json
from api.middleware import BodyLimit
from api.schemas import UNAUTHORIZED, TokenBody, answers
from config.settings import Settings
from core.security import DEVELOPMENT_SUBJECT
from domain.errors import BadRequest, Unauthorized

router = APIRouter(prefix="/auth", tags=["auth"])

MAX_BODY_BYTES = 65_536
"""Much more than a credential has: this body is read before its sender is known."""
MAX_FORM_FIELDS = 32


def body_limit(settings: Settings) -> BodyLimit:
    """The bound on the body of a request for a token."""
    return BodyLimit(min(MAX_BODY_BYTES, settings.max_body_bytes), None, re.compile("/auth/token"))


TOKEN_BODY_DOC: dict[str, Any] = {
    "requestBody": {
        "required": False,
        "content": {
            "application/json": {"schema": TokenBody.model_json_schema(), "example": {"api_key": "…"}},
            "application/x-www-form-urlencoded": {
                "schema": {"type": "object", "properties": {"grant_type": {"type": "string"}}},
                "example": {"grant_type": "client_credentials", "client_id": "backend", "client_secret": "…"},
            },
        },
    }
}


@router.post(
    "/token",
    summary="Get a token",
    responses=answers({"access_token": "eyJ…", "token_type": "bearer", "expires_in": 3600}) | UNAUTHORIZED,
    openapi_extra=TOKEN_BODY_DOC,
)
async def issue_token(
    request: Request, services: CurrentServices, authorization: Annotated[str | None, Header()] = None
) -> dict[str, Any]:
    """A token for later calls. In development, on this machine, none is needed for it; elsewhere an API key is."""
    at_home = is_development_at_home(request, services.settings)
    key = _bearer_of(authorization) or await _key_in_body(request, anything_goes=at_home)
    subject = services.authenticator.subject_of_api_key(key) if key else None
    if subject is None and (key or not at_home):
        raise Unauthorized(_refusal(request, services, key))
    token = services.authenticator.issue_token(subject or DEVELOPMENT_SUBJECT)
    return {"access_token": token, "token_type": "bearer", "expires_in": services.authenticator.lifetime_s}


@router.get(
    "/verify",
    summary="Check a token",
    responses=answers({"valid": True, "user": {"sub": "user", "type": "access", "exp": 1706123456}}) | UNAUTHORIZED,
)
async def verify_token(verified: CurrentToken) -> dict[str, Any]:
    """Whether the credential is good, and what it says."""
    claims = verified.claims
    first = {"sub": claims["sub"], "type": claims.get("type"), "exp": claims.get("exp")}
    return {"valid": True, "user": {**first, **{key: value for key, value in claims.items() if key not in first}}}


def _refusal(request: Request, services: Services, key: str | None) -> str:
    if key:
        return "the API key is not known"
    if services.settings.is_development:
        return (
            f"Host: {request.headers.get('host', '')[:80]!r} is not a name of this machine: use localhost, add it to "
            "DEVELOPMENT_HOSTS, or send an API key of API_KEYS"
        )
    return (
        f"ENVIRONMENT={services.settings.environment} asks for a credential: send an API key of API_KEYS as Bearer, "
        'as JSON {"api_key": "…"} or as OAuth2 client_credentials'
    )


def _bearer_of(authorization: str | None) -> str | None:
    """The key in the Authorization header: as Bearer, or as the password of OAuth2's Basic form."""
    scheme, _, credential = (authorization or "").partition(" ")
    if scheme.lower() == "bearer":
        return credential.strip() or None
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(credential, validate=True).decode().partition(":")[2] or None
        except (binascii.Error, UnicodeDecodeError) as error:
            raise BadRequest("Authorization: the Basic credential is not base64 of `client:secret`") from error
    return None


async def _key_in_body(request: Request, *, anything_goes: bool) -> str | None:
    """The key in a JSON or form body; `None` without one. In development clients may post anything, or nothing."""
    try:
        return await _find_key(request)
    except BadRequest:
        if anything_goes:
            return None
        raise


async def _find_key(request: Request) -> str | None:
    try:
        content = await request.body()
    except ClientDisconnect as error:
        raise BadRequest("body: the client left before it was whole") from error
    if not content.strip():
        return None
    if request.headers.get("Content-Type", "").lower().startswith("application/x-www-form-urlencoded"):
        try:
            form = dict(parse_qsl(content.decode("utf-8", "replace"), max_num_fields=MAX_FORM_FIELDS))
        except ValueError as error:
            raise BadRequest(f"body: at most {MAX_FORM_FIELDS} fields") from error
        if form.get("grant_type", "client_credentials") != "client_credentials":
            raise BadRequest(f"grant_type: {form['grant_type'][:80]!r}; only client_credentials is served")
        return form.get("client_secret") or None
    try:
        return TokenBody.model_validate(parse_json(content)).api_key
    except (BadRequest, ValidationError) as error:
        raise BadRequest('the body must be empty, {"api_key": "…"} or an OAuth2 form') from error
