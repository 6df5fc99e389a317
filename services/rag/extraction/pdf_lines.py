"""The lines of a PDF page as a reader sees them: their words, where they stand, how large they are."""

import ctypes
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from services.rag.extraction.text import one_line

CELL_GAP = 1.5
"""In font sizes: justified text stretches its spaces to one; what stands further apart are two cells."""
SAME_LINE = 0.35
"""In font sizes: how far from a line's base an index or exponent still belongs to it."""
HYPHEN = "\x02"
"""What PDFium puts for a hyphen at a line's end, instead of it and the line break."""

_WORD = re.compile(r"[^\s\x00-\x1f\u00a0\ufffe]+")
_FONT_NAME_BYTES = 128
_BOLD = (b"bold", b"black", b"heavy", b"semibold", b"demi")


@dataclass(slots=True)
class Cell:
    """Words of one line that stand together."""

    text: str
    left: float
    right: float


@dataclass(slots=True)
class Line:
    """Lengths are in points; `y`, its base, grows towards the top. `hyphen`: its last word goes on below.

    A table's row whose cells have several lines is one line too; `last_y` is then the lowest of their bases.
    """

    cells: list[Cell]
    y: float
    size: float
    bold: bool
    hyphen: bool = False
    last_y: float | None = None

    @property
    def bottom(self) -> float:
        return self.y if self.last_y is None else self.last_y

    @property
    def text(self) -> str:
        return " ".join(cell.text for cell in self.cells)

    @property
    def left(self) -> float:
        return self.cells[0].left

    @property
    def right(self) -> float:
        return self.cells[-1].right


@dataclass(slots=True)
class _Word:
    text: str
    at: int
    left: float
    right: float
    y: float
    ends_line: bool = False
    hyphen: bool = False


def lines_of_page(page: pdfium.PdfPage) -> list[Line]:
    """In the order they were drawn; what stands side by side may be several."""
    text = page.get_textpage()
    try:
        return [line for words in _raw_lines(_words(text, _upright(page))) for line in [_line(text, words)] if line]
    finally:
        text.close()


def _words(text: Any, upright: Any) -> Iterator[_Word]:
    raw = text.raw
    chars = "".join(map(chr, (pdfium_c.FPDFText_GetUnicode(raw, at) for at in range(text.count_chars()))))
    x, y, left, right, bottom, top = (ctypes.c_double() for _ in range(6))
    before: _Word | None = None
    for match in _WORD.finditer(chars):
        first, last = match.start(), match.end() - 1
        pdfium_c.FPDFText_GetCharOrigin(raw, first, x, y)
        pdfium_c.FPDFText_GetCharBox(raw, last, left, right, bottom, top)
        start, base = upright(x.value, y.value)
        ends = sorted((upright(left.value, bottom.value)[0], upright(right.value, top.value)[0]))
        if before is not None:
            between = chars[before.at + len(before.text) : first]
            before.hyphen = HYPHEN in between
            before.ends_line = before.hyphen or "\n" in between
            yield before
        before = _Word(match[0], first, start, max(ends[1], start), base)
    if before is not None:
        before.hyphen = HYPHEN in chars[before.at + len(before.text) :]
        yield before


def _upright(page: pdfium.PdfPage) -> Any:
    """From the file's coordinates to those of the page as it is shown."""
    width, height = page.get_size()
    match page.get_rotation():
        case 90:
            return lambda x, y: (y, height - x)
        case 180:
            return lambda x, y: (width - x, height - y)
        case 270:
            return lambda x, y: (width - y, x)
        case _:
            return lambda x, y: (x, y)


def _raw_lines(words: Iterator[_Word]) -> Iterator[list[_Word]]:
    line: list[_Word] = []
    for word in words:
        line.append(word)
        if word.ends_line:
            yield line
            line = []
    if line:
        yield line


def _line(text: Any, words: list[_Word]) -> Line | None:
    size, bold = _font(text, max(words, key=lambda word: len(word.text)).at)
    cells: list[Cell] = []
    spoken: list[str] = []
    left, right = words[0].left, words[0].right
    for word in words:
        if word.left - right > CELL_GAP * size and spoken:
            cells.append(Cell(_joined(spoken), left, right))
            spoken, left = [], word.left
        spoken.append(word.text)
        right = max(word.right, word.left)
    cells.append(Cell(_joined(spoken), left, right))
    cells = [cell for cell in cells if cell.text]
    return Line(cells, words[0].y, size, bold, words[-1].hyphen) if cells else None


def _joined(words: list[str]) -> str:
    """PDFium tells letters beyond the first 65,536 in halves."""
    text = " ".join(words)
    return one_line(text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "ignore"))


def _font(text: Any, at: int) -> tuple[float, bool]:
    """The size as shown (files often write size 1 and a scale), and whether the font's name says bold."""
    matrix = pdfium_c.FS_MATRIX()
    pdfium_c.FPDFText_GetMatrix(text.raw, at, matrix)
    size = pdfium_c.FPDFText_GetFontSize(text.raw, at) * (matrix.b**2 + matrix.d**2) ** 0.5
    name = ctypes.create_string_buffer(_FONT_NAME_BYTES)
    pdfium_c.FPDFText_GetFontInfo(text.raw, at, name, _FONT_NAME_BYTES, ctypes.c_int())
    return size or 1.0, any(word in name.value.lower() for word in _BOLD)


def leading_of(lines: list[Line]) -> float:
    """From a line's base to the next one's, as is usual on the page."""
    gaps = [above.y - below.y for above, below in pairwise(lines)]
    usual = [gap for gap, line in zip(gaps, lines, strict=False) if 0.8 * line.size < gap < 2.2 * line.size]
    return statistics.median_low(usual) if usual else 0.0
