"""What the reading process says on its standard output: one JSON object a line.

    {"passages": [[ordinal, text, headings, page, start, end], …], "pages_done": …, "pages_total": …, "title": …}
    {"unreadable": reason}    the last line
    {"broke": where}          the last line: a reader met what it did not expect; `where` names our code, never content
    {"end": true}             the last line of a document read to its end

The process has handled a stranger's file: what it says is checked, never trusted.
"""

from typing import Any

import orjson

from domain.documents import PassageDraft
from services.rag.extraction.contract import MAX_TITLE_CHARS, ExtractedPart
from services.rag.splitting import LONGEST_CHARS, MAX_LEVEL

MAX_PASSAGES = 64
"""A line's passages: some 60 kB of text, and the batch that the local encoder takes at once."""
MAX_LINE_BYTES = 2 << 20
"""Above what 64 passages with their headings take when every character is four bytes."""


class BrokenLine(ValueError):
    """The line is not of this protocol."""


def encode_part(part: ExtractedPart) -> bytes:
    passages = [(p.ordinal, p.text, p.headings, p.page, p.start_char, p.end_char) for p in part.passages]
    return orjson.dumps(
        {"passages": passages, "pages_done": part.pages_done, "pages_total": part.pages_total, "title": part.title},
        option=orjson.OPT_APPEND_NEWLINE,
    )


def encode_last(**said: str | bool) -> bytes:
    return orjson.dumps(said, option=orjson.OPT_APPEND_NEWLINE)


def decode(line: bytes, next_ordinal: int) -> ExtractedPart | dict[str, Any]:
    """A part whose passages go on from `next_ordinal`, or one of the last lines."""
    try:
        said = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BrokenLine("not JSON") from error
    match said:
        case {"passages": list(passages), "pages_done": done, "pages_total": total, "title": title}:
            if len(passages) > MAX_PASSAGES or not (title is None or isinstance(title, str)):
                raise BrokenLine("passages or title")
            drafts = tuple(_passage(row, next_ordinal + at) for at, row in enumerate(passages))
            return ExtractedPart(drafts, _count(done), _count(total), title and title[:MAX_TITLE_CHARS])
        case {"unreadable": str()} | {"broke": str()} | {"end": True}:
            return dict(said)
    raise BrokenLine("neither a part nor a last word")


def _passage(row: Any, ordinal: int) -> PassageDraft:
    match row:
        case [int(number), str(text), list(headings), page, int(start), int(end)]:
            sane = number == ordinal and text and len(text) <= LONGEST_CHARS and 0 <= start < end
            if sane and len(headings) <= MAX_LEVEL and all(isinstance(heading, str) for heading in headings):
                return PassageDraft(number, text, tuple(headings), _count(page), start, end)
    raise BrokenLine("a passage")


def _count(value: Any) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise BrokenLine("a count of pages")
