"""Where two pieces of a recording share a few seconds: which of their words are the same ones, said once."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

TOKENS_A_SECOND = {" ": 5, "": 8}
"""Nobody speaks faster for long: how many words (or characters, where nothing stands between words) a second holds."""
MARGIN = 4
LEAST_CHARS = 5
"""A single word that both say must be as long as this to count: shorter ones are everywhere."""

# Chinese, Japanese, Thai, Lao, Khmer, Burmese: nothing stands between their words.
_SPACELESS = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


_CHARACTERS = re.compile(r"\S\s*")
"""With the space behind it: what stands between two phrases is no character of its own."""


@dataclass(frozen=True, slots=True)
class Seam:
    """How many tokens the first piece lets go at its end, and the second at its beginning."""

    last: int = 0
    first: int = 0


def between(before: str, after: str) -> str:
    """What stands between two texts: a space, unless both are written without any where they meet."""
    return "" if before and after and _SPACELESS.match(before[-1]) and _SPACELESS.match(after[0]) else " "


def glue_of(text: str) -> str:
    """What stands between the tokens of a text: nothing in a text of Chinese, a space in others."""
    return "" if 2 * len(_SPACELESS.findall(text)) > len(text) else " "


def tokens_of(text: str, glue: str) -> list[str]:
    """Its words, or its characters where nothing stands between words."""
    return text.split() if glue else _CHARACTERS.findall(text)


def find_seam(before: str, after: str, overlap_s: float) -> Seam:
    """What both hold of the seconds that they share.

    Both may have misheard the word that the cut went through: what they agree on is kept once, what is beyond it on
    either side goes, as long as it is no more than what they agree on. Else nothing goes: a word said twice is better
    than a sentence lost.
    """
    glue = glue_of(before)
    if glue != glue_of(after):
        return Seam()
    most = int(overlap_s * TOKENS_A_SECOND[glue]) + MARGIN
    tail = [_bare(token) for token in tokens_of(before, glue)[-most:]]
    head = [_bare(token) for token in tokens_of(after, glue)[:most]]
    best: tuple[int, int] = (0, 0)
    seam = Seam()
    for at in range(len(tail)):
        for place in range(len(head)):
            size = _run(tail, at, head, place)
            agreed = [token for token in tail[at : at + size] if token]
            beyond = max(len(tail) - at - size, place)
            if _is_enough(agreed, glue) and beyond <= max(1, len(agreed)) and (len(agreed), -beyond) > best:
                best = (len(agreed), -beyond)
                seam = Seam(last=len(tail) - at - size, first=place + size)
    return seam


def _run(tail: Sequence[str], at: int, head: Sequence[str], place: int) -> int:
    """How many tokens are the same from here on."""
    size = 0
    while at + size < len(tail) and place + size < len(head) and tail[at + size] == head[place + size]:
        size += 1
    return size


def _is_enough(agreed: Sequence[str], glue: str) -> bool:
    """Two words, or a long one; four characters where nothing stands between words."""
    if not glue:
        return len(agreed) >= MARGIN
    return len(agreed) >= 2 or len("".join(agreed)) >= LEAST_CHARS


def _bare(token: str) -> str:
    """Without case and punctuation; nothing, for a token of punctuation alone."""
    return "".join(char for char in token.casefold() if char.isalnum())
