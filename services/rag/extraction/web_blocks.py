"""Turns a web page's tags and texts, as they open and close, into blocks."""

from collections.abc import Iterator

from selectolax.lexbor import LexborNode

from domain.documents import Block, BlockKind
from services.rag.extraction.text import clean, lines_of, one_line, row_of

_HEADINGS = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}
_LISTS = frozenset({"ul", "ol", "menu"})
_CELLS = frozenset({"td", "th"})
_INLINE_TAGS = """
    a abbr acronym b bdi bdo big cite code data del dfn em font i img input ins kbd label mark meter nobr output picture
    progress q rp rt ruby s samp small source span strike strong sub sup time tt u var wbr video audio track area map
"""
_INLINE = frozenset(_INLINE_TAGS.split())
"""Every other tag breaks the line, also one we do not know."""
_STRUCTURE_IN_TABLE = "table, h1, h2, h3, h4, pre"
_STRUCTURE_IN_LIST = "h1, h2, h3, h4, h5, h6, table, pre"


class PageBlocks:
    """A list or table that holds headings or tables is layout: what it holds are blocks of their own."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._level: int | None = None
        self._lists: list[str] = []
        self._items: list[str] = []
        self._mark = ""
        self._numbers: list[int] = []
        self._table: int | None = None
        self._rows: list[list[str]] = []
        self._pre: int | None = None

    def say(self, text: str) -> None:
        self._said.append(text if self._pre is not None else text.replace("\n", " "))

    def open(self, node: LexborNode) -> Iterator[Block]:
        tag = node.tag or ""
        if tag in _INLINE:
            return
        if tag == "br":
            self._said.append("\n")
        elif self._table is not None:
            self._open_in_table(tag)
        elif self._pre is not None:
            self._said.append("\n")
        elif tag in _LISTS and (self._lists or not _has(node, _STRUCTURE_IN_LIST)):
            yield from self._open_list(tag)
        elif self._lists:
            self._open_in_list(tag)
        else:
            yield from self._paragraph()
            if tag in _HEADINGS:
                self._level = _HEADINGS[tag]
            elif tag == "pre":
                self._pre = node.mem_id
            elif tag == "table" and not any(_has(part, _STRUCTURE_IN_TABLE) for part in node.iter()):
                self._table = node.mem_id

    def close(self, node: LexborNode) -> Iterator[Block]:
        tag = node.tag or ""
        if tag in _INLINE or tag == "br":
            return
        if self._table is not None:
            if node.mem_id == self._table:
                yield from self._end_table()
            else:
                self._said.append(" ")
        elif self._pre is not None:
            if node.mem_id == self._pre:
                self._pre = None
                yield from _block("code", clean("".join(self._take())).strip("\n"))
        elif self._lists:
            if tag in _LISTS:
                yield from self._close_list()
            else:
                self._said.append("\n")
        else:
            yield from self._paragraph()

    def end(self) -> Iterator[Block]:
        yield from self._paragraph()

    def _paragraph(self) -> Iterator[Block]:
        text, level = lines_of("".join(self._take())), self._level
        self._level = None
        if level is None:
            yield from _block("paragraph", text)
        else:
            yield from _block("heading", one_line(text), level)

    def _open_list(self, tag: str) -> Iterator[Block]:
        if self._lists:
            self._end_item()
        else:
            yield from self._paragraph()
        self._lists.append(tag)
        self._numbers.append(0)

    def _open_in_list(self, tag: str) -> None:
        if tag != "li":
            self._said.append("\n")
            return
        self._end_item()
        self._numbers[-1] += 1
        mark = f"{self._numbers[-1]}. " if self._lists[-1] == "ol" else "- "
        self._mark = "  " * min(len(self._lists) - 1, 9) + mark

    def _close_list(self) -> Iterator[Block]:
        self._end_item()
        self._lists.pop()
        self._numbers.pop()
        if not self._lists:
            items, self._items = self._items, []
            yield from _block("list", "\n".join(items))

    def _end_item(self) -> None:
        if text := lines_of("".join(self._take())):
            self._items.append(self._mark + text)
            self._mark = ""

    def _open_in_table(self, tag: str) -> None:
        if tag == "tr":
            self._end_cell()
            self._rows.append([])
        elif tag in _CELLS:
            self._end_cell()
            if not self._rows:
                self._rows.append([])
            self._rows[-1].append("")
        else:
            self._said.append(" ")

    def _end_cell(self) -> None:
        """What stands outside of cells (a caption) is a row by itself."""
        text = one_line("".join(self._take()))
        if self._rows and self._rows[-1]:
            self._rows[-1][-1] = text
        elif text:
            self._rows.append([text])

    def _end_table(self) -> Iterator[Block]:
        self._end_cell()
        rows, self._rows, self._table = [row for row in self._rows if any(row)], [], None
        if all(len(row) == 1 for row in rows):
            yield from (Block("paragraph", text) for row in rows for text in row)
            return
        while rows and len(rows[0]) == 1:  # A caption, or a title over all columns: no header to repeat.
            yield Block("paragraph", rows.pop(0)[0])
        yield Block("table", "\n".join(row_of(row) for row in rows))

    def _take(self) -> list[str]:
        said, self._said = self._said, []
        return said


def _has(node: LexborNode, selector: str) -> bool:
    return node.css_first(selector) is not None


def _block(kind: BlockKind, text: str, level: int | None = None) -> Iterator[Block]:
    if text.strip():
        yield Block(kind, text, level=level)
