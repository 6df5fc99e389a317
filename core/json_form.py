"""What any Python value is in JSON: never raises, and gives nothing that an encoder or a reader of JSON refuses.

The forms are those of LangGraph's own server where it has one: a Decimal is its text, bytes are base64, a set a list.
"""

import asyncio
import base64
import dataclasses
import math
from collections import deque
from collections.abc import Callable, Mapping, Set
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from itertools import islice
from typing import Any

MAX_DEPTH = 64
MAX_VALUES = 100_000
"""Lists that share their parts can stand for more values than there is memory."""
MAX_TEXT_OF_OBJECT = 1_000
LEFT_OUT = "…"
"""Stands for what lies deeper than `MAX_DEPTH`, beyond `MAX_VALUES`, or contains itself."""

INT64_MIN, UINT64_MAX = -(2**63), 2**64 - 1
"""Encoders write whole numbers of 64 bits; a larger one becomes its text."""


def as_json(value: object) -> Any:
    """The value as `dict` with text keys, `list`, `str`, `int`, `float`, `bool` and `None`."""
    return _Writer().form(value, 0)


def text_of_object(value: object) -> str:
    """What an object says of itself, bounded; the name of its type where it says nothing, or cannot."""
    kind = type(value)
    try:
        if kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__:
            return f"<{kind.__qualname__}>"
        return whole_characters(str(value)[:MAX_TEXT_OF_OBJECT])
    except asyncio.CancelledError:
        raise
    except BaseException:  # noqa: BLE001 - its own code: it may raise anything, SystemExit too
        return f"<{kind.__qualname__}>"


def whole_characters(text: str) -> str:
    """The text as a plain `str`, halves of surrogate pairs joined where they meet and replaced where they do not."""
    text = str.__str__(text)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


class _Writer:
    """One value on its way. `_above` holds the containers that the current one lies in."""

    def __init__(self) -> None:
        self._above: set[int] = set()
        self._left = MAX_VALUES

    def form(self, value: object, depth: int) -> Any:
        self._left -= 1
        try:
            return self._form(value, depth)
        except asyncio.CancelledError:
            raise
        except BaseException:  # noqa: BLE001 - enums, properties, iterators and models run code of their own
            return text_of_object(value)

    def _form(self, value: object, depth: int) -> Any:
        match value:
            case None | bool():
                return value
            case Enum():
                return self.form(value.value, depth)
            case str():
                return whole_characters(value)
            case int():
                return _whole_number(int.__int__(value))
            case float():
                number = float.__float__(value)
                return number if math.isfinite(number) else None
            case _:
                return self._contained(value, depth)

    def _contained(self, value: object, depth: int) -> Any:
        if depth >= MAX_DEPTH or self._left <= 0 or id(value) in self._above:
            return LEFT_OUT
        self._above.add(id(value))
        try:
            return self._container(value, depth + 1)
        finally:
            self._above.discard(id(value))

    def _container(self, value: object, depth: int) -> Any:
        match value:
            case Mapping():
                return self._mapping(value, depth)
            case tuple() if hasattr(value, "_asdict"):
                return self._mapping(value._asdict(), depth)
            case list() | tuple() | deque():
                return self._sequence(value, depth)
            case Set():
                return self._sequence(sorted(value, key=_order), depth)
            case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
                names = [one.name for one in dataclasses.fields(value)]
                return self._mapping({name: getattr(value, name) for name in names if hasattr(value, name)}, depth)
            case _:
                return self._model(value, depth)

    def _model(self, value: object, depth: int) -> Any:
        """Pydantic's models, by their own rules where these hold, else field by field; and single values."""
        if isinstance(value, type) or not callable(getattr(value, "model_dump", None)):
            return _single(value)
        dump: Callable[..., Any] = value.model_dump  # type: ignore[attr-defined]  # As just seen.
        try:
            return self.form(dump(mode="json", warnings=False), depth)
        except Exception:  # noqa: BLE001 - a field without a JSON form, bytes among them, or a serializer of its own
            return self._mapping(dict(vars(value)), depth)

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        room = max(self._left, 0)
        return {self._key(key): self.form(content, depth) for key, content in islice(value.items(), room)}

    def _sequence(self, value: Any, depth: int) -> list[Any]:
        return [self.form(item, depth) for item in islice(value, max(self._left, 0))]

    def _key(self, key: object) -> str:
        form = self.form(key, MAX_DEPTH - 1) if type(key) is not str else whole_characters(key)
        match form:
            case str():
                return form
            case None:
                return "null"
            case bool():
                return "true" if form else "false"
            case _:
                return str(form)


def _single(value: object) -> Any:
    match value:
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case Decimal():
            return str(value)
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode()
        case BaseException():
            return {"error": type(value).__name__, "message": text_of_object(value)}
        case _:
            return text_of_object(value)


def _whole_number(value: int) -> int | str:
    if INT64_MIN <= value <= UINT64_MAX:
        return value
    try:
        return str(value)
    except ValueError:
        return hex(value)  # Python refuses to write more than 4,300 digits.


def _order(item: object) -> tuple[str, str]:
    """Sets of anything in an order that does not change from run to run."""
    return type(item).__qualname__, text_of_object(item)
