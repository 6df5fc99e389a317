"""What a body is, by its bytes and not by its label: events, JSON in one piece, or a page."""

import json
import re
from typing import Literal

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Form = Literal["events", "json", "page"]


def form_of(data: bytes) -> Form | None:
    """What a body is, by its first bytes; `None` while there are too few."""
    if not data or BYTE_ORDER_MARK.startswith(data):
        return None
    if data.startswith((b"{", b"[")):
        return "json"
    return "page" if data.startswith(b"<") else "events"


def with_line_feeds(data: bytes) -> bytes:
    """JSON escapes carriage returns, so raw ones are line ends; a lone last one waits for its line feed."""
    data = data.replace(b"\r\n", b"\n")
    waits = data.endswith(b"\r") and not data.endswith(b"\r\r")
    return data[:-1].replace(b"\r", b"\n") + b"\r" if waits else data.replace(b"\r", b"\n")


def is_object(content: bytes) -> bool:
    """Whether it is an object by itself, or the mark of the end."""
    if content.strip() == b"[DONE]":
        return True
    try:
        return isinstance(json.loads(content), dict)
    except (ValueError, RecursionError):
        return False


def contents_of(event: bytes) -> tuple[list[bytes], bytes | None]:
    """The contents of an event of the general form: its data lines joined, or each for itself when it can stand so;
    and what it says as an error, by its type or by the name of a field."""
    if event.lstrip().startswith((b"{", b"[")):
        # Written into the stream without the form of an event: mostly an error.
        return [event.strip()], None
    lines = [line.partition(b":") for line in event.split(b"\n")]
    fields = [(name, value.removeprefix(b" ")) for name, _, value in lines]
    data = [value for name, value in fields if name == b"data"]
    errors = [value for name, value in fields if name == b"error" and value]
    is_error = bool(errors) or (b"event", b"error") in fields
    several = len(data) > 1 and is_object(data[0])
    return (data if several else [b"\n".join(data)]), b"\n".join(errors or data) if is_error else None


def words_of_page(page: bytes) -> str:
    """A page by its first words, without its tags: what whoever stands in front of the provider says."""
    text = re.sub(
        r"<(style|script)\b.*?(</\1>|$)|<[^>]*(>|$)", " ", page[:4000].decode("utf-8", "replace"), flags=re.DOTALL
    )
    return f"a page ({' '.join(text.split())[:100] or 'without words'})"
