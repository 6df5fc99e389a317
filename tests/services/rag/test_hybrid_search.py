"""What a search finds: by words in French and in English, by meaning, in some documents, in a fixed order."""

import math

import pytest

from domain.errors import InvalidParameter, ProviderUnreachable
from domain.usage import Call
from services.rag import search_sql
from tests.projects_for_tests import ALICE, House, filter_of, vector_of

LEASE = """Entre les soussignés.
# Résiliation
Le locataire peut résilier le bail à tout moment avec un préavis de trois mois.
Les congés sont notifiés par lettre recommandée.
# Loyer
Le loyer est payable le premier jour de chaque mois.
Les chevaux du propriétaire paissent dans le pré."""
MANUAL = """# Safety
Always unplug the machine before cleaning the blades.
Children must not operate this appliance.
# Warranty
The warranty covers manufacturing defects for two years."""


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Comment résilier mon bail ?", "Le locataire"),
        ("resilier avec preavis", "Le locataire"),  # Typed without accents.
        ("lettres recommandées", "Les congés"),
        ("cheval chevaux", "Les chevaux"),
        ("Which defect is covered by a warranty?", "The warranty"),
        ("unplugging machines", "Always unplug"),
        ("is a child allowed to operate appliances", "Children"),
    ],
)
async def test_finds_by_the_words_of_either_language(house: House, question: str, expected: str) -> None:
    house.embedder.is_blind = True
    await house.take_in("p", LEASE)
    await house.take_in("p", MANUAL)
    (found,) = await house.search("p", question, k=1)
    assert found.text.startswith(expected)


async def test_a_heading_finds_the_passages_under_it_and_comes_with_them(house: House) -> None:
    document = await house.take_in("p", LEASE, name="bail.md")
    (first, *_) = await house.search("p", "résiliation par lettre recommandée")
    assert first.headings == ("Résiliation",)
    assert (first.document_id, first.title, first.ordinal, first.page) == (document, "bail.md", 2, 1)
    assert LEASE.replace("\n", "\n\n")[first.start_char : first.end_char] == first.text


async def test_the_score_is_the_cosine_similarity(house: House) -> None:
    await house.take_in("p", "un deux trois quatre\nrouge vert bleu")
    question = "un deux cinq"
    for passage in await house.search("p", question):
        asked, stored = vector_of(question), vector_of(passage.text)
        exact = sum(one * other for one, other in zip(asked, stored, strict=True))
        assert math.isclose(passage.score, exact, abs_tol=2e-3)


async def test_by_meaning_alone_where_no_word_is_shared(house: House) -> None:
    await house.take_in("p", "alpha beta gamma\ndelta epsilon")
    found = await house.search("p", "zeta eta theta", k=50)
    assert len(found) == 2
    assert found[0].score >= found[1].score


async def test_only_the_sources_that_are_named_are_searched(house: House) -> None:
    one = await house.take_in("p", "le contrat de location\nun autre alinéa")
    two = await house.take_in("p", "le contrat de travail")
    await house.take_in("p", "le contrat de vente")
    assert {passage.document_id for passage in await house.search("p", "contrat", [one], k=50)} == {one}
    assert {passage.document_id for passage in await house.search("p", "contrat", [one, two], k=50)} == {one, two}


async def test_words_that_half_the_project_has_do_not_drown_a_rare_one(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"article contrat numéro {number} dispositions" for number in range(search_sql.COMMON + 20)]
    lines[137] = "article contrat numéro zirconium dispositions"
    await house.take_in("p", "\n".join(lines))
    found = await house.search("p", "article contrat zirconium", k=1)
    assert "zirconium" in found[0].text


async def test_where_every_word_is_common_those_who_have_them_all_come_first(house: House) -> None:
    house.embedder.is_blind = True
    size = search_sql.COMMON + 20
    lines = [f"avenant remarque {number}" for number in range(size)] + [
        f"clause sûreté {number}" for number in range(size)
    ]
    lines[40] = "avenant clause 40"
    await house.take_in("p", "\n".join(lines))
    allowed = await house.projects.open_filter_or_raise(ALICE, "p")
    async with house.database.connection() as connection:
        asked = {
            "project": allowed.project_id,
            "sources": None,
            "within": f"'={allowed.project_id}'",
            "question": "avenant clause",
            "plain": "avenant clause",
        }
        assert not await (await connection.execute(search_sql.BY_WORDS, asked)).fetchall()
        rows = await (await connection.execute(search_sql.BY_ALL_WORDS, asked)).fetchall()
    assert len(rows) == 1
    assert (await house.search("p", "avenant clause", k=1))[0].text == "avenant clause 40"


async def test_equal_passages_come_in_the_order_of_their_age(house: House) -> None:
    await house.take_in("p", "\n".join(["la même phrase"] * 12))
    for _ in range(3):
        assert [passage.ordinal for passage in await house.search("p", "la même phrase", k=12)] == list(range(12))


async def test_among_many_passages_the_signs_lead_to_the_exact_best(house: House) -> None:
    lines = [f"mot{number % 97} terme{number % 89} item{number}" for number in range(1_200)]
    await house.take_in("p", "\n".join(lines))
    for number in (3, 555, 1_111):
        found = await house.search("p", lines[number], k=3)
        assert found[0].ordinal == number
        assert found[0].score > 0.99


@pytest.mark.parametrize(
    "question", ["'", "\\", "a' | b & !c", "le la les", "?!", "%s %(x)s", "\x00 nul", "\ud800", "mot " * 20_000, "🙂"]
)
async def test_any_question_is_answered(house: House, question: str) -> None:
    await house.take_in("p", "le la les\nun mot")
    assert len(await house.search("p", question)) == 2


@pytest.mark.parametrize(("question", "k"), [("", 5), (" \n", 5), ("mot", 0), ("mot", 51)])
async def test_questions_that_ask_nothing_are_refused(house: House, question: str, k: int) -> None:
    await house.take_in("p", "un mot")
    with pytest.raises(InvalidParameter):
        await house.search("p", question, k=k)


async def test_the_embeddings_call_is_told_also_when_it_fails(house: House) -> None:
    await house.take_in("p", "un mot")
    allowed = await house.projects.open_filter_or_raise(ALICE, "p")
    calls: list[Call] = []
    await house.retriever.search(allowed, "un mot", on_call=calls.append)
    house.embedder.failures.append(ProviderUnreachable("no", retryable=True))
    with pytest.raises(ProviderUnreachable):
        await house.retriever.search(allowed, "un mot", on_call=calls.append)
    assert [call.status for call in calls] == ["succeeded", "failed"]


async def test_a_project_that_does_not_exist_holds_nothing(house: House) -> None:
    assert await house.retriever.search(filter_of("nobody's"), "un mot", on_call=lambda _: None) == []
