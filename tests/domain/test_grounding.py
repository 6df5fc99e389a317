"""Quotations and answers are compared with the passages: what is there passes, what was invented does not."""

from uuid import UUID

import pytest

from domain.documents import Passage
from domain.grounding import content, is_borne_out, quoted_in, tokens

CONGE = "Le congé parental dure trente jours ouvrables. La demande est déposée six semaines avant son début."
PRIX = "L'abonnement coûte 1\u202f234,56\u00a0€ par an, payable le 5 mars. La séance du matin commence à 13 h 45."
REGISTRATION = "Registration closes on March 5. Each participant pays a fee of $12.50 at the entrance."


def passages(*texts: str) -> list[Passage]:
    return [Passage(UUID(int=1), "Guide", at, text, ("Règles",), None, 0, 0, 0.5) for at, text in enumerate(texts)]


ALL = passages(CONGE, PRIX, REGISTRATION)


# Words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("DÉPOSÉE à l'Œuvre", "deposee a l'œuvre"),
        ("1\u202f234,56 €", "1 234,56 €"),
        ("1\u00a0234.56", "1 234,56"),
        ("13 h 45", "13h45"),
        ("13:45", "13-45"),
        ("cafe\u0301", "café"),
        ("25 m²", "25 m2"),
    ],
)
def test_words_and_numbers_are_the_same_whatever_their_spelling(one, other):
    assert tokens(one) == tokens(other)


def test_numbers_are_told_from_the_units_that_follow_them_and_names_are_not_cut():
    assert tokens("18h30, 20km, 3e étage, CO2 et A4") == [
        "18",
        "h",
        "30",
        "20",
        "km",
        "3",
        "e",
        "etage",
        "co2",
        "et",
        "a4",
    ]


def test_short_words_carry_no_meaning_but_numbers_do():
    assert content("Le 5 mars, à la fin") == {"5", "mars"}


# Quotations


@pytest.mark.parametrize(
    ("quotation", "question", "place"),
    [
        ("Le congé parental dure trente jours ouvrables.", "Combien de temps dure le congé parental ?", 1),
        ("le conge parental DURE trente jours ouvrables", "Combien de temps dure le congé parental ?", 1),
        ("« La demande est déposée six semaines avant son début »", "Quand demander ?", 1),
        ("L’abonnement coûte 1 234,56 € par an", "Quel est le prix ?", 2),
        ("La séance du matin commence à 13h45", "À quelle heure ?", 2),
        ("Each participant pays a fee of $12.50", "How much is it?", 3),
        # Models mend the ends of what they copy.
        ("Each participant pays a fee of $12.50 at the door", "How much is it?", 3),
    ],
)
def test_a_quotation_is_found_in_its_passage(quotation, question, place):
    assert quoted_in(quotation, question, ALL) == place


@pytest.mark.parametrize(
    ("quotation", "question"),
    [
        ("Le congé parental est rémunéré à taux plein par la caisse", "Le congé est-il payé ?"),
        ("Le congé parental dure", "Combien de temps dure le congé parental ?"),
        ("Participants register online for free", "How do I register?"),
        ("", "Quand ?"),
        ("… ?!", "Quand ?"),
        ("de la à", "Quand ?"),
    ],
)
def test_an_invented_quotation_is_not_found_nor_one_that_repeats_the_question(quotation, question):
    assert quoted_in(quotation, question, ALL) is None


def test_the_words_of_a_quotation_stand_close_together():
    words = ["alpha", "bravo", "charlie", "delta"]
    scattered = passages(" ".join(f"{word} {'autre ' * 10}" for word in words))
    assert quoted_in(" ".join(words), "", scattered) is None
    assert quoted_in(" ".join(words), "", passages(f"{'autre ' * 10} alpha bravo puis charlie delta")) == 1


def test_a_word_counts_as_often_as_it_stands_there():
    assert quoted_in("trente trente trente trente jours", "", passages("trente jours")) is None
    assert quoted_in("trente jours ouvrables restants", "", passages("trente trente trente trente trente")) is None


def test_nothing_is_quoted_from_no_passage():
    assert quoted_in("Le congé dure trente jours", "Combien ?", []) is None
    assert quoted_in("Le congé dure trente jours", "Combien ?", passages("")) is None


def test_the_best_of_several_passages_is_named():
    assert (
        quoted_in(
            "le délai est de trente jours", "", passages("le délai est de dix jours", "le délai est de trente jours")
        )
        == 2
    )


# Answers


@pytest.mark.parametrize(
    ("answer", "question"),
    [
        ("Le congé parental dure trente jours ouvrables.", "Combien de temps dure le congé parental ?"),
        ("La demande doit être déposée six semaines avant.", "Quand déposer la demande de congé parental ?"),
        ("Il coûte 1 234,56 € par an.", "Combien coûte l'abonnement ?"),
        ("Elle commence à 13h45.", "À quelle heure commence la séance ?"),
        ("The fee is 12,50 dollars, paid at the entrance.", "What fee do participants pay?"),
        ("It closes on March 5.", "When does registration close?"),
        # It says no more than the question does, in the words of the passage.
        ("Le congé parental dure trente jours.", "Le congé parental dure-t-il trente jours ?"),
    ],
)
def test_an_answer_with_the_words_of_the_passages_is_borne_out(answer, question):
    assert is_borne_out(answer, question, ALL)


@pytest.mark.parametrize(
    ("answer", "question"),
    [
        # An invented number, also beside its unit.
        ("Le congé parental dure 47 jours ouvrables.", "Combien de temps dure le congé parental ?"),
        ("La séance commence à 14h45.", "À quelle heure commence la séance ?"),
        ("La séance commence à 13h20.", "À quelle heure commence la séance ?"),
        ("L'abonnement coûte 1 234,99 €.", "Combien coûte l'abonnement ?"),
        # A number of the question that the passages do not have.
        ("Oui, en 2019 le congé parental dure trente jours.", "En 2019, le congé parental dure-t-il trente jours ?"),
        # Words that are not there.
        ("Le remboursement intervient sous quinzaine par virement bancaire.", "Comment se passe le congé parental ?"),
        ("You register by phone with your passport.", "How does registration work?"),
        # A question about something else.
        ("trente jours ouvrables", "Quelle est la capitale de la Mongolie ?"),
        # Nothing, or nothing but the question.
        ("Le congé parental a une durée.", "Quelle durée le congé parental a-t-il ?"),
        ("", "Combien de temps dure le congé parental ?"),
        ("Oui.", "Le congé parental dure-t-il ?"),
    ],
)
def test_an_invented_answer_is_not_borne_out(answer, question):
    assert not is_borne_out(answer, question, ALL)


def test_titles_and_headings_bear_an_answer_out_too():
    [one] = passages("trente jours ouvrables")
    assert is_borne_out(
        "Selon le Guide des règles, trente jours ouvrables.", "Combien de jours selon les règles ?", [one]
    )
    assert not is_borne_out("trente jours", "Combien de jours ?", [])
