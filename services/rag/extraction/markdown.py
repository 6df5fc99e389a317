"""Markdown: headings, paragraphs, lists, tables and code, without their marks."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from domain.documents import Block, BlockKind
from services.rag.extraction.contract import ExtractionLimits, Reading, UnreadableDocument, too_deep
from services.rag.extraction.text import lines_of, one_line, read_text, row_of

SLICE_CHARS = 65_536
"""Parsed at once: tokens take some fifty times their text in memory."""
MAX_BRACKETS = 1_000
MAX_NESTING = 60
"""markdown-it drops what is nested deeper than its own limit; we unwrap such lines first."""

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_FRONT_MATTER = re.compile(r"---\n(.*?)\n(?:---|\.\.\.)(?:\n|\Z)", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title:[ \t]*[\"']?(.+?)[\"']?[ \t]*$", re.MULTILINE)
_OPENS_A_BLOCK = re.compile(r"#{1,6}\s|[^\s>*+\-\d|`~<]")
_TOO_DEEP = re.compile(r"^(?:[ \t]*(?:>|[-*+][ \t]|\d{1,9}[.)][ \t])){20,}[ \t]*", re.MULTILINE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_BRACKET = re.compile(r"\\.|[\[\]()]|\n[ \t]*\n", re.DOTALL)


def read(path: Path, limits: ExtractionLimits) -> Reading:
    text = read_text(path, limits)
    front = _FRONT_MATTER.match(text)
    title = _FRONT_TITLE.search(front[1]) if front else None
    blocks = markdown_blocks(text[front.end() :] if front else text)
    first = next(blocks, None)
    if first is None:
        return Reading(blocks)
    heading = first.text if first.kind == "heading" and first.level == 1 else None
    return Reading(_after(first, blocks), title=one_line(title[1]) if title else heading)


def _after(first: Block, rest: Iterator[Block]) -> Iterator[Block]:
    yield first
    yield from rest


def markdown_blocks(text: str) -> Iterator[Block]:
    parser = MarkdownIt("commonmark", {"maxNesting": MAX_NESTING}).enable(["table", "strikethrough"])
    _check_brackets(text)
    for piece in _slices(_TOO_DEEP.sub("", text)):
        yield from _top_level(parser.parse(piece))


def _check_brackets(text: str) -> None:
    """Of links within a paragraph: for each that is open, markdown-it looks for its end."""
    if text.count("[") + text.count("(") <= MAX_BRACKETS:
        return
    depth = 0
    for found in _BRACKET.finditer(text):
        mark = found[0]
        if mark in "[(":
            depth += 1
            if depth > MAX_BRACKETS:
                raise UnreadableDocument(too_deep(MAX_BRACKETS))
        elif mark in "])":
            depth = max(0, depth - 1)
        elif mark[0] == "\n":
            depth = 0


def _without_tags(html: str) -> str:
    kept: list[str] = []
    at = 0
    while (begin := html.find("<!--", at)) >= 0 and (end := html.find("-->", begin)) >= 0:
        kept.append(html[at:begin])
        at = end + 3
    kept.append(html[at:])
    return _TAG.sub("", "".join(kept))


def _slices(text: str) -> Iterator[str]:
    """The text in pieces that parse as they would together: each begins after an empty line, outside a fence."""
    piece: list[str] = []
    size = 0
    fence = ""
    after_empty = False
    for line in text.splitlines(keepends=True):
        if size >= SLICE_CHARS and not fence and after_empty and _OPENS_A_BLOCK.match(line):
            yield "".join(piece)
            piece, size = [], 0
        if mark := _FENCE.match(line):
            if not fence:
                fence = mark[1]
            elif mark[1].startswith(fence) and not line[mark.end() :].strip():
                fence = ""
        after_empty = not line.strip()
        piece.append(line)
        size += len(line)
    yield "".join(piece)


def _top_level(tokens: Sequence[Token]) -> Iterator[Block]:
    at = 0
    while at < len(tokens):
        token = tokens[at]
        if token.nesting != 1:
            yield from _leaf(token)
            at += 1
            continue
        end = _closing(tokens, at)
        inside = tokens[at + 1 : end]
        match token.type:
            case "heading_open":
                yield from _block("heading", _inline(inside), int(token.tag[1:]))
            case "bullet_list_open" | "ordered_list_open":
                yield from _block("list", "\n".join(_items(tokens[at : end + 1])))
            case "table_open":
                yield from _block("table", "\n".join(_rows(inside)))
            case "paragraph_open":
                yield from _block("paragraph", _inline(inside))
            case _:  # A quotation: what it holds are blocks again. Their depth is bounded by the parser.
                yield from _top_level(inside)
        at = end + 1


def _closing(tokens: Sequence[Token], at: int) -> int:
    level = tokens[at].level
    return next(i for i in range(at + 1, len(tokens)) if tokens[i].level == level and tokens[i].nesting == -1)


def _leaf(token: Token) -> Iterator[Block]:
    if token.type in ("fence", "code_block"):
        yield from _block("code", token.content.strip("\n"))
    elif token.type == "html_block":
        yield from _block("paragraph", lines_of(_without_tags(token.content)))


def _block(kind: BlockKind, text: str, level: int | None = None) -> Iterator[Block]:
    if text.strip():
        yield Block(kind, text, level=level)


def _items(tokens: Sequence[Token]) -> Iterator[str]:
    """A line an item, two spaces deeper a level; its further paragraphs and code follow on lines of their own."""
    lists: list[str] = []
    mark = ""
    for token in tokens:
        match token.type:
            case "bullet_list_open" | "ordered_list_open":
                lists.append(token.type)
            case "bullet_list_close" | "ordered_list_close":
                lists.pop()
            case "list_item_open":
                mark = f"{token.info}{token.markup} " if lists[-1] == "ordered_list_open" else "- "
            case "inline" | "fence" | "code_block" | "html_block":
                text = _inline([token]) if token.type == "inline" else lines_of(_without_tags(token.content))
                if text:
                    yield "  " * (len(lists) - 1) + mark + text
                    mark = ""


def _rows(tokens: Sequence[Token]) -> Iterator[str]:
    cells: list[str] = []
    for token in tokens:
        if token.type == "inline":
            cells.append(one_line(_inline([token])))
        elif token.type == "tr_close":
            yield row_of(cells)
            cells = []


def _inline(tokens: Sequence[Token]) -> str:
    """The text of inline content: links by their words, pictures by their description."""
    said: list[str] = []
    for token in tokens:
        for child in token.children or ():
            if child.type == "image":
                said.append(_inline([child]) or child.content)
            elif child.type == "softbreak":
                said.append(" ")
            elif child.type == "hardbreak" or (child.type == "html_inline" and child.content.startswith("<br")):
                said.append("\n")
            elif child.type in ("text", "code_inline", "text_special"):
                said.append(child.content)
    return lines_of("".join(said))
