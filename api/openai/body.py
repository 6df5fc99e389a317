"""A request's body as a JSON object, and what it may hold, checked by hand: a model class costs too much here."""

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from fastapi import Request
from starlette.requests import ClientDisconnect

from domain.errors import BadRequest, InvalidParameter, UnsupportedMedia

Check = Callable[[Any], bool]
Checks = Mapping[str, tuple[Check, str]]
"""By field: what holds for its value, and how that is said."""

SHOWN_CHARS = 80


async def json_object_of(request: Request) -> dict[str, Any]:
    """The body of the request. Fields that are null are as good as absent, and left out."""
    content_type = request.headers.get("content-type", "")
    if not _is_json(content_type):
        raise UnsupportedMedia(
            f"Content-Type: {content_type[:SHOWN_CHARS] or 'none'!r}; send the body as application/json"
        )
    try:
        content = orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"body: not valid JSON: {error}") from error
    except ClientDisconnect as error:
        raise BadRequest("body: the client left before it was whole") from error
    if not isinstance(content, dict):
        raise BadRequest("body: send a JSON object")
    return {key: value for key, value in content.items() if value is not None}


def check_fields(body: Mapping[str, Any], checks: Checks) -> None:
    """Raises `InvalidParameter` for the first field whose value does not hold."""
    for name, value in body.items():
        check = checks.get(name)
        if check is not None and not check[0](value):
            raise InvalidParameter(name, f"it must be {check[1]} (got {shown(value)})")


def shown(value: Any) -> str:
    """A value as an error quotes it."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 1]}…"


def a_number(low: float, high: float) -> tuple[Check, str]:
    return lambda value: is_number(value) and low <= value <= high, f"a number from {low:g} to {high:g}"


def a_whole_number(low: int, high: int) -> tuple[Check, str]:
    return lambda value: is_whole(value) and low <= value <= high, f"a whole number from {low} to {high}"


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


A_TEXT: tuple[Check, str] = (lambda value: isinstance(value, str), "a string")
A_NAME: tuple[Check, str] = (
    lambda value: isinstance(value, str) and 0 < len(value) <= 200,
    "a string of 1 to 200 characters",
)
A_FLAG: tuple[Check, str] = (lambda value: isinstance(value, bool), "true or false")
SOME_NAMES: tuple[Check, str] = (
    lambda value: isinstance(value, list) and all(isinstance(one, str) and 0 < len(one) <= 200 for one in value),
    "a list of strings of 1 to 200 characters",
)
AN_OBJECT: tuple[Check, str] = (lambda value: isinstance(value, dict), "an object")


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
