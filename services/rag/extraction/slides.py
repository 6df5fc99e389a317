"""PowerPoint (.pptx): each slide is a page under its title, with its texts, tables and notes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lxml import etree
from pptx import Presentation
from pptx.enum.shapes import PP_PLACEHOLDER
from pptx.exc import PackageNotFoundError

from domain.documents import Block
from services.rag.extraction.archive import check_archive
from services.rag.extraction.contract import ExtractionLimits, Reading, UnreadableDocument
from services.rag.extraction.text import clean, lines_of, one_line, row_of

MAX_TITLE_LINE_CHARS = 120
"""A slide without a title is called by its first line, when that is short enough to be one."""

_NOT_CONTENT = (PP_PLACEHOLDER.DATE, PP_PLACEHOLDER.FOOTER, PP_PLACEHOLDER.SLIDE_NUMBER)
_OUTLINES = (PP_PLACEHOLDER.BODY, PP_PLACEHOLDER.OBJECT, PP_PLACEHOLDER.VERTICAL_BODY)


def read(path: Path, limits: ExtractionLimits) -> Reading:
    check_archive(path, "pptx")
    try:
        presentation = Presentation(str(path))
        slides = len(presentation.slides)
        title = one_line(presentation.core_properties.title or "")
    except (PackageNotFoundError, etree.XMLSyntaxError, KeyError, ValueError, AttributeError) as error:
        raise UnreadableDocument("the .pptx file is damaged: open it in PowerPoint, save it anew, send that") from error
    if slides > limits.max_pages:
        raise UnreadableDocument(
            f"the presentation has {slides:,} slides, of {limits.max_pages:,} allowed: split it and send the parts"
        )
    if title == "PowerPoint Presentation":  # What every new file is called.
        title = ""
    if not title and slides:
        first = presentation.slides[0].shapes.title
        title = one_line(first.text_frame.text) if first is not None else ""
    return Reading(_blocks(presentation), pages_total=slides, title=title or None)


def _blocks(presentation: Any) -> Iterator[Block]:
    for page, slide in enumerate(presentation.slides, 1):
        blocks = [block for shape in _shapes(slide) for block in _shape(shape, page)]
        notes = _notes(slide, page)
        if blocks or notes or slide.shapes.title is not None:
            yield from _titled(slide.shapes.title, page, blocks)
            yield from notes


def _titled(shape: Any, page: int, blocks: list[Block]) -> Iterator[Block]:
    """Each slide opens a section; without a title its first short line, or its number, is one."""
    title = one_line(shape.text_frame.text) if shape is not None else ""
    if title:
        yield Block("heading", title, page, 1)
    elif blocks and blocks[0].kind != "table" and len(blocks[0].text.partition("\n")[0]) <= MAX_TITLE_LINE_CHARS:
        first, _, rest = blocks[0].text.partition("\n")
        yield Block("heading", first.removeprefix("- "), page, 1)
        blocks[:1] = [Block(blocks[0].kind, rest, page)] if rest else []
    else:
        yield Block("heading", f"Slide {page}", page, 1)
    yield from blocks


def _shapes(slide: Any) -> Iterator[Any]:
    """All but the title, with those inside groups, in the order they were drawn."""
    title = slide.shapes.title
    waiting = list(reversed(list(slide.shapes)))
    while waiting:
        shape = waiting.pop()
        if hasattr(shape, "shapes"):
            waiting += reversed(list(shape.shapes))
        elif title is None or shape.shape_id != title.shape_id:
            yield shape


def _shape(shape: Any, page: int) -> Iterator[Block]:
    if getattr(shape, "has_table", False):
        rows = [[one_line(cell.text_frame.text) for cell in row.cells] for row in shape.table.rows]
        lines = [row_of(row) for row in rows if any(row)]
        if lines:
            yield Block("table", "\n".join(lines), page)
        return
    kind = shape.placeholder_format.type if shape.is_placeholder else None
    if not shape.has_text_frame or kind in _NOT_CONTENT:
        return
    paragraphs = [(p.level, one_line(p.text.replace("\v", " "))) for p in shape.text_frame.paragraphs]
    paragraphs = [(level, text) for level, text in paragraphs if text]
    if len(paragraphs) > 1 and kind in _OUTLINES:
        yield Block("list", "\n".join(f"{'  ' * level}- {text}" for level, text in paragraphs), page)
    else:
        yield from (Block("paragraph", text, page) for _, text in paragraphs)


def _notes(slide: Any, page: int) -> list[Block]:
    """What the speaker says beside the slide."""
    if not slide.has_notes_slide or (frame := slide.notes_slide.notes_text_frame) is None:
        return []
    text = lines_of(clean(frame.text.replace("\v", "\n")))
    return [Block("paragraph", text, page)] if text else []
