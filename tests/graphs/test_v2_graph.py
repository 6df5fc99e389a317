"""V2: one call without a project, an answer with citations with one, tools where they are allowed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from domain.documents import Passage
from domain.runs import RunEvent
from graphs.v2_graph import PASSAGES, SMALL_PASSAGES, SYSTEM_PROMPT, create_v2_graph
from services.agent_registry import AgentOptions, agent_registry
from services.retrieval import Retrieve
from services.tools.calculator import create_calculator
from tests.agents_for_tests import (
    AGENTS_CATALOGUE,
    LARGE,
    SMALL,
    AnyProject,
    FakeRetriever,
    answers_with,
    calls_tools,
    contents,
    end_of,
    fills,
    passage,
    progress_of,
    run_of,
    told,
)
from tests.house_for_tests import House, failure_of, house_of, text_of
from tests.scripted_provider import ScriptedProvider, Step

SHIPPED = agent_registry._registrations["V2"].options
CONGE = passage(1, "Le congé parental dure trente jours ouvrables.")
CANTINE = passage(2, "La cantine ouvre à midi du lundi au vendredi.")
QUESTION = "Combien de jours dure le congé parental ?"


@asynccontextmanager
async def v2_house(
    *scripts: list[Step], found: list[Passage] | None = None, options: AgentOptions = SHIPPED
) -> AsyncIterator[tuple[House, ScriptedProvider, FakeRetriever]]:
    retriever = FakeRetriever([[CONGE, CANTINE] if found is None else found])
    async with house_of(
        *scripts,
        agents={"V2": create_v2_graph},
        options=options,
        catalogue=AGENTS_CATALOGUE,
        projects=AnyProject(),
        retrieve=Retrieve(retriever),  # type: ignore[arg-type]
        tools=[create_calculator()],
    ) as (house, provider):
        yield house, provider, retriever


async def asked(house: House, text: str = QUESTION, model: str = LARGE, **fields: Any) -> list[RunEvent]:
    events = await run_of(house, text, agent="V2", model=model, **fields)
    assert failure_of(events) is None
    return events


async def test_without_a_project_it_is_one_call_and_no_search():
    history = [("user", "Bonjour"), ("assistant", "Oui ?")]
    async with v2_house(answers_with("Très ", "bien [7].")) as (house, provider, retriever):
        events = await asked(house, "Ça va [3] ?", history=history)
    assert text_of(events) == "Très bien [7]."
    assert end_of(events).sources == ()
    assert retriever.searches == []
    [request] = provider.requests
    assert "tools" not in request
    assert [message["content"] for message in told(provider)] == [SYSTEM_PROMPT, "Bonjour", "Oui ?", "Ça va [3] ?"]


async def test_with_a_project_it_looks_and_cites():
    async with v2_house(answers_with("À midi [2]", ", je crois [5].")) as (house, provider, retriever):
        events = await asked(house, "Quand ouvre la cantine ?", project_id="p")
    assert text_of(events) == "À midi [1], je crois."
    assert end_of(events).sources == (CANTINE,)
    assert retriever.searches[0][1:] == ("Quand ouvre la cantine ?", PASSAGES)
    assert len(provider.requests) == 1
    assert "[2] Guide 2\nLa cantine ouvre à midi" in contents(provider)
    assert end_of(events).report.usage.input_tokens == 14


async def test_an_answer_that_does_not_rest_on_the_documents_has_no_sources():
    async with v2_house(answers_with("Bonjour, comment puis-je vous aider ?")) as (house, _, _):
        events = await asked(house, "Bonjour", project_id="p")
    assert text_of(events) == "Bonjour, comment puis-je vous aider ?"
    assert end_of(events).sources == ()


async def test_an_empty_project_leaves_it_as_it_is_without_one():
    async with v2_house(answers_with("Très bien [1]."), found=[]) as (house, provider, _):
        events = await asked(house, "Ça va ?", project_id="p")
    assert text_of(events) == "Très bien."
    assert [message["content"] for message in told(provider)] == [SYSTEM_PROMPT, "Ça va ?"]


async def test_what_was_said_before_is_kept_with_a_project():
    history = [("user", "Le congé parental"), ("assistant", "Oui ?")]
    async with v2_house(answers_with("Trente jours [1].")) as (house, provider, retriever):
        await asked(house, "Sa durée ?", history=history, project_id="p")
    assert [message["content"] for message in told(provider)[1:]] == ["Le congé parental", "Oui ?", "Sa durée ?"]
    assert retriever.searches[0][1] == "Le congé parental\nSa durée ?"


async def test_a_small_model_reads_the_text_before_the_question():
    async with v2_house(answers_with("Il dure trente jours ouvrables.")) as (house, provider, retriever):
        events = await asked(house, model=SMALL, project_id="p")
    assert text_of(events) == "Il dure trente jours ouvrables. [1]"
    assert end_of(events).sources == (CONGE,)
    assert retriever.searches[0][2] == SMALL_PASSAGES
    assert told(provider)[0]["content"] == SYSTEM_PROMPT
    assert told(provider)[-1]["content"].startswith("Texte :\nLe congé parental dure trente jours ouvrables.")


async def test_as_shipped_it_uses_no_tools():
    async with v2_house(answers_with("360.")) as (house, provider, _):
        await asked(house, "12 × 30 ?")
    assert "tools" not in provider.requests[0]


async def test_with_tools_allowed_it_uses_them():
    call = calls_tools(("calculator", '{"expression": "12 × 30"}'))
    async with v2_house(call, answers_with("360."), options=AgentOptions()) as (house, provider, retriever):
        events = await asked(house, "12 × 30 ?", events=True)
    assert text_of(events) == "360."
    assert told(provider)[-1]["content"] == "360"
    assert told(provider)[0]["content"] == SYSTEM_PROMPT
    nodes = [event["node"] for event in progress_of(events, "node") if event["status"] == "finished"]
    assert nodes == ["begin", "call_tools", "use_called", "call_tools"]
    assert retriever.searches == []


async def test_with_tools_allowed_a_small_model_fills_schemas():
    scripts = [fills(tool="calculator"), fills(expression="12 × 30"), answers_with("360.")]
    async with v2_house(*scripts, options=AgentOptions()) as (house, provider, _):
        assert text_of(await asked(house, "12 × 30 ?", SMALL)) == "360."
    assert "calculator(12 × 30) : 360" in contents(provider)


async def test_with_tools_allowed_a_project_still_goes_first():
    async with v2_house(answers_with("Trente jours [1]."), options=AgentOptions()) as (house, provider, retriever):
        events = await asked(house, project_id="p")
    assert text_of(events) == "Trente jours [1]."
    assert end_of(events).sources == (CONGE,)
    assert len(retriever.searches) == 1
    assert "tools" not in provider.requests[0]
