"""Word (.docx): body in order, headings by style or outline level, lists, tables, text boxes, notes at the end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docx import Document
from docx.opc.exceptions import PackageNotFoundError
from lxml import etree

from domain.documents import Block
from services.rag.extraction.archive import check_archive
from services.rag.extraction.contract import ExtractionLimits, Reading, UnreadableDocument
from services.rag.extraction.text import lines_of, one_line, row_of
from services.rag.extraction.word_styles import Styles

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_P, _TBL, _TR, _TC, _SDT, _SDT_CONTENT = (f"{_W}{tag}" for tag in ("p", "tbl", "tr", "tc", "sdt", "sdtContent"))
_T, _TAB, _BR, _CR, _HYPHEN = (f"{_W}{tag}" for tag in ("t", "tab", "br", "cr", "noBreakHyphen"))
_MATH_T = "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"
_TEXT_BOX = f"{_W}txbxContent"
_NEVER_SHOWN = (
    "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback",  # The same again, for old programs.
    f"{_W}moveFrom",
    f"{_W}del",
    f"{_W}pPrChange",
    f"{_W}rPrChange",
)
_NOTES = ("/footnotes", "/endnotes")
_WRAPPERS = (f"{_W}ins", f"{_W}customXml", f"{_W}moveTo", f"{_W}smartTag")


def read(path: Path, limits: ExtractionLimits) -> Reading:
    check_archive(path, "docx")
    try:
        document = Document(str(path))
        body = document.element.body
        title = one_line(document.core_properties.title or "")
    except (PackageNotFoundError, etree.XMLSyntaxError, KeyError, ValueError, AttributeError) as error:
        raise UnreadableDocument("the .docx file is damaged: open it in Word, save it anew and send that") from error
    styles = Styles(document.part)
    if not title:
        title = next((one_line(_text(p)) for p in body.iterchildren(_P) if styles.is_title(p)), "")
    return Reading(_blocks(document.part, body, styles), title=title or None)


def _blocks(part: Any, body: Any, styles: Styles) -> Iterator[Block]:
    etree.strip_elements(body, *_NEVER_SHOWN, with_tail=False)
    items: list[str] = []
    for element in _in_order(body):
        if element.tag == _P and (mark := styles.item_mark(element)) is not None:
            if text := one_line(_text(element)):
                items.append(mark + text)
            continue
        if items:
            yield Block("list", "\n".join(items))
            items = []
        yield from _table(element) if element.tag == _TBL else _paragraph(element, styles)
    if items:
        yield Block("list", "\n".join(items))
    yield from _notes(part)


def _in_order(body: Any) -> Iterator[Any]:
    """Paragraphs and tables, also those in content controls, each followed by the text boxes anchored in it."""
    waiting = list(reversed(body))
    while waiting:
        element = waiting.pop()
        if element.tag == _SDT:
            waiting += (inner for content in element.iterchildren(_SDT_CONTENT) for inner in reversed(content))
        elif element.tag in _WRAPPERS:
            waiting += reversed(element)
        elif element.tag in (_P, _TBL):
            boxes = [box for box in element.iter(_TEXT_BOX) if next(box.iterancestors(_TEXT_BOX), None) is None]
            for box in boxes:
                box.getparent().remove(box)
            waiting += (inner for box in reversed(boxes) for inner in reversed(box))
            yield element


def _paragraph(element: Any, styles: Styles) -> Iterator[Block]:
    text = lines_of(_text(element))
    if not text or styles.is_contents(element):
        return
    level = styles.heading_level(element)
    if level is None:
        yield Block("paragraph", text)
    else:
        yield Block("heading", one_line(text), level=level)


def _table(element: Any) -> Iterator[Block]:
    """A table of one column is a frame around paragraphs."""
    rows = [[_cell(cell) for cell in row.iterchildren(_TC)] for row in element.iterchildren(_TR)]
    if all(len(row) < 2 for row in rows):
        yield from (Block("paragraph", text) for row in rows for text in row if text)
        return
    lines = [row_of(row) for row in rows if any(row)]
    if lines:
        yield Block("table", "\n".join(lines))


def _cell(cell: Any) -> str:
    """Its paragraphs, and those of the tables inside it, on one line."""
    return " ".join(text for paragraph in cell.iter(_P) if (text := one_line(_text(paragraph))))


def _notes(part: Any) -> Iterator[Block]:
    """Footnotes and endnotes, which no page tells us where to put."""
    for relation in part.rels.values():
        if relation.is_external or not relation.reltype.endswith(_NOTES):
            continue
        parser = etree.XMLParser(resolve_entities=False, no_network=True)
        for note in etree.fromstring(relation.target_part.blob, parser):
            text = " ".join(one_line(_text(paragraph)) for paragraph in note.iter(_P)).strip()
            if text:
                yield Block("paragraph", text)


def _text(paragraph: Any) -> str:
    said = []
    for node in paragraph.iter(_T, _TAB, _BR, _CR, _HYPHEN, _MATH_T):
        if node.tag in (_T, _MATH_T):
            said.append(node.text or "")
        elif node.tag == _HYPHEN:
            said.append("-")
        elif node.tag == _TAB:
            said.append(" ")
        else:
            said.append("\n")
    return "".join(said)
