"""HTML: the page's content with its headings, lists and tables, without scripts, navigation and other chrome."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from selectolax.lexbor import LexborHTMLParser, LexborNode

from domain.documents import Block
from services.rag.extraction.contract import (
    ExtractionLimits,
    Reading,
    UnreadableDocument,
    too_deep,
    too_much_text,
)
from services.rag.extraction.text import MAX_BYTES_A_CHAR, decode, one_line
from services.rag.extraction.web_blocks import PageBlocks

MAIN = ("main", "[role=main]", "article")
MIN_MAIN_SHARE = 0.3
"""Of the page's text: a smaller `article` is a teaser, or one of several."""
CHARSET_WITHIN_BYTES = 1_024
"""Where browsers look for it (HTML Standard, "prescan a byte stream")."""
_NEVER_SHOWN = ("head, script, style, noscript, template, svg, iframe, object, select, button, dialog, textarea",)
_CHROME = (
    "nav, aside, [role=navigation], [role=banner], [role=contentinfo], [role=search], [hidden], [aria-hidden=true]",
    "body > header, body > footer, body > div > header, body > div > footer",
)
MAX_NESTING = 6_000
"""Elements in each other: browsers stop at 512, and pages that forget to close some have thousands."""
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
_UNCLOSED = frozenset(
    re.findall(
        r"\w+",
        "area base body br col colgroup dd dt embed head hr html img input li link meta option p param rp rt source "
        "tbody td tfoot th thead tr track wbr",
    )
)
"""Void elements, and those whose end may be left out (HTML Standard): the next one closes them."""
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([a-zA-Z0-9_.:-]{2,40})", re.IGNORECASE)


def read(path: Path, limits: ExtractionLimits) -> Reading:
    if path.stat().st_size > limits.max_text_chars * MAX_BYTES_A_CHAR:
        raise UnreadableDocument(too_much_text(limits.max_text_chars))
    text = _decoded(path.read_bytes())
    _check_nesting(text)
    page = LexborHTMLParser(text)
    return Reading(_blocks(page), title=_title(page))


def _decoded(content: bytes) -> str:
    """UTF-8 where it is; what the page declares otherwise, or what it looks like."""
    declared = _META_CHARSET.search(content[:CHARSET_WITHIN_BYTES])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        try:
            # Latin-1 means cp1252 to every browser (Encoding Standard).
            name = declared[1].decode("ascii").lower() if declared else ""
            return content.decode("cp1252" if "8859-1" in name else name, errors="replace") if name else decode(content)
        except LookupError:
            return decode(content)


def _check_nesting(page: str) -> None:
    """Before it is parsed: for each block that begins, the parser looks through all that are open."""
    if page.count("<") <= MAX_NESTING:
        return
    waiting: Counter[str] = Counter()
    depth = 0
    for found in _TAG.finditer(page):
        name = found[2].lower()
        if name in _UNCLOSED:
            continue
        if not found[1]:
            waiting[name] += 1
            depth += 1
        elif waiting[name]:
            waiting[name] -= 1
            depth -= 1
        if depth > MAX_NESTING:
            raise UnreadableDocument(too_deep(MAX_NESTING))


def _title(page: LexborHTMLParser) -> str | None:
    for selector in ("head > title", "h1"):
        if (node := page.css_first(selector)) is not None and (title := one_line(node.text())):
            return title
    return None


def _blocks(page: LexborHTMLParser) -> Iterator[Block]:
    body = page.body
    if body is None:
        return
    _remove(body, _NEVER_SHOWN)
    whole = _length(body)
    content = next(
        (node for node in map(page.css_first, MAIN) if node and _length(node) >= whole * MIN_MAIN_SHARE), None
    )
    blocks = _walk(page, content or body)
    first = next(blocks, None)
    if first is not None:
        yield first
        yield from blocks


def _walk(page: LexborHTMLParser, content: LexborNode) -> Iterator[Block]:
    """Down and up the tree by its links: recursion would end at a depth that a page may well have."""
    chrome = {node.mem_id for selector in _CHROME for node in page.css(selector)} - {content.mem_id}
    blocks = PageBlocks()
    node: LexborNode | None = content
    while node is not None:
        child = None
        if node.is_text_node:
            blocks.say(node.text_content or "")
        elif node.is_element_node and node.mem_id not in chrome:
            yield from blocks.open(node)
            child = node.first_child
        if child is not None:
            node = child
            continue
        while node is not None:
            if node.is_element_node and node.mem_id not in chrome:
                yield from blocks.close(node)
            if node.mem_id == content.mem_id:
                node = None
            elif (following := node.next) is not None:
                node = following
                break
            else:
                node = node.parent
    yield from blocks.end()


def _remove(body: LexborNode, selectors: tuple[str, ...]) -> None:
    for selector in selectors:
        for node in body.css(selector):
            node.decompose()


def _length(node: LexborNode) -> int:
    return sum(len((text.text_content or "").strip()) for text in node.traverse(include_text=True) if text.is_text_node)
