"""Citations of a model's text: those that name a passage go out with new numbers, others never do."""

import re
import time
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.citations import CitationCheck, numbered, supporting
from domain.documents import Passage

SHAPE = re.compile(r"[\[【]([ \t\u00a0\u202f0-9,;–-]*[0-9][ \t\u00a0\u202f0-9,;–-]*)[\]】](?!\()")
TEXTS = st.text(alphabet="[]【】0123456789,;-– ab(\u00a0\n", max_size=60)
TEXTS_WITH_CODE = st.text(alphabet="[]【】019,- a`(\n", max_size=60)


def passage(number: int, text: str = "", **fields: object) -> Passage:
    facts: dict[str, object] = {"headings": (), "page": None, **fields}
    return Passage(UUID(int=number), "doc", number, text, start_char=0, end_char=0, score=0.5, **facts)  # type: ignore[arg-type]


PASSAGES = [passage(number) for number in range(1, 9)]


def checked(text: str, passages: list[Passage] = PASSAGES, **options: int) -> tuple[str, list[int]]:
    """What goes out of a text, and the numbers of the passages that it then cites."""
    check = CitationCheck(passages, **options)
    said = [*check.feed([text]), *check.end()]
    assert "".join(said) == check.text
    return check.text, [one.ordinal for one in check.cited]


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({min(place, len(text)) for place in places} | {len(text)})
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


# What goes out


@pytest.mark.parametrize(
    ("text", "out", "cited"),
    [
        ("Oui [3].", "Oui [1].", [3]),
        ("Oui[3].", "Oui[1].", [3]),
        ("Oui [3] et [1], puis [3].", "Oui [1] et [2], puis [1].", [3, 1]),
        ("Oui [1, 3].", "Oui [1][2].", [1, 3]),
        ("Oui [2;5].", "Oui [1][2].", [2, 5]),
        ("Oui [1-3].", "Oui [1][2][3].", [1, 2, 3]),
        ("Oui [2 – 4].", "Oui [1][2][3].", [2, 3, 4]),
        ("Oui [7-99].", "Oui [1][2].", [7, 8]),
        ("Oui [4][2].", "Oui [1][2].", [4, 2]),
        ("Oui [4, 4].", "Oui [1].", [4]),
        ("Oui 【1】.", "Oui [1].", [1]),
        ("Oui [03].", "Oui [1].", [3]),
        ("Oui\u00a0[5].", "Oui\u00a0[1].", [5]),
        ("Fin [2]", "Fin [1]", [2]),
        ("[2]", "[1]", [2]),
    ],
)
def test_a_citation_of_a_passage_goes_out_with_the_number_of_its_first_appearance(text, out, cited):
    assert checked(text) == (out, cited)


@pytest.mark.parametrize(
    ("text", "out"),
    [
        ("Non [9].", "Non."),
        ("Non[0].", "Non."),
        ("Non [99, 42].", "Non."),
        ("Non 【12】.", "Non."),
        ("Non\u202f[9] !", "Non !"),
        ("Oui [2, 9].", "Oui [1]."),
        ("Oui [2] [9].", "Oui [1]."),
        ("Non [11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21].", "Non."),
        ("Non [" + "0" * 5000 + "9].", "Non."),
        ("Non [[9]1]", "Non […1]"),
        ("Non [1[9]2]", "Non [1…2]"),
        ("Non [9", "Non [9"),
    ],
)
def test_a_citation_of_nothing_is_dropped(text, out):
    assert checked(text)[0] == out


@pytest.mark.parametrize(
    "text",
    [
        "La loi [2024] et l'arrêté [100] le disent",
        "Voir [a], [x1], [^1], [] et [ ]",
        "- [ ] une tâche\n- [x] une autre",
        "Selon [1](https://example.org/a_(b)) et ![2](image.png)",
        "Le tableau `notes[3]` et ``x[9]`` valent",
        "Ainsi :\n```python\nfor i in a[1]:\n    b[9] = `c`[2]\n```",
        "```\nresté ouvert [9]",
        "Une liste [\n  1,\n  9\n]",
        "Un crochet seul ] puis [ et encore 【",
        "Une erreur [12.5], [-], [,]",
    ],
)
def test_brackets_that_are_no_citations_go_out_unharmed(text):
    assert checked(text) == (text, [])


@pytest.mark.parametrize("text", ["``x[9]`y[9]`` [2]", "```\na`b[9]\n``\nc[9]\n``` [2]", "`a[9]` [2]"])
def test_code_that_comes_letter_by_letter_is_code_all_the_same(text):
    check = CitationCheck(PASSAGES)
    for letter in text:
        check.feed([letter])
    check.end()
    assert check.text == text.replace("[2]", "[1]")
    assert [one.ordinal for one in check.cited] == [2]


def test_code_ends_where_it_ends():
    assert checked("`a[9]` [9] et `b` [2]") == ("`a[9]` et `b` [1]", [2])
    assert checked("```\na[9]\n```\nVoir [2].") == ("```\na[9]\n```\nVoir [1].", [2])
    # A backtick that nothing closes holds for its line alone.
    assert checked("l`or [9]\nNon [9].") == ("l`or [9]\nNon.", [])


# In step with the text


@given(TEXTS | TEXTS_WITH_CODE, st.lists(st.integers(0, 60)))
def test_what_goes_out_does_not_depend_on_how_the_text_was_cut(text, places):
    check = CitationCheck(PASSAGES[:3])
    said: list[str] = []
    for piece in cut(text, places):
        said += check.feed([piece])
    said += check.end()
    assert "".join(said) == check.text
    assert (check.text, [one.ordinal for one in check.cited]) == checked(text, PASSAGES[:3])


@given(TEXTS)
def test_no_citation_that_goes_out_names_a_passage_that_does_not_exist(text):
    out, cited = checked(text, PASSAGES[:3])
    for inside in SHAPE.findall(out):
        numbers = [int(number) for number in re.findall("[0-9]+", inside)]
        if max(numbers) < 100:
            assert all(1 <= number <= len(cited) for number in numbers), out


@given(TEXTS)
def test_the_passages_cited_are_numbered_without_gap_and_in_the_order_of_the_text(text):
    out, cited = checked(text, PASSAGES[:3])
    seen = [int(number) for number in re.findall(r"\[([1-3])\](?!\()", out)]
    assert len(set(cited)) == len(cited)
    assert list(dict.fromkeys(seen)) == list(range(1, len(set(seen)) + 1))
    assert set(seen) == set(range(1, len(cited) + 1))


@given(st.text(alphabet="abé. \n(){}\"'*", max_size=40), st.lists(st.integers(0, 40)))
def test_text_without_brackets_is_held_back_by_a_last_space_at_most(text, places):
    check = CitationCheck(PASSAGES)
    fed = ""
    for piece in cut(text, places):
        fed += piece
        check.feed([piece])
        assert check.text == fed.removesuffix(" ")
    check.end()
    assert check.text == text


def test_what_may_become_a_citation_waits_for_its_end_alone():
    check = CitationCheck(PASSAGES)
    assert check.feed(["Le délai", " est"]) == ["Le délai est"]
    assert check.feed([" [", "3"]) == []
    assert check.feed(["]"]) == [], "it may still be a link"
    assert check.feed([" jours"]) == [" [1] jours"]
    assert check.feed(["[ok"]) == ["[ok"]
    assert check.end() == []


def test_a_long_row_of_brackets_does_not_take_long():
    started = time.thread_time()
    check = CitationCheck(PASSAGES)
    for _ in range(2000):
        check.feed(["[1,"])
    check.feed(["[" + "1," * 20_000])
    check.end()
    assert time.thread_time() - started < 10


# A text that cites nothing


def test_a_text_without_citations_names_its_default():
    assert checked("Trente jours.", PASSAGES[:1], default=1) == ("Trente jours. [1]", [1])
    assert checked("Trente [1] jours.", PASSAGES[:2], default=2) == ("Trente [1] jours.", [1])
    assert checked(" \n", PASSAGES[:1], default=1) == (" \n", [])


def test_a_text_without_citations_names_the_passages_that_its_words_come_from():
    ones = [
        passage(1, "Le congé dure trente jours"),
        passage(2, "Rien à voir"),
        passage(3, "Le congé parental dure trente jours entiers"),
    ]
    assert checked("Le congé parental dure trente jours.", ones) == (
        "Le congé parental dure trente jours. [1][2]",
        [3, 1],
    )
    assert checked("Bonjour à toutes et tous.", ones) == ("Bonjour à toutes et tous.", [])
    few = "Trente personnes attendent devant la mairie depuis lundi."
    assert checked(few, ones) == (few, [])


def test_at_most_two_passages_are_named_unasked_and_titles_and_headings_count():
    same = [passage(number, "trente jours ouvrables") for number in (1, 2, 3)]
    assert supporting("trente jours ouvrables", same) == [1, 2]
    assert supporting("trente jours", [passage(1, "rien", headings=("Trente jours",))]) == [1]
    assert supporting("", same) == supporting("à la", same) == []


def test_passages_are_shown_with_their_numbers_titles_pages_and_headings():
    ones = [passage(1, "Un.", page=3, headings=("I", "A")), passage(2, "Deux.")]
    assert numbered(ones) == "[1] doc, p. 3 — I > A\nUn.\n\n[2] doc\nDeux."
    assert numbered(ones, ["U", "D"]) == "[1] doc, p. 3 — I > A\nU\n\n[2] doc\nD"
