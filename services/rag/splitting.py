"""Cuts a document's blocks into passages, as they come: pure, deterministic, in constant memory.

The document's text is its blocks' texts joined by an empty line; for every passage
`document_text[start_char:end_char] == text`, with one exception: a passage that begins inside a table repeats the
table's first row and a line break before the slice.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from domain.documents import Block, PassageDraft
from services.rag.sentences import sentence_ends

MAX_CHARS = 1_000
"""The local encoder tells short texts apart best: beyond some 200 words a passage's vector is an average of topics."""
GOOD_CHARS = 500
"""From here on a passage rather ends with its block than takes the first sentences of the next."""
SMALL_CHARS = 250
"""A smaller passage says too little by itself: it goes with its neighbour of the same section."""
LONGEST_CHARS = MAX_CHARS + SMALL_CHARS
"""No passage is longer, the repeated row of a table included."""
MAX_TABLE_HEADER_CHARS = 300
"""A longer first row is not repeated: it would leave too little room for the rows."""
MAX_HEADING_CHARS = 200
"""Headings are repeated with every passage: a longer one is cut there (its whole text is in a passage)."""
MAX_LEVEL = 9

BETWEEN_BLOCKS = "\n\n"

_BREAK = re.compile(r"\s+")
_LINE_END = re.compile(r"\n+")


def split(blocks: Iterable[Block]) -> Iterator[PassageDraft]:
    """The passages of a document. One never holds the body of two sections."""
    splitter = _Splitter()
    for block in blocks:
        yield from splitter.add(block)
    yield from splitter.end_section()


@dataclass(slots=True)
class _Draft:
    """Consecutive text of the document, which begins at `start`; `header` is the row repeated before it."""

    start: int
    page: int | None
    header: str = ""
    parts: list[str] = field(default_factory=list)
    length: int = 0
    """Of the parts, without the header."""

    @property
    def size(self) -> int:
        return self.length + len(self.header)

    @property
    def end(self) -> int:
        return self.start + self.length

    def append(self, start: int, text: str) -> None:
        """`start` is the draft's end, or one empty line further."""
        if self.parts and self.end < start:
            self.parts.append(BETWEEN_BLOCKS)
            self.length += len(BETWEEN_BLOCKS)
        self.parts.append(text)
        self.length += len(text)


class _Splitter:
    def __init__(self) -> None:
        self._offset = 0
        self._ordinal = 0
        self._path: list[tuple[int, str]] = []
        self._only_headings = True
        self._draft: _Draft | None = None
        self._held: _Draft | None = None  # Complete, unless what follows in its section is too small to stand alone.

    def add(self, block: Block) -> Iterator[PassageDraft]:
        if block.kind == "heading" and block.text.strip():
            yield from self._open_section(block)
        elif block.text.strip():
            self._only_headings = False
        if self._draft and self._draft.size >= GOOD_CHARS and not self._has_room(len(block.text)):
            yield from self._close_draft()
        if self._has_room(len(block.text)):
            yield from self._take(block.text, block.page, "")
        else:
            header = _table_header(block)
            for at, piece in enumerate(_pieces(block, MAX_CHARS - len(header))):
                yield from self._take(piece, block.page, header if at else "")
        self._offset += len(BETWEEN_BLOCKS)

    def end_section(self) -> Iterator[PassageDraft]:
        yield from self._close_draft()
        yield from self._release()

    def _open_section(self, block: Block) -> Iterator[PassageDraft]:
        """A heading right under its parent stays with it: a passage of one title would find nothing."""
        level = max(1, min(block.level or 1, MAX_LEVEL))
        deepens = self._only_headings and self._path and level > self._path[-1][0]
        if not deepens:
            yield from self.end_section()
        self._path = [(above, title) for above, title in self._path if above < level]
        self._path.append((level, _BREAK.sub(" ", block.text).strip()[:MAX_HEADING_CHARS].rstrip()))
        self._only_headings = True

    def _has_room(self, length: int) -> bool:
        size = self._draft.size + len(BETWEEN_BLOCKS) if self._draft else 0
        return size + length <= (LONGEST_CHARS if 0 < size < SMALL_CHARS else MAX_CHARS)

    def _take(self, text: str, page: int | None, header: str) -> Iterator[PassageDraft]:
        if self._draft and not self._has_room(len(text)):
            yield from self._close_draft()
        if not self._draft:
            self._draft = _Draft(self._offset, page, header)
        self._draft.append(self._offset, text)
        self._offset += len(text)

    def _close_draft(self) -> Iterator[PassageDraft]:
        draft, held = self._draft, self._held
        self._draft = None
        if draft is None:
            return
        if not (text := "".join(draft.parts)).strip():
            yield from self._release()  # Nothing to find there, and what follows is no longer its neighbour.
            return
        gap = draft.start - held.end if held else 0
        if held and draft.length < SMALL_CHARS and held.size + gap + draft.length <= LONGEST_CHARS:
            held.append(draft.start, text)
            return
        yield from self._release()
        self._held = draft

    def _release(self) -> Iterator[PassageDraft]:
        draft, self._held = self._held, None
        if draft is None:
            return
        whole = "".join(draft.parts)
        text = whole.strip()
        start = draft.start + len(whole) - len(whole.lstrip())
        headings = tuple(title for _, title in self._path)
        yield PassageDraft(self._ordinal, draft.header + text, headings, draft.page, start, start + len(text))
        self._ordinal += 1


def _table_header(block: Block) -> str:
    """The first row and its line break, where it is to be repeated."""
    first, line_break, rows = block.text.partition("\n")
    is_header = block.kind == "table" and rows.strip() and len(first) < MAX_TABLE_HEADER_CHARS
    return first + line_break if is_header else ""


def _pieces(block: Block, max_chars: int) -> Iterator[str]:
    """The block's text in pieces of at most `max_chars`, with the white space after each: joined, they are the text."""
    if block.kind in ("paragraph", "heading"):
        return _cut(block.text, sentence_ends(block.text), max_chars)
    return _cut(block.text, (match.end() for match in _LINE_END.finditer(block.text)), max_chars)


def _cut(text: str, ends: Iterable[int], max_chars: int) -> Iterator[str]:
    start = 0
    for end in chain(ends, (len(text),)):
        yield from _between_words(text, start, end, max_chars)
        start = end


def _between_words(text: str, start: int, end: int, max_chars: int) -> Iterator[str]:
    """The text from `start` to `end`, cut inside a word only where the word alone is longer than a passage."""
    while end - start > max_chars:
        at = _last_break(text, start, start + max_chars)
        yield text[start:at]
        start = at
    if start < end:
        yield text[start:end]


def _last_break(text: str, start: int, end: int) -> int:
    for at in range(end, start, -1):
        if text[at - 1].isspace():
            return at
    return end
