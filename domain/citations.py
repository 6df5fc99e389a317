"""Citations: passages numbered for a model, and the numbers it gives back checked, in step with its text."""

import re
from collections.abc import Sequence

from domain.documents import Passage
from domain.grounding import content

SPACE = r"[ \u00a0\u202f]?"
INSIDE = r"[ \t\u00a0\u202f0-9,;–-]"
MARK = re.compile(rf"(?P<ticks>`+)|(?P<newline>\n)|{SPACE}[\[【]{INSIDE}+[\]】](?!\()")
"""What may be a citation, unless it is code or a link, `[1](https://…)`; and what begins and ends code."""
UNFINISHED = re.compile(rf"(?:`+|{SPACE}(?:[\[【]{INSIDE}*[\]】]?)?)\Z")
"""A text that ends so may go on as one of those: it waits for what comes next."""
FENCE_TICKS = 3
"""From so many on, code may have several lines."""
OPENED = re.compile(rf"[\[【]{INSIDE}*\Z")
LEADING_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")
NUMBER = re.compile(r"[0-9]+")
RANGE = re.compile(r"([0-9]+)\s*[–-]\s*([0-9]+)")
LONG_NUMBER = re.compile(r"[1-9][0-9]{2}")
"""From 100 on, numbers in brackets are the text's own: a year, an article."""

SUPPORT = 0.5
"""The least part of an answer's words that a passage must have, to be named as its source unasked."""
MAX_SUPPORTING = 2


def numbered(passages: Sequence[Passage], texts: Sequence[str] | None = None) -> str:
    """The passages as a model is shown them: `[1] title, p. 3 — heading`, then their text, or what stands for it."""
    shown = texts or [passage.text for passage in passages]
    return "\n\n".join(
        f"[{place}] {_head(one)}\n{text}" for place, (one, text) in enumerate(zip(passages, shown, strict=True), 1)
    )


class CitationCheck:
    """Lets through the citations that name a passage, numbered in the order of their appearance; drops the others.

    `[3]` of the model becomes `[1]` when it is the first one cited: `cited` then lists the passages by these numbers.
    A text that cites nothing has `default` named in the end, or the passages that its words come from.
    """

    def __init__(self, passages: Sequence[Passage], *, default: int | None = None) -> None:
        self._passages = passages
        self._default = default
        self._order: dict[int, int] = {}
        self._held = ""
        self._code_ticks = 0
        """How many backticks opened the code that the text is in; 0 outside of it."""
        self._said: list[str] = []

    @property
    def text(self) -> str:
        """What has been let through."""
        return "".join(self._said)

    @property
    def cited(self) -> list[Passage]:
        """The passages by the numbers that the text now has."""
        return [self._passages[number - 1] for number in self._order]

    def feed(self, pieces: list[str]) -> list[str]:
        """Pieces of the model's text, as they come; gives what may go out."""
        self._held += "".join(pieces)
        waits = UNFINISHED.search(self._held)
        held_from = waits.start() if waits else len(self._held)
        ready, self._held = self._held[:held_from], self._held[held_from:]
        return self._let_out(self._checked(ready))

    def end(self) -> list[str]:
        """What was held back, and the citations of a text that has none."""
        rest, self._held = self._held, ""
        out = self._let_out(self._checked(rest))
        if not self._order and self.text.strip():
            for number in [self._default] if self._default else supporting(self.text, self._passages):
                self._order[number] = len(self._order) + 1
            if self._order:
                out += self._let_out(" " + "".join(f"[{place}]" for place in self._order.values()))
        return out

    def _let_out(self, text: str) -> list[str]:
        if not text:
            return []
        self._said.append(text)
        return [text]

    def _checked(self, text: str) -> str:
        """The text with its citations checked. Code has none: its brackets are its own."""
        done: list[str] = []
        end = 0
        for mark in MARK.finditer(text):
            done.append(text[end : mark.start()])
            end = mark.end()
            raw = mark.group()
            if mark["ticks"]:
                self._code_ticks = {0: len(raw), len(raw): 0}.get(self._code_ticks, self._code_ticks)
            elif mark["newline"]:
                self._code_ticks = self._code_ticks if self._code_ticks >= FENCE_TICKS else 0
            elif not self._code_ticks:
                raw = self._citation(raw, before="".join([*self._said[-1:], *done]))
            done.append(raw)
        return "".join([*done, text[end:]])

    def _citation(self, raw: str, before: str) -> str:
        if not NUMBER.search(raw) or LONG_NUMBER.search(raw):
            return raw
        valid = [number for number in _numbers(raw) if 1 <= number <= len(self._passages)]
        if not valid:
            # Nothing must be left that is read as another: `[[9]1]` does not become `[1]`.
            return "…" if OPENED.search(before) else ""
        places = [self._order.setdefault(number, len(self._order) + 1) for number in dict.fromkeys(valid)]
        lead = "" if raw[0] in "[【" else raw[0]
        return lead + "".join(f"[{place}]" for place in places)


def supporting(text: str, passages: Sequence[Passage]) -> list[int]:
    """The numbers of the passages that most of a text's words are found in, the best first."""
    words = content(text)
    if not words:
        return []
    shares = {
        number: len(words & content(f"{passage.title} {' '.join(passage.headings)} {passage.text}")) / len(words)
        for number, passage in enumerate(passages, 1)
    }
    best = sorted(shares, key=lambda number: (-shares[number], number))
    return [number for number in best if shares[number] >= SUPPORT][:MAX_SUPPORTING]


def _numbers(raw: str) -> list[int]:
    numbers: list[int] = []
    for part in re.split(r"[,;]", LEADING_ZEROS.sub("", raw)):
        if between := RANGE.search(part):
            numbers += range(int(between.group(1)), int(between.group(2)) + 1)
        numbers += map(int, NUMBER.findall(part))
    return numbers


def _head(passage: Passage) -> str:
    page = "" if passage.page is None else f", p. {passage.page}"
    headings = f" — {' > '.join(passage.headings)}" if passage.headings else ""
    return f"{passage.title}{page}{headings}"
