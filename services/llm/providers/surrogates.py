"""Halves of surrogate pairs: legal in JSON's escapes, in no encoder; joined across events, or replaced.

A provider that cuts an emoji between two events sends `"\\ud83d"`, then `"\\ude00"`. A half that stays alone is U+FFFD.
"""

import math
from typing import Any

REPLACEMENT = "\ufffd"
LARGEST_INTEGER = 2**64 - 1
"""Above it, an integer has no place in the encoder's JSON: a float has."""


class Halves:
    """Joins the pieces of one text; keeps the half that the last piece ended with."""

    __slots__ = ("high",)

    def __init__(self) -> None:
        self.high = ""

    def join(self, piece: str) -> str:
        """The piece with what was kept before it, and without the half it ends with."""
        if not self.high and piece.isascii():
            return piece
        text, self.high = self.high + piece, ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self.high = text[:-1], text[-1]
        return joined(text)

    def rest(self) -> str:
        """At the end of the text: the replacement of a half that stayed alone."""
        alone, self.high = self.high, ""
        return REPLACEMENT if alone else ""


def joined(text: str) -> str:
    """The text with its pairs joined and its lone halves replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


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
        case int() if abs(value) > LARGEST_INTEGER:
            return None
        case _:
            return value
