"""What Word's styles and numbering say about a paragraph: heading, title, list item, line of a table of contents."""

import re
from typing import Any

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_VAL = f"{_W}val"
_HEADING = re.compile(r"(?:heading|titre|überschrift|título|titolo)\s*([1-9])", re.IGNORECASE)
_TITLE = frozenset({"title", "titre", "titre principal"})
_CONTENTS = re.compile(r"(?:toc|tm|table des matières)\s*\d", re.IGNORECASE)
MAX_INHERITANCE = 20
"""Styles may be based on each other in a circle."""
_BULLET = "bullet"
_UNNUMBERED = frozenset({"0", None})


class Styles:
    """Of one document. Counts its numbered items: ask for each paragraph once, in order."""

    def __init__(self, part: Any) -> None:
        self._styles = {style.get(f"{_W}styleId"): style for style in part.styles.element.iterchildren(f"{_W}style")}
        self._default = next((i for i, s in self._styles.items() if _is_default(s)), None)
        self._formats = _formats(part)
        self._counts: dict[tuple[str, int], int] = {}
        self._titled = 0

    def is_title(self, paragraph: Any) -> bool:
        return self._name(paragraph).lower() in _TITLE

    def is_contents(self, paragraph: Any) -> bool:
        """A line of the table of contents: it repeats a heading, with a page number."""
        return _CONTENTS.fullmatch(self._name(paragraph)) is not None

    def heading_level(self, paragraph: Any) -> int | None:
        """By the style's name, in Word's own language or the user's, or by an outline level, also inherited.

        Once the document's title has come, headings stand a level below it.
        """
        if self.is_title(paragraph):
            self._titled = 1
            return 1
        outline = _value(paragraph, "pPr/outlineLvl")
        for style in self._inheritance(paragraph):
            if match := _HEADING.fullmatch(_value(style, "name") or ""):
                return int(match[1]) + self._titled
            outline = outline or _value(style, "pPr/outlineLvl")
        return int(outline) + 1 + self._titled if outline and outline.isdecimal() and int(outline) < 9 else None

    def item_mark(self, paragraph: Any) -> str | None:
        """What stands before a list item: two spaces a level, then a dash or its number."""
        number, level = _value(paragraph, "pPr/numPr/numId"), _value(paragraph, "pPr/numPr/ilvl")
        if number is None:
            for style in self._inheritance(paragraph):
                number = _value(style, "pPr/numPr/numId")
                level = level or _value(style, "pPr/numPr/ilvl")
                if number is not None:
                    break
        if number is None or number in _UNNUMBERED or self.heading_level(paragraph) is not None:
            return None
        depth = min(int(level), 8) if level and level.isdecimal() else 0
        if self._formats.get((number, depth), _BULLET) == _BULLET:
            return "  " * depth + "- "
        return f"{'  ' * depth}{self._count(number, depth)}. "

    def _count(self, number: str, depth: int) -> int:
        """Items of a deeper level begin anew under each item."""
        for key in [key for key in self._counts if key[0] == number and key[1] > depth]:
            del self._counts[key]
        self._counts[number, depth] = self._counts.get((number, depth), 0) + 1
        return self._counts[number, depth]

    def _name(self, paragraph: Any) -> str:
        style = next(iter(self._inheritance(paragraph)), None)
        return "" if style is None else _value(style, "name") or ""

    def _inheritance(self, paragraph: Any) -> list[Any]:
        """The paragraph's style and those it is based on."""
        styles: list[Any] = []
        name = _value(paragraph, "pPr/pStyle") or self._default
        while name in self._styles and len(styles) < MAX_INHERITANCE:
            styles.append(self._styles[name])
            name = _value(styles[-1], "basedOn")
        return styles


def _is_default(style: Any) -> bool:
    return style.get(f"{_W}default") in ("1", "true") and style.get(f"{_W}type") == "paragraph"


def _value(element: Any, path: str) -> str | None:
    found = element.find("/".join(f"{_W}{tag}" for tag in path.split("/")))
    return None if found is None else found.get(_VAL)


def _formats(part: Any) -> dict[tuple[str, int], str]:
    """How each list counts at each depth."""
    numbering = next((r.target_part for r in part.rels.values() if r.reltype.endswith("/numbering")), None)
    if numbering is None:
        return {}
    root = numbering.element
    abstract = {
        one.get(f"{_W}abstractNumId"): {
            int(level.get(f"{_W}ilvl") or 0): _value(level, "numFmt") or _BULLET
            for level in one.iterchildren(f"{_W}lvl")
        }
        for one in root.iterchildren(f"{_W}abstractNum")
    }
    return {
        (number.get(f"{_W}numId"), depth): how
        for number in root.iterchildren(f"{_W}num")
        for depth, how in abstract.get(_value(number, "abstractNumId"), {}).items()
    }
