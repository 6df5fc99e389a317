"""Which lines of PDF pages are furniture: headers and footers that repeat, and page numbers."""

import re
from collections import Counter
from dataclasses import dataclass, field

from services.rag.extraction.pdf_lines import Line

MARGIN_LINES = 3
"""Furniture is among the first or last lines of a page, …"""
MARGIN_SHARE = 0.15
"""… and this near to its edge."""
REPEATS = 3
"""On how many pages of a window the same text at the same height is furniture."""
NUMBERED_PAGES = 2
"""On how many pages a bare number must keep its distance to the page's count."""
LARGE = 1.1
"""Of the body's size."""
_SAME_HEIGHT = 8.0
_KNOWN = 1_000

_DIGITS = re.compile(r"\d{1,5}")
_BARE_NUMBER = re.compile(
    r"\W*(?:(?:page|p\.|seite|folio)\s*)?(\d{1,5})(?:\s*(?:/|sur|of|von|de)\s*\d{1,5})?\W*", re.IGNORECASE
)

_Key = tuple[str, int]
_Distance = tuple[int, bool]


@dataclass(slots=True)
class Page:
    """Its number counts from 1."""

    number: int
    height: float
    lines: list[Line]


@dataclass(slots=True)
class Furniture:
    """Looks at a window of pages at a time, and remembers what it found in earlier ones."""

    _known: set[_Key] = field(default_factory=set)
    _distances: Counter[_Distance] = field(default_factory=Counter)

    def clear(self, pages: list[Page], body_size: float) -> None:
        """Takes the furniture out of the pages. Were nothing left of all of them, it was their text: nothing goes."""
        margins = [(page, _margin(page, body_size)) for page in pages]
        for _, margin in margins:
            self._distances.update({key for _, _, key in margin if key})
        seen = Counter(key for _, margin in margins for key in {key for _, keys, _ in margin for key in keys})
        found = {key for key, count in seen.items() if _near(seen, key, count) >= REPEATS}
        if len(self._known) < _KNOWN:
            self._known |= found
        kept = []
        for page, margin in margins:
            furniture = {id(line) for line, keys, distance in margin if self._is_furniture(keys, distance)}
            kept.append((page, [line for line in page.lines if id(line) not in furniture]))
        if any(lines for _, lines in kept):
            for page, lines in kept:
                page.lines = lines

    def _is_furniture(self, keys: set[_Key], distance: _Distance | None) -> bool:
        if any((text, height + near) in self._known for text, height in keys for near in (-1, 0, 1)):
            return True
        return distance is not None and self._distances[distance] >= NUMBERED_PAGES


def _margin(page: Page, body_size: float) -> list[tuple[Line, set[_Key], _Distance | None]]:
    """The outermost lines at the top and bottom, and what they are known by."""
    from_top = sorted(page.lines, key=lambda line: -line.y)
    top = [line for line in from_top[:MARGIN_LINES] if line.y > page.height * (1 - MARGIN_SHARE)]
    bottom = [line for line in from_top[-MARGIN_LINES:] if line.y < page.height * MARGIN_SHARE]
    return [(line, _keys(page, line, body_size), _distance(page, line)) for line in top + bottom]


def _keys(page: Page, line: Line, body_size: float) -> set[_Key]:
    """Its text at about its height, also with its first or last number told as a distance to the page's count.

    Where that number begins or ends the line, it may be of a header that changes with the chapter: then the distance
    alone. Not so in large letters: "Chapitre 3" on page 3 is a title.
    """
    text, height = line.text.casefold(), round(line.y / _SAME_HEIGHT)
    keys = {(text, height)}
    numbers = list(_DIGITS.finditer(text))
    if numbers and line.size <= LARGE * body_size:
        for number in (numbers[0], numbers[-1]):
            counted = f"{text[: number.start()]}<{int(number[0]) - page.number}>{text[number.end() :]}"
            keys.add((counted, height))
            if number.end() == len(text) or not number.start():
                keys.add((f"<{int(number[0]) - page.number}>", height))
    return keys


def _near(seen: Counter[_Key], key: _Key, count: int) -> int:
    return count + max(seen[key[0], key[1] - 1], seen[key[0], key[1] + 1])


def _distance(page: Page, line: Line) -> _Distance | None:
    """A bare number's distance to the page's count, and whether it stands at the top."""
    match = _BARE_NUMBER.fullmatch(line.text)
    return (int(match[1]) - page.number, line.y > page.height / 2) if match else None
