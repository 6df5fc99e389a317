"""Who may answer a request: only candidates that can do what it needs; those passed over are named."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from langchain_core.messages import BaseMessage, HumanMessage

from config.catalogue import ModelEntry
from domain.errors import ModelUnavailable, ProviderRefused
from services.llm.health import Health
from services.llm.router import Request, Router
from tests.router_for_tests import END, Answer, Clock, FakeProvider, Outcome, Table, catalogue_of, refused, seeing

PICTURE = HumanMessage([{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": "data:"}}])
TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
ANSWERS: Outcome = [["Hi"], END]


def table_of(entries: Sequence[ModelEntry], scripts: Mapping[str, Sequence[Outcome]], **provider: Any) -> Table:
    playing = FakeProvider("p", scripts={name: list(outcomes) for name, outcomes in scripts.items()}, **provider)
    clock = Clock()
    catalogue = catalogue_of(entries, {"r": [entry.id for entry in entries]})
    return Table(playing, Router(catalogue, {"p": playing}, None, Health(clock)), clock)


async def ask(table: Table, message: BaseMessage, name: str | None = "r", **parameters: Any) -> Answer:
    answer = Answer()
    request = Request([message], parameters, on_call=answer.calls.append, on_hop=answer.hops.append)
    await answer.hear(table.router, table.router.plan(name), request)
    return answer


async def test_an_image_never_falls_to_a_text_model_and_the_real_failure_is_told() -> None:
    table = table_of([seeing("sees", vision=True), seeing("reads")], {"sees": [[refused(402)]], "reads": []})
    answer = await ask(table, PICTURE)
    assert isinstance(answer.error, ProviderRefused)
    assert str(answer.error) == "answered 402"
    assert answer.left == [("reads", "'reads' takes no images")]
    assert table.provider.asked == ["sees"]


async def test_a_text_model_before_one_that_sees_is_passed_over() -> None:
    table = table_of([seeing("reads"), seeing("sees", vision=True)], {"reads": [], "sees": [ANSWERS]})
    answer = await ask(table, PICTURE)
    assert (answer.text, answer.model) == ("Hi", "sees")
    assert answer.left == [("reads", "'reads' takes no images")]


@pytest.mark.parametrize(
    ("parameters", "able", "reason"),
    [
        ({"tools": [TOOL]}, {"tools": True}, "takes no tools"),
        ({"response_format": SCHEMA}, {"json_schema": True}, "takes no JSON schema"),
    ],
)
async def test_tools_and_schemas_go_only_to_models_that_take_them(
    parameters: dict[str, Any], able: dict[str, bool], reason: str
) -> None:
    lacking = dict.fromkeys(able, False)
    entries = [seeing("a", **able), seeing("b", **lacking), seeing("c", **able)]
    table = table_of(entries, {"a": [[refused(404)]], "b": [], "c": [ANSWERS]})
    answer = await ask(table, HumanMessage("Hi"), **parameters)
    assert answer.model == "c"
    assert answer.left == [("a", "answered 404"), ("b", f"'b' {reason}")]


async def test_an_empty_list_of_tools_and_a_text_format_need_nothing() -> None:
    table = table_of([seeing("a", tools=False, json_schema=False)] * 1, {"a": [ANSWERS]})
    answer = await ask(table, HumanMessage("Hi"), tools=[], response_format={"type": "text"})
    assert (answer.model, answer.left) == ("a", [])


async def test_a_request_without_an_image_is_answered_by_whoever_comes_first() -> None:
    table = table_of([seeing("reads"), seeing("sees", vision=True)], {"reads": [ANSWERS], "sees": []})
    answer = await ask(table, HumanMessage("Hi"))
    assert (answer.model, answer.left) == ("reads", [])


async def test_when_the_model_that_sees_is_not_set_up_the_answer_says_so_and_no_text_model_is_called() -> None:
    table = table_of(
        [seeing("sees", vision=True), seeing("reads")], {"sees": [], "reads": []}, reasons={"sees": "no key"}
    )
    answer = await ask(table, PICTURE)
    assert isinstance(answer.error, ModelUnavailable)
    assert "no key" in str(answer.error)
    assert "'reads' takes no images" in str(answer.error)
    assert table.provider.asked == []


async def test_when_no_model_of_the_name_is_known_to_see_they_are_called_all_the_same() -> None:
    table = table_of([seeing("a"), seeing("b")], {"a": [ANSWERS], "b": []})
    assert (await ask(table, PICTURE)).model == "a"


async def test_the_default_chain_is_held_to_it_too() -> None:
    table = table_of([seeing("reads"), seeing("sees", vision=True)], {"reads": [], "sees": [ANSWERS]})
    answer = await ask(table, PICTURE, name=None)
    assert (answer.model, answer.left) == ("sees", [("reads", "'reads' takes no images")])


async def test_a_parameter_that_one_provider_refuses_goes_to_a_candidate_that_takes_it() -> None:
    entries = [seeing("a"), seeing("b")]
    table = table_of(entries, {"a": [], "b": [ANSWERS]}, unsupported={"a": ("logit_bias",)})
    answer = await ask(table, HumanMessage("Hi"), logit_bias={"5": 1})
    assert (answer.model, answer.left) == ("b", [("a", "'a' takes no 'logit_bias'")])
