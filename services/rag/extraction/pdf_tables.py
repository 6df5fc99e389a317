"""Tables of a PDF page, told by the positions of their cells."""

from services.rag.extraction.pdf_lines import Cell, Line
from services.rag.extraction.text import row_of

MIN_ROWS = 2
ROW_GAP = 4.0
"""In font sizes: further below begins something else."""
WRAPPED_GAP = 1.45
"""In font sizes: a line this near below another continues its cell."""
ALIGNED = 0.6
"""In font sizes: how far the edges of a column's cells may differ."""
PROSE_CHARS = 30
PROSE_LINES = 5
"""Two columns of cells this long over this many lines are a page set in columns."""


def table_end(lines: list[Line], start: int) -> int:
    """Where the table that begins with this line ends; `start` when none does."""
    first = lines[start]
    if len(first.cells) < 2:
        return start
    end = start + 1
    rows = 1
    while end < len(lines) and _goes_on(lines[start:end], lines[end]):
        rows += len(lines[end].cells) > 1
        end += 1
    while end > start + 1 and len(lines[end - 1].cells) < 2 and not _wraps(lines[end - 2], lines[end - 1], first):
        end -= 1  # A line below that only happens to begin at a column.
    return end if rows >= MIN_ROWS else start


def is_prose(lines: list[Line]) -> bool:
    """Whether these rows are two columns of running text, drawn line by line across the page."""
    pairs = [line for line in lines if len(line.cells) == 2]
    chars = sum(len(cell.text) for line in pairs for cell in line.cells)
    return len(pairs) >= PROSE_LINES and len(pairs) >= 0.8 * len(lines) and chars >= 2 * PROSE_CHARS * len(pairs)


def columns_of_prose(lines: list[Line]) -> list[Line]:
    """The left column's lines, then the right one's."""
    middle = min(line.cells[1].left for line in lines if len(line.cells) == 2)
    left = [Line([cell], x.y, x.size, x.bold) for x in lines for cell in x.cells if cell.left < middle - x.size]
    right = [Line([cell], x.y, x.size, x.bold) for x in lines for cell in x.cells if cell.left >= middle - x.size]
    return left + right


def table_text(lines: list[Line]) -> str:
    """A line a row. Each cell goes to its column; a cell's further lines go into it."""
    columns = max(lines, key=lambda line: len(line.cells)).cells
    rows: list[list[str]] = []
    for at, line in enumerate(lines):
        placed = [""] * len(columns)
        for cell in line.cells:
            column = _column(columns, cell)
            placed[column] = f"{placed[column]} {cell.text}".strip()
        if rows and not placed[0] and _wraps(lines[at - 1], line, lines[0]):
            rows[-1] = [f"{above} {below}".strip() for above, below in zip(rows[-1], placed, strict=True)]
        else:
            rows.append(placed)
    return "\n".join(row_of(row) for row in rows)


def _goes_on(table: list[Line], line: Line) -> bool:
    above = table[-1]
    if not 0 < above.bottom - line.y <= ROW_GAP * above.size:
        return False
    edges = [cell for row in table[-3:] for cell in row.cells[1:]]
    if len(line.cells) == 1:
        return _wraps(above, line, table[0]) and any(aligned(line.cells[0], cell, line.size) for cell in edges)
    return any(aligned(cell, edge, line.size) for cell in line.cells[1:] for edge in edges)


def _wraps(above: Line, line: Line, first: Line) -> bool:
    near = above.bottom - line.y <= WRAPPED_GAP * line.size
    return near and line.left > first.left + ALIGNED * line.size


def aligned(one: Cell, other: Cell, size: float) -> bool:
    """By their left edges, right edges (numbers) or middles."""
    most = ALIGNED * size
    middles = abs(one.left + one.right - other.left - other.right) / 2
    return abs(one.left - other.left) < most or abs(one.right - other.right) < most or middles < most


def _column(columns: list[Cell], cell: Cell) -> int:
    """The column that the cell overlaps most, or the nearest."""

    def overlap(at: int) -> float:
        return min(columns[at].right, cell.right) - max(columns[at].left, cell.left)

    return max(range(len(columns)), key=overlap)
