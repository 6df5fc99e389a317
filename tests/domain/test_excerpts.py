"""The part of a passage that a question is about: whole sentences and rows, in order, within its bound."""

from hypothesis import given
from hypothesis import strategies as st

from domain.excerpts import excerpt

SENTENCES = (
    "Le règlement entre en vigueur en mars. "
    "Il concerne tous les services. "
    "Le congé parental dure trente jours. "
    "Les locaux ferment à midi. "
    "Le parking est gratuit."
)
TABLE = "Ville | Habitants | Code\nParis | 2100000 | 75\nLyon | 520000 | 69\nBrest | 140000 | 29\nNantes | 320000 | 44"
LINES = st.lists(st.text(alphabet="abcé | .!?A1 ", max_size=20), max_size=12)


def test_a_short_text_is_left_as_it_is():
    text = "  Deux lignes.\n\nEt un tableau : a | b "
    assert excerpt(text, "tableau", len(text)) == text
    assert excerpt("", "quoi ?", 10) == ""


def test_the_sentence_that_shares_most_with_the_question_is_kept_with_the_one_before_it():
    assert excerpt(SENTENCES, "Combien de jours dure le congé parental ?", 70) == (
        "Il concerne tous les services.\nLe congé parental dure trente jours."
    )


def test_it_stands_alone_where_there_is_no_room_for_more():
    assert excerpt(SENTENCES, "la durée du congé parental", 37) == "Le congé parental dure trente jours."


def test_what_is_kept_stands_in_the_order_of_the_text():
    assert excerpt(SENTENCES, "le parking, puis le règlement", 64) == (
        "Le règlement entre en vigueur en mars.\nLe parking est gratuit."
    )


def test_room_that_is_left_is_filled_from_the_beginning():
    assert excerpt(SENTENCES, "rien de tout cela n'y est", 72) == (
        "Le règlement entre en vigueur en mars.\nIl concerne tous les services."
    )


def test_words_of_one_family_count_as_the_same():
    assert "congé parental" in excerpt(SENTENCES, "les congés des parents", 40)


def test_a_row_comes_with_the_names_of_its_columns():
    assert excerpt(TABLE, "Combien d'habitants à Brest ?", 48) == "Ville | Habitants | Code\nBrest | 140000 | 29"


def test_a_row_whose_columns_do_not_fit_is_not_kept():
    assert excerpt(TABLE, "Brest", 30) == "Ville | Habitants | Code"


def test_each_table_has_its_own_first_row():
    two = f"{TABLE}\nUne phrase entre deux tableaux.\nNom | Âge\nAda | 36\nAlan | 41"
    assert excerpt(two, "Quel âge a Alan ?", 25) == "Nom | Âge\nAlan | 41"


def test_a_row_before_a_sentence_comes_with_the_names_of_its_columns():
    text = f"{TABLE}\nLe congé parental dure trente jours."
    assert excerpt(text, "congé parental", 90) == (
        "Ville | Habitants | Code\nNantes | 320000 | 44\nLe congé parental dure trente jours."
    )


def test_a_text_without_an_end_is_cut():
    assert excerpt("mot " * 100, "mot", 10) == ("mot " * 100)[:10]
    assert excerpt(" " * 100, "mot", 10) == " " * 10


@given(LINES, st.text(alphabet="abcé 1", max_size=20), st.integers(1, 120))
def test_an_excerpt_is_made_of_pieces_of_the_text_in_order_within_its_bound(lines, question, max_chars):
    text = "\n".join(lines)
    part = excerpt(text, question, max_chars)
    assert len(part) <= max_chars
    at = 0
    for piece in part.split("\n"):
        at = text.index(piece, at) + len(piece)


@given(st.lists(st.sampled_from(["a | b", "c | d", "une phrase"]), min_size=1, max_size=12), st.integers(6, 60))
def test_no_row_stands_without_the_first_one_of_its_table(lines, max_chars):
    numbered = [f"{line} {at}" for at, line in enumerate(lines)]
    text = "\n".join(numbered)
    kept = excerpt(text, "c une", max_chars).split("\n")
    for at, line in enumerate(numbered):
        if line in kept and " | " in line:
            first = at
            while first and " | " in numbered[first - 1]:
                first -= 1
            assert numbered[first] in kept or len(text) <= max_chars or text.startswith(kept[0])
