"""Where sentences end, in French and English."""

import re
from collections.abc import Iterator

_ABBREVIATIONS = """
    m mm mme mmes mlle mlles me dr drs pr prof st ste mgr mr mrs ms jr sr gen gén cap lt sgt hon rev cf vs env approx
    moy tél tel fax av bd bld boul bât apt rte arr dép dept resp annexe réf ref éd ed eds coll op cit ibid
    janv févr fév avr juil sept oct nov déc jan feb apr jun jul aug dec
    e.g i.e eg ie p.ex c.-à-d c-à-d n.b p.s j.-c a.m p.m u.s u.k ph.d inc ltd corp cie sté ets assoc
"""
_BEFORE_NUMBERS = """
    art al alin p pp pg vol chap ch fig figs tab ann id sect sec par § n no nos nº n° col hab max min ex pl mar
"""
ABBREVIATIONS = frozenset(_ABBREVIATIONS.split())
"""Words whose full stop ends no sentence, in lower case, as they stand before it."""
BEFORE_NUMBERS = frozenset(_BEFORE_NUMBERS.split())
"""The same, where a number follows; otherwise they are words: "He said no."."""

_CANDIDATE = re.compile(r"""(?<![.!?…])[.!?…]++(?:["”’)\]]|\s?»)*(?:\s+|\Z)|[。！？]\s*""")
_WORD_BEFORE = re.compile(r"[^\s(\[«\"“,;:'’]+\Z")
_WORD_WINDOW = 24
"""No abbreviation is longer; a window keeps the search short in a text without spaces."""


def sentence_ends(text: str) -> Iterator[int]:
    """Offsets just after each sentence and the white space that follows it; the last is the text's length."""
    last = 0
    for match in _CANDIDATE.finditer(text):
        if match.end() == len(text) or _ends_a_sentence(text, match):
            last = match.end()
            yield last
    if last < len(text):
        yield len(text)


def _ends_a_sentence(text: str, match: re.Match[str]) -> bool:
    following = text[match.end()]
    if following.islower():
        return False  # "etc. et la suite", "U.S. troops".
    if not match[0].startswith(".") or match[0].startswith(".."):
        return True
    before = _WORD_BEFORE.search(text, max(0, match.start() - _WORD_WINDOW), match.start())
    word = before[0] if before else ""
    if len(word) == 1 and word.isalpha():
        return False  # An initial: "J. Dupont".
    if word.isdecimal() and _opens_a_line(text, match.start() - len(word)):
        return False  # A list's number: "3. Titre".
    if word.lower() in BEFORE_NUMBERS:
        return not following.isdecimal()
    return word.lower() not in ABBREVIATIONS


def _opens_a_line(text: str, at: int) -> bool:
    return at == 0 or text[at - 1] == "\n"
