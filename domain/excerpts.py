"""The part of a passage that a question is about, for models that read slowly: whole sentences and rows, in order."""

import re

from domain.grounding import content, stem

UNIT = re.compile(r"(?<=[.!?;:…])\s+(?=[\"«A-ZÀ-ÖØ-Þ0-9])|\n+")
"""Where a sentence or a row ends."""


def excerpt(text: str, question: str, max_chars: int) -> str:
    """The sentences and rows that share most with the question, with what stands before them, as much as fits.

    A table's first row names its columns: it comes along with any other.
    """
    if len(text) <= max_chars:
        return text
    units = [unit for unit in UNIT.split(text) if unit.strip()]
    asked = _stems(question)
    worth = [len(asked & _stems(unit)) for unit in units]
    kept: set[int] = set()
    left = max_chars
    for place in sorted(range(len(units)), key=lambda place: (-worth[place], place)):
        # A row is read by the names of its columns; a sentence is understood by the one before it.
        for unit in (place, place - 1):
            new = {unit, _header(units, unit)} - kept if unit >= 0 else set()
            length = sum(len(units[one]) + 1 for one in new)
            if length > left:
                break
            kept |= new
            left -= length
    return "\n".join(units[place] for place in sorted(kept)) or text[:max_chars]


def _header(units: list[str], place: int) -> int:
    """The first row of the table that a row belongs to; a sentence's place is its own."""
    while place > 0 and " | " in units[place] and " | " in units[place - 1]:
        place -= 1
    return place


def _stems(text: str) -> set[str]:
    return {stem(word) for word in content(text)}
