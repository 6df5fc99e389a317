"""What the fields of a body may hold, checked by hand: a model class costs too much here."""

from collections.abc import Callable, Mapping
from typing import Any

from api.json_body import short_text
from domain.errors import InvalidParameter

Check = Callable[[Any], bool]
Checks = Mapping[str, tuple[Check, str]]
"""By field: what holds for its value, and how that is said."""

MAX_NAMES = 1_000
"""In a list of names, such as the documents to keep to."""


def check_fields(body: Mapping[str, Any], checks: Checks) -> None:
    """Raises `InvalidParameter` for the first field whose value does not hold."""
    for name, value in body.items():
        check = checks.get(name)
        if check is not None and not check[0](value):
            raise InvalidParameter(name, f"it must be {check[1]} (got {short_text(value)})")


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
    lambda value: (
        isinstance(value, list)
        and len(value) <= MAX_NAMES
        and all(isinstance(one, str) and 0 < len(one) <= 200 for one in value)
    ),
    f"a list of at most {MAX_NAMES} strings of 1 to 200 characters",
)
AN_OBJECT: tuple[Check, str] = (lambda value: isinstance(value, dict), "an object")
