"""Agents that use tools: with models that call them, with models that fill schemas, and with those that do neither."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import BaseTool, StructuredTool, ToolException

from domain.runs import RunEvent
from graphs.tool_steps import MAX_AT_ONCE, MAX_SHOWN_CHARS, MAX_STEPS, STEP_LIMIT_NOTE
from graphs.tools_graph import SYSTEM_PROMPT, create_tools_graph
from services.tools.calculator import create_calculator
from services.tools.clock import create_clock
from services.tools.offered import announced
from tests.agents_for_tests import (
    AGENTS_CATALOGUE,
    LARGE,
    PLAIN,
    REASONING,
    SMALL,
    answers_with,
    calls_tools,
    contents,
    end_of,
    fills,
    progress_of,
    run_of,
    told,
)
from tests.house_for_tests import House, failure_of, house_of, open_house, text_of
from tests.postgres_for_tests import _made_cluster, database_url, door, postgres, tmp_path
from tests.scripted_provider import ScriptedProvider, Step, scripted_provider
from tests.services.test_threads import keeping

__all__ = ["_made_cluster", "database_url", "door", "postgres", "tmp_path"]  # Fixtures.

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
QUESTION = "Combien font 12 × 30, et quelle heure est-il ?"


def broken_tool(said: str = "le service est fermé") -> BaseTool:
    async def work() -> str:
        """Always fails."""
        raise ToolException(said)

    return StructuredTool.from_function(coroutine=work, name="broken", handle_tool_error=True)


def long_tool() -> BaseTool:
    async def work() -> str:
        """Says much."""
        return "x" * 100_000

    return StructuredTool.from_function(coroutine=work, name="long")


TOOLS = [create_calculator(), create_clock("UTC", lambda: NOON), broken_tool(), long_tool()]


@asynccontextmanager
async def tools_house(*scripts: list[Step], tools: list[BaseTool] | None = None, **options: Any) -> AsyncIterator[Any]:
    offered = [announced(tool) for tool in (TOOLS if tools is None else tools)]
    agents = {"TOOLS": create_tools_graph}
    async with house_of(*scripts, agents=agents, catalogue=AGENTS_CATALOGUE, tools=offered, **options) as opened:
        yield opened


async def asked(house: House, text: str = QUESTION, model: str = LARGE, **fields: Any) -> list[RunEvent]:
    events = await run_of(house, text, agent="TOOLS", model=model, **fields)
    assert failure_of(events) is None
    return events


def results_told(provider: ScriptedProvider, at: int = -1) -> dict[str, str]:
    """What the tools' messages of a request say, by their calls."""
    return {message["tool_call_id"]: message["content"] for message in told(provider, at) if message["role"] == "tool"}


# A model that calls tools


async def test_a_model_calls_a_tool_reads_what_it_gave_and_answers():
    call = calls_tools(("calculator", '{"expression": "12*30"}'))
    async with tools_house(call, answers_with("Cela fait ", "360.")) as (house, provider):
        events = await asked(house)
    assert text_of(events) == "Cela fait 360."
    assert results_told(provider) == {"call_0": "360"}
    first, second = provider.requests
    assert [tool["function"]["name"] for tool in first["tools"]] == [tool.name for tool in TOOLS]
    assert second["tools"] == first["tools"]
    assert [message["role"] for message in second["messages"]] == ["system", "user", "assistant", "tool"]
    assert told(provider)[0]["content"] == SYSTEM_PROMPT


async def test_a_model_that_needs_no_tool_answers_at_once():
    async with tools_house(answers_with("Bonjour.")) as (house, provider):
        assert text_of(await asked(house, "Bonjour")) == "Bonjour."
    assert len(provider.requests) == 1


async def test_several_tools_are_used_in_one_step():
    calls = calls_tools(("calculator", '{"expression": "12*30"}'), ("clock", "{}"))
    async with tools_house(calls, answers_with("360, à midi.")) as (house, provider):
        assert text_of(await asked(house)) == "360, à midi."
    assert results_told(provider) == {
        "call_0": "360",
        "call_1": "Friday 2026-11-20 12:00:00 UTC (UTC+0000, week 47)",
    }


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (("unknown", "{}"), "there is no tool 'unknown'; there are calculator, clock, broken, long"),
        (("broken", "{}"), "le service est fermé"),
        (("calculator", '{"expression": "1/0"}'), "divides by zero"),
        (("calculator", '{"formula": "1"}'), "the arguments {'formula': '1'} do not fit"),
        (("calculator", "{}"), "the arguments {} do not fit"),
        (("calculator", '{"expression": "1'), "the arguments are not a JSON object"),
        (("calculator", "[1]"), "the arguments are not a JSON object"),
    ],
)
async def test_what_went_wrong_is_told_to_the_model_which_goes_on(call, words):
    async with tools_house(calls_tools(call), answers_with("Je ne sais pas.")) as (house, provider):
        assert text_of(await asked(house)) == "Je ne sais pas."
    assert words in results_told(provider)["call_0"]


async def test_each_call_is_answered_also_those_that_are_too_many():
    calls = calls_tools(*[("calculator", f'{{"expression": "{at}+1"}}') for at in range(MAX_AT_ONCE + 2)])
    async with tools_house(calls, answers_with("Voilà.")) as (house, provider):
        await asked(house)
    results = results_told(provider)
    assert sum(message["role"] == "tool" for message in told(provider)) == MAX_AT_ONCE + 2
    assert [results[f"call_{at}"] for at in range(MAX_AT_ONCE)] == [str(at + 1) for at in range(MAX_AT_ONCE)]
    assert [results[f"call_{at}"] for at in (MAX_AT_ONCE, MAX_AT_ONCE + 1)] == ["not called: at most 8 at once"] * 2


async def test_what_a_tool_gives_is_cut_before_the_model_reads_it():
    async with tools_house(calls_tools(("long", "{}")), answers_with("Long.")) as (house, provider):
        await asked(house)
    assert results_told(provider) == {"call_0": "x" * MAX_SHOWN_CHARS + "…"}


async def test_at_the_step_limit_the_model_answers_without_tools():
    call = calls_tools(("clock", "{}"))
    async with tools_house(*[call] * MAX_STEPS, answers_with("Assez.")) as (house, provider):
        assert text_of(await asked(house)) == "Assez."
    assert all("tools" in request for request in provider.requests[:-1])
    assert "tools" not in provider.requests[-1]
    assert told(provider)[0]["content"].endswith(STEP_LIMIT_NOTE)
    # Some providers refuse any other message after a tool's.
    assert told(provider)[-1]["role"] == "tool"


async def test_every_call_is_in_the_report():
    call = calls_tools(("clock", "{}"))
    async with tools_house(call, call, answers_with("Midi.")) as (house, _):
        finished = end_of(await asked(house))
    assert finished.report.usage.input_tokens == 30
    assert finished.report.usage.output_tokens == 6
    assert [call.model for call in finished.report.calls] == [LARGE] * 3


async def test_progress_tells_the_nodes_and_the_tools():
    call = calls_tools(("calculator", '{"expression": "12*30"}'))
    async with tools_house(call, answers_with("360.")) as (house, _):
        events = await asked(house, events=True)
    assert progress_of(events, "tool") == [
        {"tool": "calculator", "status": "started", "input": {"expression": "12*30"}},
        {"tool": "calculator", "status": "finished", "output": "360"},
    ]
    nodes = [event["node"] for event in progress_of(events, "node") if event["status"] == "finished"]
    assert nodes == ["begin", "call_tools", "use_called", "call_tools"]


# A model that fills schemas


@pytest.mark.parametrize("model", [SMALL, REASONING])
async def test_a_model_that_calls_no_tools_names_one_fills_its_arguments_and_answers(model):
    scripts = [
        fills(tool="calculator"),
        fills(expression="12*30"),
        fills(tool="aucun"),
        answers_with("Cela fait ", "360."),
    ]
    async with tools_house(*scripts) as (house, provider):
        events = await asked(house, model=model)
    assert text_of(events) == "Cela fait 360.", "what fills a schema is no part of the answer"
    first, second, third, last = provider.requests
    choice = first["response_format"]["json_schema"]["schema"]["properties"]["tool"]["enum"]
    assert choice == ["calculator", "clock", "broken", "long", "aucun"]
    assert list(second["response_format"]["json_schema"]["schema"]["properties"]) == ["expression"]
    assert "calculator" not in third["response_format"]["json_schema"]["schema"]["properties"]["tool"]["enum"]
    assert "response_format" not in last
    assert not any("tools" in request for request in provider.requests)
    assert "- calculator(12*30) : 360" in contents(provider)
    assert QUESTION in told(provider)[-1]["content"]
    assert end_of(events).report.usage.input_tokens == 40


async def test_a_small_model_is_bounded_while_it_fills_a_schema_and_one_that_reasons_is_not():
    for model, bound in [(SMALL, 400), (REASONING, None)]:
        async with tools_house(fills(tool="aucun"), answers_with("Non.")) as (house, provider):
            await asked(house, model=model)
        assert provider.requests[0].get("max_completion_tokens") == bound


async def test_tools_are_offered_for_the_questions_they_may_serve():
    async with tools_house(fills(tool="aucun"), answers_with("Bonjour.")) as (house, provider):
        assert text_of(await asked(house, "Bonjour", SMALL)) == "Bonjour."
    assert "calculator" not in contents(provider, 0)
    assert "clock" not in contents(provider, 0)
    assert "broken" in contents(provider, 0)
    assert told(provider)[-1]["content"] == "Bonjour"


async def test_without_a_tool_that_may_serve_the_model_is_not_asked_for_one():
    async with tools_house(answers_with("Bonjour."), tools=TOOLS[:2]) as (house, provider):
        assert text_of(await asked(house, "Bonjour", SMALL)) == "Bonjour."
    assert len(provider.requests) == 1


@pytest.mark.parametrize("choice", ["pas du JSON", '{"tool": "inconnu"}', '{"tool": "calcul', "{}"])
async def test_a_choice_that_does_not_fit_is_none(choice):
    async with tools_house(answers_with(choice), answers_with("Bonjour.")) as (house, _):
        assert text_of(await asked(house, model=SMALL)) == "Bonjour."


async def test_arguments_that_do_not_fit_are_told_to_the_model():
    scripts = [fills(tool="calculator"), answers_with("non"), fills(tool="aucun"), answers_with("Je ne sais pas.")]
    async with tools_house(*scripts) as (house, provider):
        assert text_of(await asked(house, model=SMALL)) == "Je ne sais pas."
    assert "- calculator() : the arguments {} do not fit" in contents(provider)


async def test_a_tool_that_needs_no_arguments_is_used_once_more_without_those_it_refused():
    scripts = [fills(tool="clock"), fills(timezone="Paris"), fills(tool="aucun"), answers_with("Midi.")]
    async with tools_house(*scripts) as (house, provider):
        await asked(house, model=SMALL)
    assert "- clock() : Friday 2026-11-20 12:00:00 UTC" in contents(provider)


async def test_a_tool_without_parameters_is_used_without_asking_for_any():
    scripts = [fills(tool="broken"), fills(tool="aucun"), answers_with("Fermé.")]
    async with tools_house(*scripts) as (house, provider):
        await asked(house, model=SMALL)
    assert "- broken() : le service est fermé" in contents(provider)


async def test_each_tool_is_used_once_then_the_model_answers():
    scripts = [fills(tool="broken"), fills(tool="long"), answers_with("Fini.")]
    async with tools_house(*scripts, tools=TOOLS[2:]) as (house, _):
        assert text_of(await asked(house, model=SMALL)) == "Fini."


# A model that does neither


async def test_a_model_that_fills_no_schemas_answers_without_tools():
    async with tools_house(answers_with("Je crois 360.")) as (house, provider):
        assert text_of(await asked(house, model=PLAIN)) == "Je crois 360."
    [request] = provider.requests
    assert "tools" not in request
    assert "response_format" not in request


# Threads


@asynccontextmanager
async def kept_house(url: str, folder: Path, *scripts: list[Step]) -> AsyncIterator[tuple[House, ScriptedProvider]]:
    async with (
        scripted_provider(*scripts) as provider,
        keeping(url, folder) as threads,
        open_house(
            provider,
            {"TOOLS": create_tools_graph},
            catalogue=AGENTS_CATALOGUE,
            threads=threads,
            tools=TOOLS,
        ) as house,
    ):
        yield house, provider


async def test_a_second_turn_does_not_see_what_the_tools_gave_in_the_first(database_url: str, tmp_path: Path):
    first = [fills(tool="calculator"), fills(expression="12*30"), fills(tool="aucun"), answers_with("Beaucoup.")]
    second = [fills(tool="aucun"), answers_with("Encore.")]
    async with kept_house(database_url, tmp_path, *first, *second) as (house, provider):
        await asked(house, "12 fois 30 ?", SMALL, thread_id="t")
        assert text_of(await asked(house, "Et 12 fois 31 ?", SMALL, thread_id="t")) == "Encore."
    assert "calculator" in contents(provider, 4), "it is offered again"
    assert "360" not in contents(provider, 4) + contents(provider)
    assert [message["content"] for message in told(provider)[1:]] == ["12 fois 30 ?", "Beaucoup.", "Et 12 fois 31 ?"]


async def test_a_model_without_tools_goes_on_where_one_with_tools_began(database_url: str, tmp_path: Path):
    first = [calls_tools(("calculator", '{"expression": "12*30"}')), answers_with("Cela fait 360.")]
    async with kept_house(database_url, tmp_path, *first, answers_with("De rien.")) as (house, provider):
        await asked(house, "12 fois 30 ?", LARGE, thread_id="t")
        assert text_of(await asked(house, "Merci", PLAIN, thread_id="t")) == "De rien."
    assert [(message["role"], message["content"]) for message in told(provider)[1:]] == [
        ("user", "12 fois 30 ?"),
        ("assistant", "Cela fait 360."),
        ("user", "Merci"),
    ]


async def test_a_model_with_tools_is_shown_its_calls_of_the_first_turn(database_url: str, tmp_path: Path):
    first = [calls_tools(("calculator", '{"expression": "12*30"}')), answers_with("Cela fait 360.")]
    async with kept_house(database_url, tmp_path, *first, answers_with("De rien.")) as (house, provider):
        await asked(house, "12 fois 30 ?", LARGE, thread_id="t")
        await asked(house, "Merci", LARGE, thread_id="t")
    roles = [message["role"] for message in told(provider)]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "user"]
