"""Whether what a model says is in what it was given to read: its quotations, and the words it adds."""

import re
import unicodedata
from collections.abc import Sequence

from domain.documents import Passage

TOKEN = re.compile(r"(?<!\w)[^\W\d]\w*|\d+|[^\W\d]+")
"""A word, a number; `13h45` is 13, h and 45, for its numbers must be found, and `CO2` one word."""
CONTENT_CHARS = 4
"""Shorter words, but for numbers, tell little."""
QUOTED_SHARE = 0.8
"""The least part of a quotation's words that stand in the passage: models mend the ends of what they copy."""
GROUNDED_SHARE = 0.6
ASKED_SHARE = 0.5
STEM_CHARS = 6


def quoted_in(quotation: str, question: str, passages: Sequence[Passage]) -> int | None:
    """The number (from 1) of the passage that the words of a quotation stand in, nearly all and close together.

    `None` for an invented one, and for one that only repeats the question.
    """
    words = tokens(quotation)
    if not words or not content(quotation) - content(question):
        return None
    shares = [_share_nearby(words, tokens(passage.text)) for passage in passages]
    best = max(range(len(shares)), key=lambda place: shares[place], default=None)
    return None if best is None or shares[best] < QUOTED_SHARE else best + 1


def is_borne_out(answer: str, question: str, passages: Sequence[Passage]) -> bool:
    """Whether the passages speak of what is asked, and hold what the answer adds to it: its numbers, and most words.

    A plausible question whose answer they lack is where small models invent; half of its words are then missing.
    """
    known: set[str] = set()
    for passage in passages:
        known |= content(f"{passage.title} {' '.join(passage.headings)} {passage.text}")
    stems = {stem(word) for word in known}
    asked = {stem(word) for word in content(question)}
    said = content(answer)
    if not said or len(asked & stems) < ASKED_SHARE * len(asked):
        return False
    if any(word.isdigit() and word not in known for word in said):
        return False
    if quoted_in(answer, "", passages) is not None:
        return True
    added = said - content(question)
    return bool(added) and sum(stem(word) in stems for word in added) >= GROUNDED_SHARE * len(added)


def stem(word: str) -> str:
    """French and English words of one family mostly agree so far: emprunter, empruntés; close, closes; jour, jours."""
    return word[:STEM_CHARS].removesuffix("s")


def content(text: str) -> set[str]:
    """The words that carry meaning, and the numbers."""
    return {word for word in tokens(text) if len(word) >= CONTENT_CHARS or word.isdigit()}


def tokens(text: str) -> list[str]:
    """Words and numbers in order, without case and accents."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return TOKEN.findall("".join(letter for letter in plain if not unicodedata.combining(letter)))


def _share_nearby(words: Sequence[str], text: Sequence[str]) -> float:
    """The greatest part of the words that stands within a stretch of the text half as long again."""
    wanted: dict[str, int] = {}
    for word in words:
        wanted[word] = wanted.get(word, 0) + 1
    width = len(words) + len(words) // 2 + 1
    inside: dict[str, int] = {}
    matched = best = 0
    for place, word in enumerate(text):
        inside[word] = inside.get(word, 0) + 1
        matched += inside[word] <= wanted.get(word, 0)
        if place >= width:
            left = text[place - width]
            matched -= inside[left] <= wanted.get(left, 0)
            inside[left] -= 1
        best = max(best, matched)
    return best / len(words)
