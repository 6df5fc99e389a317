"""How a request's JSON body is read: bounded in bytes, in structure, in depth and in its integers, then parsed once.

Doors call this after they have checked the credential: a caller who has none never costs a parse.
"""

import asyncio
import json
import reprlib
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import orjson
from fastapi import Request
from starlette.requests import ClientDisconnect

from domain.errors import BadRequest, InvalidParameter, UnsupportedMedia

MAX_DEPTH = 100
"""Lists and objects within each other. orjson writes no more than 254, and agents put values deeper than they came."""

MARKS = b",:[{"
"""What stands before every value. Each kind has what one more value of it takes in memory at most, as measured."""
BYTES_OF_MARK: Mapping[bytes, int] = {b",": 120, b":": 110, b"[": 100, b"{": 150}
NO_MARKS = bytes(byte for byte in range(256) if byte not in MARKS)
STRUCTURE_PER_BYTE = 4
"""How many bytes of objects one byte of the body may become, besides the texts."""
ALWAYS_ALLOWED_BYTES = 4_000_000
NEVER_ALLOWED_BYTES = 12_000_000
"""About 100,000 values: more would hold up others for longer than a tenth of a second."""
HARMLESS_BODY_BYTES = ALWAYS_ALLOWED_BYTES // max(BYTES_OF_MARK.values())
"""A body that is allowed whatever it holds."""
AT_ONCE_BYTES = 200_000
"""What is parsed on the loop, in about a millisecond; larger bodies go to a thread."""

AS_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
SUSPICIOUS_DIGITS = b"0" * 19
MIN_INTEGER = -(2**63)
MAX_INTEGER = 2**64 - 1
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Programs on Windows write it; RFC 8259 (section 8.1) lets readers pass over it."""
SHOWN_CHARS = 80


class TooMuchStructure(BadRequest):
    """So many values that reading them would hold up others."""


class _TooLong:
    """In place of an integer that no encoder can write."""


async def read_json(request: Request) -> Any:
    """The body's value. Raises `UnsupportedMedia` or `BadRequest`."""
    content_type = request.headers.get("content-type", "")
    if not _is_json(content_type):
        raise UnsupportedMedia(
            f"Content-Type: {content_type[:SHOWN_CHARS] or 'none'!r}; send the body as application/json"
        )
    try:
        content = await request.body()
    except ClientDisconnect as error:
        raise BadRequest("body: the client left before it was whole") from error
    if len(content) <= AT_ONCE_BYTES:
        return parse_json(content)
    return await asyncio.to_thread(parse_json, content)


async def read_json_object(request: Request) -> dict[str, Any]:
    """The body as an object. Fields that are null are as good as absent, and left out."""
    content = await read_json(request)
    if not isinstance(content, dict):
        raise BadRequest("body: send a JSON object")
    return {key: value for key, value in content.items() if value is not None}


def parse_json(content: bytes) -> Any:
    """The value of a body. Raises `BadRequest` for what is no JSON, and for what is more than a value may be."""
    if len(content) > HARMLESS_BODY_BYTES:
        _check_structure(content)
    try:
        value = orjson.loads(content.removeprefix(BYTE_ORDER_MARK))
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"body: not valid JSON: {error}") from error
    if content.count(b"[") + content.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    if _has_long_number(content):
        _check_integers(json.loads(content.removeprefix(BYTE_ORDER_MARK), parse_int=_integer))
    return value


def short_text(value: Any) -> str:
    """A value as an error quotes it; however large it is, only its beginning is looked at."""
    text = _quoting.repr(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 1]}…"


def _check_structure(content: bytes) -> None:
    """Counts before anything is built: what many small values become in memory is many times what they are here."""
    allowed = min(max(STRUCTURE_PER_BYTE * len(content), ALWAYS_ALLOWED_BYTES), NEVER_ALLOWED_BYTES)
    if _size_of_structure(content) > allowed:
        # Perhaps texts hold most of the marks.
        outside = _without_texts(content, most_texts=allowed // BYTES_OF_MARK[b":"])
        if outside is None or _size_of_structure(outside) > allowed:
            raise TooMuchStructure(
                f"body: it holds too many values for its {len(content)} bytes; send fewer in one request"
            )


def _size_of_structure(content: bytes) -> int:
    marks = content.translate(None, NO_MARKS)
    return sum(size * marks.count(mark) for mark, size in BYTES_OF_MARK.items())


def _without_texts(content: bytes, *, most_texts: int) -> bytes | None:
    """What stands outside of strings; `None` when there are more strings than this."""
    plain = content.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') > 2 * most_texts:
        return None
    return b"".join(plain.split(b'"')[::2])


def _check_depth(value: Any) -> None:
    if not _is_deep(value, MAX_DEPTH):
        return
    for name, part in value.items() if isinstance(value, dict) else ():
        if _is_deep(part, MAX_DEPTH - 1):
            raise InvalidParameter(name[:SHOWN_CHARS], f"it is nested more than {MAX_DEPTH} deep")
    raise BadRequest(f"body: it is nested more than {MAX_DEPTH} deep")


def _is_deep(value: Any, most: int) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    while level and most:
        level = [part for parent in level for part in _parts(parent) if isinstance(part, dict | list)]
        most -= 1
    return bool(level)


def _parts(parent: Any) -> Any:
    return parent.values() if isinstance(parent, dict) else parent


def _has_long_number(content: bytes) -> bool:
    """Whether a number may have 19 digits or more; in texts, they are common."""
    if SUSPICIOUS_DIGITS not in content.translate(AS_ZEROS):
        return False
    outside = _without_texts(content, most_texts=len(content))
    return outside is not None and SUSPICIOUS_DIGITS in outside.translate(AS_ZEROS)


def _integer(digits: str) -> int | _TooLong:
    """The parser that is fast makes a float of an integer that is too long, which is another number."""
    if len(digits) > len(str(MAX_INTEGER)):
        return _TooLong()
    number = int(digits)
    return number if MIN_INTEGER <= number <= MAX_INTEGER else _TooLong()


def _check_integers(value: Any) -> None:
    for name, part in value.items() if isinstance(value, dict) else [("body", value)]:
        if any(isinstance(leaf, _TooLong) for leaf in _leaves(part)):
            raise InvalidParameter(name[:SHOWN_CHARS], "it holds an integer of more than 64 bits; send it as a string")


def _leaves(value: Any) -> Iterator[Any]:
    level = [value]
    while level:
        yield from (part for part in level if not isinstance(part, dict | list))
        level = [part for parent in level if isinstance(parent, dict | list) for part in _parts(parent)]


class _Quoting(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxlist = self.maxdict = 6
        self.maxstring = self.maxother = 2 * SHOWN_CHARS

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        """In its own order: sorting looks at every key."""
        if not x or level <= 0:
            return "{...}" if x else "{}"
        shown = [f"{self.repr1(key, level - 1)}: {self.repr1(x[key], level - 1)}" for key in islice(x, self.maxdict)]
        return "{" + ", ".join([*shown, "..."] if len(x) > self.maxdict else shown) + "}"


_quoting = _Quoting()


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
