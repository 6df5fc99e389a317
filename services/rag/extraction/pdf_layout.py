"""Rebuilds headings, paragraphs, lists and tables from the lines of PDF pages."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from domain.documents import Block, BlockKind
from services.rag.extraction.pdf_furniture import Page
from services.rag.extraction.pdf_lines import Line, leading_of
from services.rag.extraction.pdf_tables import columns_of_prose, is_prose, table_end, table_text

HEADING_SIZES = ((1.8, 1), (1.4, 2), (1.15, 3))
"""A line this much larger than the body is a heading of this level, where the file has no outline."""
BOLD_LEVEL = 4
MAX_HEADING_CHARS = 150
PARAGRAPH_GAP = 1.3
"""Of the usual leading: more space opens a paragraph."""
SHORT_LINE_SHARE = 0.75
"""Of the paragraph's width: a sentence that ends before it ends the paragraph."""

_BULLET = re.compile(r"[•‣▪●○◦■□–—\-*·➢✓]\s+|\uf0b7\s*|\uf0a7\s*")
_NUMBER = re.compile(r"(?:\d{1,2}[.)]|\(?[a-z]\)|[ivx]{1,4}[.)])\s+")
_LEADER = re.compile(r"(?:\.[ ]?){4,}\s*[\divxlc]+$|…{2,}\s*[\divxlc]+$", re.IGNORECASE)
"""A line of a table of contents: dots lead to the page's number."""
_SENTENCE_END = re.compile(r"[.!?:;…]['\"»”)\]]*$")
_NUMBERING = re.compile(
    r"^(?:(?:chapitre|chapter|section|partie|part|annexe)\s+)?[\divxlc]+(?:\.\d+)*[.):–-]?\s+", re.IGNORECASE
)
_HYPHEN_AFTER = "non sous demi semi quasi vice sud nord ouest peut c'est là grand avant après contre self well high low"
_HYPHEN_BEFORE = "il elle on je tu nous vous ils elles ci là moi toi lui même mêmes être à dessus dessous delà"
_KEEPS_HYPHEN_AFTER = frozenset(_HYPHEN_AFTER.split())
_KEEPS_HYPHEN_BEFORE = frozenset(_HYPHEN_BEFORE.split())

Outline = dict[int, dict[str, int]]
"""For each page the titles that begin there, normalised by `outline_key`, and their levels."""


def outline_key(title: str) -> str:
    """Titles compare without case, spaces and their numbering."""
    return re.sub(r"\W+", "", _NUMBERING.sub("", title.casefold()))


@dataclass(slots=True)
class _Open:
    """What is being written: further lines may belong to it."""

    kind: BlockKind
    page: int
    level: int | None
    text: str
    last: Line
    left: float
    right: float


@dataclass(slots=True)
class Layout:
    """Of one document, whose pages it is given in order."""

    outline: Outline
    _open: _Open | None = None
    _leading: float = 0.0
    _levels: int = field(init=False)

    def __post_init__(self) -> None:
        self._levels = max((level for titles in self.outline.values() for level in titles.values()), default=0)

    def add(self, page: Page, body_size: float, *, bold_body: bool) -> Iterator[Block]:
        self._leading = leading_of(page.lines) or self._leading
        at = 0
        lines = page.lines
        while at < len(lines):
            end = table_end(lines, at)
            if end > at and is_prose(lines[at:end]):
                lines = [*lines[:at], *columns_of_prose(lines[at:end]), *lines[end:]]
            elif end > at:
                yield from self.end()
                yield Block("table", table_text(lines[at:end]), page.number)
                at = end
            else:
                level = self._heading_level(lines, at, page.number, body_size, bold_body)
                yield from self._add_line(lines[at], page.number, level)
                at += 1

    def end(self) -> Iterator[Block]:
        block, self._open = self._open, None
        if block and block.text:
            yield Block(block.kind, block.text, block.page, block.level)

    def _add_line(self, line: Line, page: int, level: int | None) -> Iterator[Block]:
        text = line.text
        bullet = _BULLET.match(text)
        is_item = level is None and (bullet or _NUMBER.match(text) or _LEADER.search(text))
        if bullet and is_item:
            text = f"- {text[bullet.end() :]}"
        block = self._open
        if block and is_item and block.kind == "list" and not self._ended(block, line, page):
            block.text += "\n" + text
        elif block and not is_item and self._continues(block, line, page, level):
            block.text = _join(block.text, text, block.last.hyphen)
        else:
            yield from self.end()
            kind: BlockKind = "heading" if level else "list" if is_item else "paragraph"
            self._open = _Open(kind, page, level, text, line, line.left, line.right)
            return
        block.last = line
        block.left, block.right = min(block.left, line.left), max(block.right, line.right)

    def _heading_level(self, lines: list[Line], at: int, page: int, body_size: float, bold_body: bool) -> int | None:
        line = lines[at]
        titles = self.outline.get(page)
        if titles and (level := _outline_level(titles, lines, at)):
            return level
        text = line.text
        words = any(char.isalpha() for char in text) and not _LEADER.search(text)
        if len(text) > MAX_HEADING_CHARS or len(line.cells) > 1 or not words:
            return None
        for ratio, level in HEADING_SIZES:
            if line.size >= ratio * body_size:
                return min(self._levels + 1, level + 1) if self._levels else level
        stands_out = line.bold and not bold_body and line.size >= 0.95 * body_size
        if stands_out and not text.endswith((".", ",", ";", ":")) and self._stands_alone(lines, at):
            return max(self._levels + 1, BOLD_LEVEL)
        return None

    def _stands_alone(self, lines: list[Line], at: int) -> bool:
        """A bold line with room above it, and none or text that is not bold below."""
        line = lines[at]
        above = lines[at - 1] if at else None
        below = lines[at + 1] if at + 1 < len(lines) else None
        roomy = above is None or not 0 < above.y - line.y <= PARAGRAPH_GAP * (self._leading or line.size * 1.2)
        return roomy and below is not None and not below.bold and not _BULLET.match(line.text)

    def _continues(self, block: _Open, line: Line, page: int, level: int | None) -> bool:
        if block.level != level:
            return False
        if level is not None:
            same = abs(block.last.size - line.size) < 0.5 and block.last.bold == line.bold
            return same and page == block.page and 0 < block.last.y - line.y < 1.8 * line.size
        if block.last.hyphen or self._ended(block, line, page):
            return block.last.hyphen
        if block.kind == "list":
            return line.left > block.left - 1 and not _indented_back(block, line)
        ends = _SENTENCE_END.search(block.text)
        if line.left > block.left + line.size and block.last.left < block.left + line.size and ends:
            return False  # Indented.
        width = block.right - block.left
        return not (ends and block.last.right < block.left + SHORT_LINE_SHARE * width)

    def _ended(self, block: _Open, line: Line, page: int) -> bool:
        """By space, another size, or by a page or column where the sentence does not go on."""
        last = block.last
        if abs(last.size - line.size) > 0.15 * last.size:
            return True
        gap = last.y - line.y
        if page != block.page or gap < -line.size:
            goes_on = block.kind == "paragraph" and not _SENTENCE_END.search(block.text) and line.text[:1].islower()
            return not (goes_on or last.hyphen)
        return gap > PARAGRAPH_GAP * (self._leading or line.size * 1.2)


def _indented_back(block: _Open, line: Line) -> bool:
    """After an item: a full line that begins where items do, after the end of a sentence."""
    return line.left < block.left + 0.5 * line.size and bool(_SENTENCE_END.search(block.text))


def _outline_level(titles: dict[str, int], lines: list[Line], at: int) -> int | None:
    """A line is a title, or half of one that goes on below or began above."""
    keys = [outline_key(line.text) for line in lines[max(at - 1, 0) : at + 2]]
    here = keys[1] if at else keys[0]
    if not here:
        return None
    for key in (here, *(a + b for a, b in pairwise(keys))):
        if key in titles:
            return titles[key]
    return None


def _join(text: str, following: str, hyphen: bool) -> str:
    """A hyphen at a line's end goes, unless it is the word's own: "sous-marin", "peut-être", "dit-il"."""
    if hyphen:
        text = text.removesuffix("-") + "-"
    if not text.endswith("-") or not following[:1].isalpha():
        return f"{text} {following}"
    before = re.split(r"[\s(]", text[:-1])[-1].casefold()
    after = re.match(r"[^\W\d_]+", following)
    own = before in _KEEPS_HYPHEN_AFTER or (after and after[0].casefold() in _KEEPS_HYPHEN_BEFORE)
    if not before or not before[-1].isalpha() or following[0].isupper() or own or "-" in before:
        return text + following
    return text[:-1] + following
