"""A conversation too long for its model: the next larger context answers, or the caller is told."""

from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from domain.errors import ContextOverflow
from services.llm.providers.provider import Delta
from services.llm.router import Request
from tests.house_for_tests import ask, events_of, failure_of, finish_of, house_of, text_of
from tests.router_for_tests import END, USAGE, FakeProvider, catalogue_of, entry, refused, router_of, seeing, table
from tests.scripted_provider import Status, finish, say

OVERFLOW = ContextOverflow("too long")
ANSWERS: list[Delta] = [["Hi"], END, USAGE]


async def test_too_long_a_conversation_goes_to_the_next_larger_context_of_the_route() -> None:
    asked = table({"a": [[OVERFLOW]], "b": [], "c": [], "d": [ANSWERS]}, contexts={"a": 8, "b": 8, "c": 64, "d": 32})
    answer = await asked.ask()
    assert asked.provider.asked == ["a", "d"]
    assert (answer.model, answer.left) == ("d", [("a", "too long")])


async def test_larger_contexts_stand_in_for_one_another() -> None:
    asked = table({"a": [[OVERFLOW]], "c": [ANSWERS], "d": [[refused(404)]]}, contexts={"a": 8, "c": 64, "d": 32})
    answer = await asked.ask()
    assert asked.provider.asked == ["a", "d", "c"]
    assert answer.left == [("a", "too long"), ("d", "answered 404")]


async def test_it_may_be_too_long_again_and_again_until_none_is_larger() -> None:
    asked = table({"a": [[OVERFLOW]], "b": [[OVERFLOW]], "c": [[OVERFLOW]]}, contexts={"a": 8, "b": 16, "c": 32})
    answer = await asked.ask()
    assert (asked.provider.asked, answer.error) == (["a", "b", "c"], OVERFLOW)
    assert answer.left == [("a", "too long"), ("b", "too long")]


async def test_a_lone_model_has_the_next_larger_of_its_provider() -> None:
    asked = table({"a": [[OVERFLOW]], "b": [], "c": [ANSWERS]}, contexts={"a": 8, "b": 64, "c": 32})
    answer = await asked.ask("a")
    assert (asked.provider.asked, answer.model, answer.left) == (["a", "c"], "c", [("a", "too long")])


async def test_a_larger_model_that_was_given_up_already_is_not_asked_again() -> None:
    asked = table({"big": [[refused(404)]], "a": [[OVERFLOW]]}, contexts={"big": 64, "a": 8})
    answer = await asked.ask()
    assert (asked.provider.asked, answer.error) == (["big", "a"], OVERFLOW)


async def test_a_larger_model_that_cannot_serve_or_is_anothers_is_not_taken() -> None:
    catalogue = catalogue_of(["a", entry("b"), entry("c", provider="q")])
    provider = FakeProvider("p", scripts={"a": [[OVERFLOW]]}, contexts={"a": 8, "b": 64}, reasons={"b": "no key"})
    router = router_of(provider, FakeProvider("q", contexts={"c": 64}), catalogue=catalogue)
    with pytest.raises(ContextOverflow):
        await anext(router.stream(router.plan("a"), Request([HumanMessage("Hi")])))
    assert provider.asked == ["a"]


PICTURE = HumanMessage([{"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}])


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        ({}, "plain"),
        ({"parameters": {"tools": [{}]}}, "tooled"),
        ({"parameters": {"response_format": {"type": "json_object"}}}, "shaped"),
        ({"messages": [PICTURE]}, "seeing"),
    ],
    ids=["text", "tools", "a format", "a picture"],
)
async def test_a_larger_model_that_nobody_named_can_do_what_is_asked(asked: dict[str, Any], taken: str) -> None:
    models = [
        seeing("a", vision=True, tools=True, json_schema=True),
        entry("plain"),
        seeing("tooled", tools=True),
        seeing("shaped", json_schema=True),
        seeing("seeing", vision=True),
    ]
    contexts = {"a": 8, "plain": 16, "tooled": 32, "shaped": 32, "seeing": 32}
    scripts: Any = {model.id: [ANSWERS] for model in models} | {"a": [[OVERFLOW]]}
    router = router_of(FakeProvider("p", scripts=scripts, contexts=contexts), catalogue=catalogue_of(models))
    request = Request(**{"messages": [HumanMessage("Hi")], **asked})
    _ = [delta async for delta in router.stream(router.plan("a"), request)]
    assert request.answering_model == taken


TOO_LONG = {"error": {"message": "prompt is too long: 210000 tokens > 200000 maximum", "code": 400}}


@pytest.mark.parametrize("agent", [None, "echo"], ids=["a model", "an agent"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("under", [200, 400])
async def test_an_overflow_goes_to_a_larger_model_whatever_status_it_comes_under(
    agent: str | None, stream: bool, under: int
) -> None:
    refused = Status(under, TOO_LONG)
    async with house_of([refused], [*say("Hi"), *finish()]) as (house, provider):
        events = await events_of(house, ask(agent, model="gpt-4o", stream=stream))
        first, second = (request["model"] for request in provider.requests)
    assert (text_of(events), failure_of(events)) == ("Hi", None)
    assert first != second
    assert [hop.model for hop in finish_of(events).fallbacks] == ["gpt-4o"]
