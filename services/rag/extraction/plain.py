"""Plain text: paragraphs are what stands between empty lines."""

import re
from collections.abc import Iterator
from pathlib import Path

from domain.documents import Block
from services.rag.extraction.contract import ExtractionLimits, Reading
from services.rag.extraction.text import lines_of, read_text

_EMPTY_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")
_ITEM = re.compile(r"(?:[-*•–]|\d{1,3}[.)]|[a-z]\))\s")


def read(path: Path, limits: ExtractionLimits) -> Reading:
    return Reading(paragraphs(read_text(path, limits)))


def paragraphs(text: str) -> Iterator[Block]:
    """A block is a list where each of its lines opens an item."""
    start = 0
    for gap in _EMPTY_LINES.finditer(text):
        yield from _block(text[start : gap.start()])
        start = gap.end()
    yield from _block(text[start:])


def _block(text: str) -> Iterator[Block]:
    lines = lines_of(text)
    if lines:
        is_list = "\n" in lines and all(_ITEM.match(line) for line in lines.split("\n"))
        yield Block("list" if is_list else "paragraph", lines)
