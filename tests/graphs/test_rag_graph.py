"""RAG: what the documents hold is answered with citations; what they do not is said not to be known."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from domain.documents import Passage
from domain.errors import BadRequest
from domain.runs import RunEvent, Tokens
from graphs.rag_graph import HISTORY_MESSAGES, PASSAGES, SMALL_PASSAGE_CHARS, SMALL_PASSAGES, create_rag_graph
from graphs.wording import UNKNOWN
from services.agent_registry import agent_registry
from services.retrieval import Retrieve
from tests.agents_for_tests import (
    AGENTS_CATALOGUE,
    LARGE,
    PLAIN,
    REASONING,
    SMALL,
    AnyProject,
    FakeRetriever,
    answers_with,
    contents,
    end_of,
    fills,
    passage,
    progress_of,
    run_of,
    told,
)
from tests.house_for_tests import House, failure_of, house_of, text_of
from tests.scripted_provider import ScriptedProvider, Step, Wait, finish, say

OPTIONS = agent_registry._registrations["RAG"].options
CANTINE = passage(1, "La cantine ouvre à midi du lundi au vendredi.")
CONGE = passage(2, "Le congé parental dure trente jours ouvrables.", headings=("Congés",), page=3)
PARKING = passage(3, "Le parking est gratuit pour les agents du service.")
FOUND = [CANTINE, CONGE, PARKING]
QUESTION = "Combien de jours dure le congé parental ?"
QUOTED = fills(quotation="Le congé parental dure trente jours ouvrables.", passage=2)
INVENTED = fills(quotation="Le congé parental est payé par la caisse nationale.", passage=1)


@asynccontextmanager
async def rag_house(
    *scripts: list[Step], found: list[list[Passage]] | None = None
) -> AsyncIterator[tuple[House, ScriptedProvider, FakeRetriever]]:
    retriever = FakeRetriever([list(ones) for ones in found or [FOUND]])
    async with house_of(
        *scripts,
        agents={"RAG": create_rag_graph},
        options=OPTIONS,
        catalogue=AGENTS_CATALOGUE,
        projects=AnyProject(),
        retrieve=Retrieve(retriever),  # type: ignore[arg-type]
    ) as (house, provider):
        yield house, provider, retriever


async def asked(house: House, text: str = QUESTION, model: str = LARGE, **fields: Any) -> list[RunEvent]:
    events = await run_of(house, text, agent="RAG", model=model, **{"project_id": "p", **fields})
    assert failure_of(events) is None
    return events


def heard(events: list[RunEvent]) -> tuple[str, list[Passage]]:
    return text_of(events), list(end_of(events).sources)


# A large model


async def test_what_is_quoted_from_a_passage_is_answered_with_its_citation():
    async with rag_house(QUOTED, answers_with("Trente jours", " [", "2", "].")) as (house, provider, retriever):
        events = await asked(house)
    assert heard(events) == ("Trente jours [1].", [CONGE])
    [(filter_, question, k)] = retriever.searches
    assert (filter_.project_id, question, k) == ("p", QUESTION, PASSAGES)
    grade, answer = provider.requests
    assert grade["response_format"]["json_schema"]["name"] == "Quotation"
    assert "[2] Guide 2, p. 3 — Congés\nLe congé parental dure trente jours ouvrables." in contents(provider, 0)
    assert told(provider, 0)[0] == told(provider, 1)[0], "the passages are read once"
    assert "Le passage [2] dit : « Le congé parental dure trente jours ouvrables. »" in contents(provider, 1)
    assert "response_format" not in answer


async def test_the_answer_is_streamed_as_it_comes():
    answer = [*say("Trente jours"), Wait(0.05), *say(" [2"), Wait(0.05), *say("]."), *finish()]
    async with rag_house(QUOTED, answer) as (house, _, _):
        pieces = [piece for event in await asked(house) if isinstance(event, Tokens) for piece in event.pieces]
    assert pieces == ["Trente jours", " [1]."]


async def test_citations_are_renumbered_and_those_of_nothing_dropped():
    answer = answers_with("Trente jours [3][7], sauf la cantine [1] [12]", ". Encore [3].")
    async with rag_house(QUOTED, answer) as (house, _, _):
        text, sources = heard(await asked(house))
    assert text == "Trente jours [1], sauf la cantine [2]. Encore [1]."
    assert sources == [PARKING, CANTINE]


async def test_sources_are_what_is_cited_and_not_all_that_was_found():
    async with rag_house(QUOTED, answers_with("Personne ne sait rien.")) as (house, _, _):
        assert heard(await asked(house)) == ("Personne ne sait rien.", [])


async def test_an_answer_that_cites_nothing_names_the_passages_its_words_come_from():
    async with rag_house(QUOTED, answers_with("Le congé parental dure trente jours.")) as (house, _, _):
        assert heard(await asked(house)) == ("Le congé parental dure trente jours. [1]", [CONGE])


@pytest.mark.parametrize(
    "grade", [INVENTED, fills(quotation="", passage=0), answers_with("pas du JSON"), answers_with("{")]
)
async def test_without_a_quotation_the_question_is_asked_in_other_words(grade):
    scripts = [grade, fills(question="durée absence naissance"), QUOTED, answers_with("Trente jours [1].")]
    async with rag_house(*scripts, found=[[CANTINE], [CONGE, CANTINE]]) as (house, _, retriever):
        assert heard(await asked(house)) == ("Trente jours [1].", [CONGE])
    assert [question for _, question, _ in retriever.searches] == [QUESTION, f"{QUESTION}\ndurée absence naissance"]


async def test_a_long_quotation_is_read_whatever_the_schema_says():
    long = passage(1, "Le congé parental " + "et la suite de la phrase " * 30 + "dure trente jours.")
    grade = fills(quotation=long.text, passage=1)
    async with rag_house(grade, answers_with("Trente jours [1]."), found=[[long]]) as (house, _, _):
        assert heard(await asked(house)) == ("Trente jours [1].", [long])


async def test_after_the_second_search_an_answer_goes_out_if_the_passages_bear_it_out():
    scripts = [INVENTED, fills(question="congés"), INVENTED, answers_with("Le congé parental dure trente jours [2].")]
    async with rag_house(*scripts) as (house, provider, retriever):
        assert heard(await asked(house)) == ("Le congé parental dure trente jours [1].", [CONGE])
    assert len(retriever.searches) == 2
    assert "dit : «" not in contents(provider)


@pytest.mark.parametrize(
    ("question", "language"),
    [
        ("Quel est le montant de la prime de Noël des agents municipaux ?", "fr"),
        ("How much is the Christmas bonus of the city's employees?", "en"),
        ("Wie hoch ist das Weihnachtsgeld der städtischen Angestellten?", "de"),
    ],
)
async def test_an_answer_that_is_not_borne_out_is_not_heard_and_said_to_be_unknown(question, language):
    scripts = [INVENTED, fills(question="prime"), INVENTED, answers_with("La prime est de 900 euros [1].")]
    async with rag_house(*scripts) as (house, _, _):
        events = await asked(house, question)
    assert heard(events) == (UNKNOWN[language], [])
    assert end_of(events).report.usage.input_tokens == 4 * 10 + 2 * 4


async def test_an_empty_project_is_unknown_after_another_search():
    async with rag_house(fills(question="congés"), found=[[]]) as (house, _, retriever):
        assert heard(await asked(house)) == (UNKNOWN["fr"], [])
    assert len(retriever.searches) == 2


async def test_a_project_that_does_not_exist_yet_is_unknown_without_a_call():
    class NoProject:
        async def open_filter(self, *_: object) -> None:
            return None

    async with rag_house() as (house, provider, retriever):
        house.service._projects = NoProject()
        assert heard(await asked(house)) == (UNKNOWN["fr"], [])
    assert retriever.searches == provider.requests == []


async def test_what_was_said_before_is_passed_on_and_the_search_leans_on_it():
    history = [("user", "Parlons du congé parental."), ("assistant", "Volontiers [4].")]
    async with rag_house(QUOTED, answers_with("Trente jours [2].")) as (house, provider, retriever):
        await asked(house, "Combien de jours dure-t-il ?", history=history)
    assert retriever.searches[0][1] == "Parlons du congé parental.\nCombien de jours dure-t-il ?"
    assert [(message["role"], message["content"]) for message in told(provider)[1:3]] == history
    assert "Combien de jours dure-t-il ?" in told(provider)[3]["content"]


async def test_the_history_is_bounded():
    history = [(role, f"{role} {at}") for at in range(9) for role in ("user", "assistant")]
    async with rag_house(QUOTED, answers_with("Trente jours [2].")) as (house, provider, _):
        await asked(house, history=history)
    assert len(told(provider)) == 1 + HISTORY_MESSAGES + 1
    assert "assistant 8" in contents(provider)


async def test_every_call_and_every_embedding_is_in_the_report():
    scripts = [INVENTED, fills(question="congés"), QUOTED, answers_with("Trente jours [2].")]
    async with rag_house(*scripts) as (house, _, _):
        report = end_of(await asked(house)).report
    embedding = "use-multilingual-v3"
    assert [call.model for call in report.calls] == [embedding, LARGE, LARGE, embedding, LARGE, LARGE]
    assert report.usage.input_tokens == 4 * 10 + 2 * 4


async def test_progress_tells_the_nodes_and_what_was_found():
    scripts = [INVENTED, fills(question="congés"), QUOTED, answers_with("Trente jours [2].")]
    async with rag_house(*scripts) as (house, _, _):
        events = await asked(house, events=True)
    nodes = [event["node"] for event in progress_of(events, "node") if event["status"] == "finished"]
    assert nodes == ["read", "retrieve", "grade", "rewrite", "retrieve", "grade", "answer"]
    first, second = progress_of(events, "sources")
    assert (first["question"], second["question"]) == (QUESTION, f"{QUESTION}\ncongés")
    assert [source["title"] for source in first["sources"]] == ["Guide 1", "Guide 2", "Guide 3"]
    assert text_of(events) == "Trente jours [1]."


async def test_a_run_without_a_project_is_refused():
    async with rag_house() as (house, _, _):
        with pytest.raises(BadRequest, match="project_id: agent 'RAG' answers from a project's documents"):
            await asked(house, project_id=None)
    assert BadRequest.status == 400


async def test_a_search_stays_within_the_documents_that_are_named():
    async with rag_house(QUOTED, answers_with("Trente jours [2].")) as (house, _, retriever):
        await asked(house, sources=(str(CONGE.document_id),))
    assert retriever.searches[0][0].sources == (CONGE.document_id,)


# Other models


async def test_a_small_model_is_shown_the_passage_that_it_quoted_and_nothing_else():
    async with rag_house(QUOTED, answers_with("Il dure trente jours ouvrables.")) as (house, provider, retriever):
        events = await asked(house, model=SMALL)
    assert heard(events) == ("Il dure trente jours ouvrables. [1]", [CONGE])
    assert retriever.searches[0][2] == SMALL_PASSAGES
    [message] = told(provider)
    assert "Congés\nLe congé parental dure trente jours ouvrables." in message["content"]
    assert "cantine" not in message["content"]


async def test_a_small_model_may_say_in_other_forms_of_its_words_what_it_quoted():
    bare = passage(2, CONGE.text)
    answer = answers_with("Les congés parentaux durent trente jours.")
    async with rag_house(QUOTED, answer, found=[[CANTINE, bare]]) as (house, _, _):
        assert heard(await asked(house, model=SMALL)) == ("Les congés parentaux durent trente jours. [1]", [bare])


async def test_a_small_model_without_a_quotation_is_shown_all_and_asked_once():
    async with rag_house(INVENTED, answers_with("Le congé parental dure trente jours.")) as (
        house,
        provider,
        retriever,
    ):
        assert heard(await asked(house, model=SMALL)) == ("Le congé parental dure trente jours. [1]", [CONGE])
    assert len(retriever.searches) == 1
    assert "cantine" in contents(provider)


@pytest.mark.parametrize("grade", [QUOTED, INVENTED, answers_with("pas du JSON")])
async def test_what_a_small_model_invents_is_not_heard(grade):
    async with rag_house(grade, answers_with("Il dure 45 jours, dit le maire de Nantes.")) as (house, _, _):
        assert heard(await asked(house, model=SMALL)) == (UNKNOWN["fr"], [])


async def test_a_small_model_reads_excerpts():
    long = passage(1, f"{'Une phrase sans rapport. ' * 100}Le congé parental dure trente jours ouvrables.")
    async with rag_house(QUOTED, answers_with("Trente jours ouvrables."), found=[[long]]) as (house, provider, _):
        await asked(house, model=SMALL)
    for at in range(2):
        assert "dure trente jours ouvrables" in contents(provider, at)
        assert len(contents(provider, at)) < SMALL_PASSAGE_CHARS + 700


async def test_a_small_model_in_an_empty_project_is_not_asked():
    async with rag_house(found=[[]]) as (house, provider, _):
        assert heard(await asked(house, model=SMALL)) == (UNKNOWN["fr"], [])
    assert provider.requests == []


async def test_a_model_that_fills_no_schemas_answers_all_the_same():
    answer = answers_with("Le congé parental dure trente jours.")
    async with rag_house(answers_with("Je ne sais pas."), answer) as (house, _, _):
        assert heard(await asked(house, model=PLAIN)) == ("Le congé parental dure trente jours. [1]", [CONGE])


async def test_a_model_that_reasons_is_a_large_one():
    async with rag_house(QUOTED, answers_with("Trente jours [2].")) as (house, provider, retriever):
        assert heard(await asked(house, model=REASONING)) == ("Trente jours [1].", [CONGE])
    assert retriever.searches[0][2] == PASSAGES
    assert "max_completion_tokens" not in provider.requests[0]
