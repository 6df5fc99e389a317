from itertools import pairwise

import pytest

from services.rag.sentences import sentence_ends


def sentences(text: str) -> list[str]:
    cuts = [0, *sentence_ends(text)]
    return [text[a:b].strip() for a, b in pairwise(cuts)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Il pleut. Elle rit ! Pourquoi ? Voilà…", ["Il pleut.", "Elle rit !", "Pourquoi ?", "Voilà…"]),
        ("M. Dupont et Mme. Roy. Fin.", ["M. Dupont et Mme. Roy.", "Fin."]),
        ("Voir l'art. 12 du code. Puis p. 3. Fin.", ["Voir l'art. 12 du code.", "Puis p. 3.", "Fin."]),
        ("Use a tool, e.g. Make. It works.", ["Use a tool, e.g. Make.", "It works."]),
        ("Le prix est de 3.50 euros. Bien.", ["Le prix est de 3.50 euros.", "Bien."]),
        ("J. Martin a écrit. Il part.", ["J. Martin a écrit.", "Il part."]),
        ("Des fruits, etc. et des légumes. Fin.", ["Des fruits, etc. et des légumes.", "Fin."]),
        ("Il dit « Non. » Puis il part.", ["Il dit « Non. »", "Puis il part."]),
        ('She said "No." Then left.', ['She said "No."', "Then left."]),
        ("He said no. Then left.", ["He said no.", "Then left."]),
        ("Écrit en 1998. Relu en 2001.", ["Écrit en 1998.", "Relu en 2001."]),
        ("1. Ouvrir. 2. Fermer.", ["1. Ouvrir.", "2.", "Fermer."]),
        ("今日は。明日も。", ["今日は。", "明日も。"]),
        ("", []),
        ("Sans point", ["Sans point"]),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected
