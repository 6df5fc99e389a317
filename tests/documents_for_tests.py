"""Small documents of every format, made for a test."""

import contextlib
import zipfile
from collections.abc import Sequence
from pathlib import Path

from fpdf import FPDF

from domain.documents import Block, PassageDraft
from services.rag.extraction.extractor import ExtractedPart, ExtractionLimits, UnreadableDocument, extract_passages

WORDS = ["service", "contrat", "élève", "année", "données", "règlement", "projet", "modèle", "énergie", "coûts"]


class Report(FPDF):
    """A PDF with a running header and numbered pages."""

    def header(self) -> None:
        self.set_font("Helvetica", "I", 9)
        self.cell(0, 6, "Rapport annuel de la Société", align="C", new_x="LMARGIN", new_y="NEXT")

    def footer(self) -> None:
        self.set_y(-15)
        self.set_font("Helvetica", size=8)
        self.cell(0, 6, f"Page {self.page_no()} sur {{nb}}", align="C")


def pdf_line(pdf: FPDF, text: str, *, size: float = 11, style: str = "", x: float | None = None) -> None:
    """One line of text, then the next line."""
    pdf.set_font("Helvetica", style, size)
    if x is not None:
        pdf.set_x(x)
    pdf.cell(0, size * 0.5, text, new_x="LMARGIN", new_y="NEXT")


def write_long_pdf(path: Path, pages: int) -> None:
    pdf = Report()
    for number in range(1, pages + 1):
        pdf.add_page()
        pdf_line(pdf, f"Chapitre {number}", size=16, style="B")
        pdf.set_font("Helvetica", size=10)
        for paragraph in range(6):
            words = (WORDS[(number * 7 + paragraph * 3 + at * at) % len(WORDS)] for at in range(70))
            pdf.multi_cell(0, 5, f"Le {' '.join(words)}.", align="J", new_x="LMARGIN", new_y="NEXT")
            pdf.ln(3)
    pdf.output(str(path))


def rewritten(path: Path, changes: dict[str, bytes]) -> Path:
    """The archive with some of its entries replaced or added."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()} | changes
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def shape_of(blocks: Sequence[Block]) -> list[tuple[str, str]]:
    """What each block is (headings with their level), and its text."""
    return [(f"{block.kind}{block.level or ''}", block.text) for block in blocks]


async def parts_of(path: Path, limits: ExtractionLimits | None = None, name: str | None = None) -> list[ExtractedPart]:
    async with contextlib.aclosing(extract_passages(path, name or path.name, limits or ExtractionLimits())) as parts:
        return [part async for part in parts]


async def passages_of(path: Path, limits: ExtractionLimits | None = None) -> list[PassageDraft]:
    return [passage for part in await parts_of(path, limits) for passage in part.passages]


async def reason_of(path: Path, limits: ExtractionLimits | None = None, name: str | None = None) -> str:
    """Why the document cannot be read."""
    try:
        parts = await parts_of(path, limits, name)
    except UnreadableDocument as error:
        return error.reason
    raise AssertionError(f"it was read, in {len(parts)} parts")
