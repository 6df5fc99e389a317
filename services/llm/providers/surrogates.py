"""Halves of surrogate pairs: legal in JSON's escapes, in no encoder; joined across events, or replaced.

A provider that cuts an emoji between two events sends `"\\ud83d"`, then `"\\ude00"`, or two of its bytes in UTF-8, then
the other two. A half that stays alone is U+FFFD.
"""

import math
import re
from typing import Any

import orjson

from core.json_form import INT64_MIN, UINT64_MAX

REPLACEMENT = "\ufffd"

BYTE_KEPT = re.compile("[\udc80-\udcff]")
ALONE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
OPEN_END = re.compile(
    "(?:[\ud800-\udbff]|[\udcc2-\udcf4]|[\udce0-\udcf4][\udc80-\udcbf]|[\udcf0-\udcf4][\udc80-\udcbf]{2})$"
)
"""Half a pair, or the first bytes of a character in UTF-8: the next piece may go on with it."""


class Halves:
    """Joins the pieces of one text; keeps the half that the last piece ended with."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = ""

    def join(self, piece: str) -> str:
        """The piece with what was kept before it, and without the half it ends with."""
        if not self.held:
            if piece.isascii():
                return piece
            if is_encodable(piece):
                return piece
        elif not piece:
            return piece
        text, self.held = _paired(self.held + piece), ""
        if end := OPEN_END.search(text):
            text, self.held = text[: end.start()], end.group()
        return joined(text)

    def rest(self) -> str:
        """At the end of the text: the replacement of a half that stayed alone."""
        if not self.held:
            return ""
        alone, self.held = self.held, ""
        return joined(alone)


def is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def text_of(received: bytes) -> str:
    """The text of these bytes; those that are no UTF-8 stay in it as low surrogates, as Python keeps them."""
    return received.decode("utf-8", "surrogateescape")


def joined(text: str) -> str:
    """The text with its pairs joined, its bytes that make characters read, and what stays alone replaced."""
    if is_encodable(text):
        return text
    text = ALONE.sub(REPLACEMENT, _paired(text))
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if BYTE_KEPT.search(text) else text


def _paired(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def encodable(value: Any) -> Any:
    """The same JSON value with nothing in it that an encoder refuses."""
    match value:
        case str():
            return joined(value)
        case dict():
            return {joined(str(key)): encodable(each) for key, each in value.items()}
        case list():
            return [encodable(each) for each in value]
        case float():
            return value if math.isfinite(value) else None
        case int() if not INT64_MIN <= value <= UINT64_MAX:
            return None
        case _:
            return value


def with_whole_characters(value: Any) -> Any:
    """The same value, the texts in it joined; its numbers, however large, stay what they are."""
    match value:
        case str():
            return joined(value)
        case dict():
            return {with_whole_characters(key): with_whole_characters(each) for key, each in value.items()}
        case list() | tuple():
            return [with_whole_characters(each) for each in value]
        case _:
            return value


def json_of(value: Any) -> bytes:
    """The value in JSON. Only where the encoder refuses it are its texts looked through."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(with_whole_characters(value))
