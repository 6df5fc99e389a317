"""CSV: each block is a few rows under the header, or rows whose every cell names its column."""

import csv
from collections.abc import Iterator
from pathlib import Path

from domain.documents import Block
from services.rag.extraction.contract import ExtractionLimits, Reading, UnreadableDocument
from services.rag.extraction.text import one_line, read_text, row_of
from services.rag.splitting import GOOD_CHARS, MAX_CHARS

SAMPLE_CHARS = 16_384
DELIMITERS = ";,\t|"
"""In the order tried when they part the sample equally well; `;` is what French spreadsheets write."""
WIDE_HEADER_CHARS = 200
"""Above, a passage of header and rows would be mostly header, and a reader could not tell which cell is which."""


def read(path: Path, limits: ExtractionLimits) -> Reading:
    text = read_text(path, limits)
    csv.field_size_limit(len(text) + 1)
    return Reading(tables(text))


def tables(text: str) -> Iterator[Block]:
    rows = _rows(text)
    header = next(rows, None)
    if header is None:
        return
    line = row_of(header)
    if len(line) > WIDE_HEADER_CHARS:
        yield from _named(header, rows)
        return
    block = [line]
    size = len(line)
    for row in rows:
        text = row_of(row)
        if len(block) > 1 and size + len(text) > MAX_CHARS - len("\n") * len(block):
            yield Block("table", "\n".join(block))
            block, size = [line], len(line)
        block.append(text)
        size += len(text)
    yield Block("table", "\n".join(block))


def _named(header: list[str], rows: Iterator[list[str]]) -> Iterator[Block]:
    """`column: value` for each cell that is not empty: the row says by itself what it means."""
    block: list[str] = [row_of(header)]
    size = MAX_CHARS  # The header stands alone.
    for row in rows:
        names = [*header, *("" for _ in row[len(header) :])]
        cells = [f"{name}: {cell}" if name else cell for name, cell in zip(names, row, strict=False) if cell]
        text = row_of(cells)
        if size + len(text) > GOOD_CHARS:
            yield Block("list", "\n".join(block))
            block, size = [], 0
        block.append(text)
        size += len(text)
    if block:
        yield Block("list", "\n".join(block))


def _rows(text: str) -> Iterator[list[str]]:
    """Rows with something in them, their cells on one line."""
    try:
        for row in csv.reader(text.splitlines(keepends=True), delimiter=_delimiter(text[:SAMPLE_CHARS])):
            cells = [one_line(cell) for cell in row]
            if any(cells):
                yield cells
    except csv.Error as error:
        raise UnreadableDocument(f"the table cannot be read ({error}): save it as CSV anew") from error


def _delimiter(sample: str) -> str:
    """The one that parts most lines into the same number of cells, more than one."""
    complete = sample.rsplit("\n", 1)[0] if sample.count("\n") > 1 else sample
    return max(DELIMITERS, key=lambda delimiter: _agreement(complete, delimiter))


def _agreement(sample: str, delimiter: str) -> tuple[int, int]:
    try:
        widths = [len(row) for row in csv.reader(sample.splitlines(), delimiter=delimiter) if row]
    except csv.Error:
        return 0, 0
    usual = max(set(widths), key=lambda width: (widths.count(width), width), default=1)
    return (widths.count(usual), usual) if usual > 1 else (0, 0)
