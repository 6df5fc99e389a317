"""The order in which the lines of a PDF page are read, from the order in which they were drawn."""

from itertools import pairwise

from services.rag.extraction.pdf_lines import CELL_GAP, SAME_LINE, Cell, Line
from services.rag.extraction.pdf_tables import ROW_GAP, aligned

CELL_LEADING = 2.2
"""In font sizes, at most: generous, as the cell drawn beside these lines proves that they are one."""
MAX_CELL_LINES = 15
"""A cell with more lines is rather a column of the page."""


def in_reading_order(lines: list[Line]) -> list[Line]:
    """From the top where the page has a single column; as drawn where columns or cells stand side by side."""
    lines = _rows(_joined(lines))
    from_top = sorted(lines, key=lambda line: -line.y)
    for above, below in pairwise(from_top):
        if above.bottom - below.y < SAME_LINE * min(above.size, below.size):
            return lines
    return from_top


def _joined(lines: list[Line]) -> list[Line]:
    """Pieces of a line drawn one after the other, from left to right."""
    joined: list[Line] = []
    for line in lines:
        last = joined[-1] if joined else None
        if last is None or last.hyphen or not _same_line(last, line) or line.left < last.right:
            joined.append(line)
            continue
        if line.left - last.right > CELL_GAP * last.size:
            last.cells += line.cells
        else:
            first = line.cells[0]
            last.cells[-1] = Cell(f"{last.cells[-1].text} {first.text}", last.cells[-1].left, first.right)
            last.cells += line.cells[1:]
        last.hyphen = line.hyphen
    return joined


def _rows(lines: list[Line]) -> list[Line]:
    """Rows drawn cell after cell, each cell with all its lines, where another row beside them has the same columns."""
    found: list[tuple[Line, list[Line]]] = []
    at = 0
    while at < len(lines):
        row, end = _row(lines, at)
        found.append((row, lines[at:end]))
        at = end
    read: list[Line] = []
    for index, (row, drawn) in enumerate(found):
        before = index > 0 and _same_columns(found[index - 1][0], row)
        after = index + 1 < len(found) and _same_columns(row, found[index + 1][0])
        read += [row] if before or after else drawn
    return read


def _row(lines: list[Line], start: int) -> tuple[Line, int]:
    """The row that begins with this line and where it ends; the line itself when no cell stands beside its lines."""
    first = lines[start]
    cells = [Cell(cell.text, cell.left, cell.right) for cell in first.cells]
    above, lowest, height = first, first.y, 1
    late = False
    end = start + 1
    while end < len(lines) and height < MAX_CELL_LINES:
        line = lines[end]
        if _same_line(first, line) and line.left >= max(cell.right for cell in cells):
            cells += [Cell(cell.text, cell.left, cell.right) for cell in line.cells]
            late, height = True, 1
        elif _goes_on(cells[-1], above, line):
            glue = "" if above.hyphen else " "
            last, more = cells[-1], line.cells[0]
            cells[-1] = Cell(last.text + glue + more.text, min(last.left, more.left), max(last.right, more.right))
            height += 1
        else:
            break
        above, lowest = line, min(lowest, line.y)
        end += 1
    return (Line(cells, first.y, first.size, first.bold, last_y=lowest), end) if late else (first, start + 1)


def _goes_on(cell: Cell, above: Line, line: Line) -> bool:
    """Whether the line is the next one of the cell."""
    near = 0 < above.y - line.y <= CELL_LEADING * line.size
    return near and len(line.cells) == 1 and aligned(cell, line.cells[0], line.size)


def _same_line(one: Line, other: Line) -> bool:
    return abs(one.y - other.y) < SAME_LINE * one.size


def _same_columns(above: Line, below: Line) -> bool:
    if not 0 < above.bottom - below.y <= ROW_GAP * above.size:
        return False
    return any(aligned(one, other, above.size) for one in above.cells[1:] for other in below.cells[1:])
