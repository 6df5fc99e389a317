"""PDF: text in reading order, page by page, with the structure that positions, sizes and the outline show."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from domain.documents import Block
from services.rag.extraction.contract import ExtractionLimits, Reading, UnreadableDocument
from services.rag.extraction.pdf_furniture import Furniture, Page
from services.rag.extraction.pdf_layout import Layout, Outline, outline_key
from services.rag.extraction.pdf_lines import lines_of_page
from services.rag.extraction.pdf_order import in_reading_order
from services.rag.extraction.text import one_line

WINDOW_PAGES = 16
"""Looked at together, to see which lines repeat; so much of a document is in memory at once."""
END_WITHIN_BYTES = 65_536
"""Where `%%EOF` must be: some programs append a kilobyte or more of their own after it."""
MAX_OUTLINE_ENTRIES = 20_000

_NO_TITLE = ("microsoft ", "untitled", "sans titre", "document1", "présentation powerpoint", "powerpoint presentation")
_FILE_ENDINGS = (".doc", ".docx", ".odt", ".dvi", ".indd", ".qxd", ".pdf", ".tex", ".ppt", ".pptx", ".xls", ".rtf")


def read(path: Path, limits: ExtractionLimits) -> Reading:
    _check_end(path)
    try:
        document = pdfium.PdfDocument(str(path))
    except pdfium.PdfiumError as error:
        if error.err_code in (pdfium_c.FPDF_ERR_PASSWORD, pdfium_c.FPDF_ERR_SECURITY):
            reason = "the PDF is protected by a password: save it without one and send that"
        else:
            reason = "the PDF is damaged: open it, print or save it as PDF anew and send that"
        raise UnreadableDocument(reason) from error
    pages = len(document)
    if pages > limits.max_pages:
        raise UnreadableDocument(
            f"the PDF has {pages:,} pages, of {limits.max_pages:,} allowed: split it and send the parts"
        )
    if not pages:
        raise UnreadableDocument("the PDF has no page that can be read: it is damaged or cut short; send it anew")
    return Reading(_blocks(document, pages), pages_total=pages, title=_title(document))


def _check_end(path: Path) -> None:
    """PDFium reads what is there of a file cut short and says nothing; half a document must not pass for one."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - END_WITHIN_BYTES, 0))
        if b"%%EOF" not in file.read():
            raise UnreadableDocument("the PDF is cut short (its end is missing): send it anew, whole")


def _title(document: pdfium.PdfDocument) -> str | None:
    """What programs write there when nobody chose a title is none."""
    title = one_line(document.get_metadata_value("Title"))
    lower = title.casefold()
    return None if not title or lower.startswith(_NO_TITLE) or lower.endswith(_FILE_ENDINGS) else title


def _blocks(document: pdfium.PdfDocument, count: int) -> Iterator[Block]:
    layout = Layout(_outline(document))
    furniture = Furniture()
    sizes: Counter[tuple[float, bool]] = Counter()
    has_text = False
    for start in range(0, count, WINDOW_PAGES):
        pages = [_page(document, number) for number in range(start + 1, min(start + WINDOW_PAGES, count) + 1)]
        has_text = has_text or any(page.lines for page in pages)
        for page in pages:
            sizes.update(_sizes(page))
        (body_size, bold_body), _ = sizes.most_common(1)[0] if sizes else ((1.0, False), 0)
        furniture.clear(pages, body_size)
        for page in pages:
            yield from layout.add(page, body_size, bold_body=bold_body)
    yield from layout.end()
    if not has_text:
        raise UnreadableDocument(
            "the PDF holds images only, no text (a scan?): text recognition (OCR) is not available here; "
            "send the document with its text layer"
        )


def _page(document: pdfium.PdfDocument, number: int) -> Page:
    try:
        page = document[number - 1]
        try:
            return Page(number, page.get_height(), in_reading_order(lines_of_page(page)))
        finally:
            page.close()
    except pdfium.PdfiumError as error:
        raise UnreadableDocument(f"page {number} of the PDF is damaged: print or save it as PDF anew") from error


def _sizes(page: Page) -> Counter[tuple[float, bool]]:
    """How many characters have which size, to half a point, and whether they are bold."""
    sizes: Counter[tuple[float, bool]] = Counter()
    for line in page.lines:
        sizes[round(line.size * 2) / 2, line.bold] += len(line.text)
    return sizes


def _outline(document: pdfium.PdfDocument) -> Outline:
    outline: Outline = {}
    for entry in islice(document.get_toc(), MAX_OUTLINE_ENTRIES):
        target = entry.get_dest()
        index = target.get_index() if target else None
        if index is not None and (key := outline_key(entry.get_title())):
            outline.setdefault(index + 1, {}).setdefault(key, entry.level + 1)
    return outline
