"""V1: a plan, specialists at once, one synthesis; what fails in one step is told, and the rest goes on."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from domain.documents import Passage, SearchFilter
from graphs.v1_graph import create_v1_graph
from services.retrieval import Retrieve
from services.tools.calculator import create_calculator
from services.tools.offered import announced
from tests.house_for_tests import House, ask, events_of, failure_of, finish_of, open_house, text_of
from tests.scripted_provider import ScriptedProvider, Status, Step, finish, say, scripted_provider

PASSAGE = Passage(UUID(int=1), "tarifs.md", 0, "L'entrée coûte 4 euros.", ("Tarifs",), 2, 0, 23, 0.5)
PLAN = [("documents", "Prix de l'entrée"), ("calcul", "Prix de 12 entrées"), ("rédaction", "Une phrase de politesse")]


class OneDocument:
    """A retriever that always finds the same passage."""

    async def search(self, *_: Any, **__: Any) -> list[Passage]:
        return [PASSAGE]


class OneProject:
    """Everybody's project has documents."""

    async def open_filter(self, principal: Any, project_id: str, sources: Sequence[str]) -> SearchFilter:
        return SearchFilter(project_id)


def json_answer(content: dict[str, Any]) -> list[Step]:
    return [*say(json.dumps(content)), *finish(10, 5)]


class Models:
    """Answers each kind of call; `calls` keeps which model was asked for what."""

    def __init__(self, steps: Sequence[tuple[str, str]], **instead: list[Step]) -> None:
        self.steps = steps
        self.instead = instead
        self.calls: list[tuple[str, str]] = []
        self.prompts: dict[str, str] = {}

    def __call__(self, body: dict[str, Any]) -> list[Step]:
        kind = self._kind(body)
        self.calls.append((kind, body["model"]))
        self.prompts[kind] = json.dumps(body["messages"], ensure_ascii=False)
        if kind in self.instead:
            return self.instead[kind]
        match kind:
            case "plan":
                return json_answer({"steps": [{"specialist": name, "task": task} for name, task in self.steps]})
            case "expression":
                return json_answer({"expression": "4 * 12"})
            case "writing":
                return [*say("Merci de votre demande."), *finish(10, 4)]
            case _:
                return [*say("Douze entrées ", "coûtent 48 euros [1]", " [7]."), *finish(30, 8)]

    def _kind(self, body: dict[str, Any]) -> str:
        schema = (body.get("response_format") or {}).get("json_schema", {}).get("name")
        if schema is not None:
            return {"Plan": "plan", "Expression": "expression"}[schema]
        return "synthesis" if "spécialistes ont trouvé" in body["messages"][0]["content"] else "writing"


def open_v1(provider: ScriptedProvider, small_model: str | None, retriever: Any = None, tools: Any = None) -> Any:
    return open_house(
        provider,
        agents={"V1": create_v1_graph},
        projects=OneProject(),
        retrieve=Retrieve(retriever or OneDocument()),
        tools=[announced(create_calculator())] if tools is None else tools,
        small_model=small_model,
    )


async def run(models: Models, small_model: str | None = None, **request: Any) -> tuple[list[Any], House]:
    async with scripted_provider(compose=models) as provider, open_v1(provider, small_model) as house:
        fields = {"text": "Combien coûtent 12 entrées ?", "model": "gpt-4o", "project_id": "p", **request}
        return await events_of(house, ask("V1", **fields)), house


async def test_specialists_work_and_one_synthesis_speaks_and_cites():
    models = Models(PLAN)
    events, house = await run(models)
    assert failure_of(events) is None
    assert text_of(events) == "Douze entrées coûtent 48 euros [1]."
    end = finish_of(events)
    assert end.sources == (PASSAGE,)
    assert sorted(kind for kind, _ in models.calls) == ["expression", "plan", "synthesis", "writing"]
    assert "4 * 12 = 48" in models.prompts["synthesis"]
    assert "L'entrée coûte 4 euros." in models.prompts["synthesis"]
    assert "Merci de votre demande." in models.prompts["synthesis"]
    assert (end.report.usage.input_tokens, end.report.usage.output_tokens) == (60, 22)
    assert len(house.ledger.rows[0].calls) == 4


async def test_specialists_work_at_the_same_time():
    going: list[str] = []
    both = asyncio.Event()

    class Slow(OneDocument):
        async def search(self, *_: Any, **__: Any) -> list[Passage]:
            going.append("one")
            if len(going) == 2:
                both.set()
            async with asyncio.timeout(30):
                await both.wait()
            return [PASSAGE]

    models = Models([("documents", "un"), ("documents", "deux")])
    async with scripted_provider(compose=models) as provider, open_v1(provider, None, Slow(), []) as house:
        events = await events_of(house, ask("V1", model="gpt-4o", project_id="p"))
    assert failure_of(events) is None
    assert len(going) == 2


@pytest.mark.parametrize(
    ("question", "lead"),
    [("Combien coûtent douze entrées à la piscine ?", "Étape non aboutie"), ("How much are twelve tickets?", "A step")],
)
async def test_a_step_that_fails_is_told_and_the_rest_goes_on(question: str, lead: str):
    models = Models(PLAN, expression=json_answer({"expression": "4 / 0"}))
    events, _ = await run(models, text=question)
    assert failure_of(events) is None
    text = text_of(events)
    assert text.startswith("Douze entrées coûtent 48 euros [1].")
    assert f"({lead}" in text
    assert "calcul" in text
    assert "zero" in text


async def test_a_provider_that_fails_a_specialist_fails_that_step_alone():
    models = Models(PLAN, writing=[Status(401, {"error": {"message": "no"}})])
    events, _ = await run(models)
    assert failure_of(events) is None
    assert "rédaction" in text_of(events)


async def test_analysis_and_specialists_run_on_the_smaller_model_when_there_is_one():
    models = Models(PLAN)
    events, _ = await run(models, small_model="gpt-4o-mini")
    assert failure_of(events) is None
    assert dict(models.calls) == {
        "plan": "gpt-4o-mini",
        "expression": "gpt-4o-mini",
        "writing": "gpt-4o-mini",
        "synthesis": "gpt-4o",
    }
    assert finish_of(events).model == "gpt-4o"
    assert {call.model for call in finish_of(events).report.calls} == {"gpt-4o", "gpt-4o-mini"}


async def test_a_project_is_looked_into_even_when_the_plan_forgets_it():
    models = Models([("rédaction", "Une phrase")])
    events, _ = await run(models)
    assert finish_of(events).sources == (PASSAGE,)


@pytest.mark.parametrize("plan", [[*say("pas du JSON"), *finish()], json_answer({"steps": []})])
async def test_without_a_plan_the_synthesis_answers_all_the_same(plan: list[Step]):
    models = Models([], plan=plan)
    events, _ = await run(models, project_id=None)
    assert failure_of(events) is None
    assert [kind for kind, _ in models.calls] == ["plan", "synthesis"]


async def test_only_specialists_that_can_work_are_offered():
    models = Models([])
    await run(models, project_id=None)
    assert "documents" not in models.prompts["plan"]
    assert "- web" not in models.prompts["plan"]
    assert "calcul" in models.prompts["plan"]


async def test_the_steps_are_shown_as_they_happen():
    models = Models(PLAN)
    events, _ = await run(models, stream=True, events=True)
    shown = [(event.kind, dict(event.content)) for event in events if hasattr(event, "kind")]
    nodes = [content["node"] for kind, content in shown if kind == "node" and content["status"] == "started"]
    assert nodes == ["analyse", "specialist", "specialist", "specialist", "synthesise"]
    assert {"sources", "tool"} <= {kind for kind, _ in shown}
