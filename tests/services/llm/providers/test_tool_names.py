"""The name of a tool in two fragments: one call, recognised by the tools that the request offers."""

from typing import Any

import pytest

from services.llm.providers.tool_calls import ToolCalls
from tests.scripted_provider import chunk, finish, scripted_provider
from tests.wire_reader import PAYLOAD, endpoint, http_client, read

TOOLS = frozenset({"calculator", "calc", "weather", "now"})
SUM = '{"a": 1}'


def part(name: str | None = None, arguments: str = "", call_id: str | None = None, index: int = 0) -> dict[str, Any]:
    function = {"arguments": arguments} | ({} if name is None else {"name": name})
    return {"index": index, "function": function} | ({} if call_id is None else {"id": call_id})


def gathered(tools: frozenset[str] | None, *fragments: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and arguments as clients put them together: the name comes first and once."""
    calls = ToolCalls("fake", tools)
    sent = [each for fragment in fragments for each in calls.normalise([fragment])] + calls.settle() + calls.end()
    whole: dict[int, list[str]] = {}
    for each in sent:
        assert (each["index"] in whole) != ("name" in each["function"])
        whole.setdefault(each["index"], [each["function"].get("name", ""), ""])[1] += each["function"]["arguments"]
    return [(name, arguments) for name, arguments in whole.values()]


CUT: dict[str, list[dict[str, Any]]] = {
    "with the arguments": [part("calcu", "", "a"), part("lator", SUM)],
    "before the arguments": [part("calcu", "", "a"), part("lator"), part(None, SUM)],
    "in three": [part("calcu", "", "a"), part("la"), part("tor"), part(None, SUM[:3]), part(None, SUM[3:])],
    "with the id again": [part("calcu", "", "a"), part("lator", SUM, "a")],
    "growing": [part("calcu", "", "a"), part("calculator"), part(None, SUM)],
    "repeated": [part("calcu", "", "a"), part("calcu"), part("lator", SUM)],
    "in one": [part("calculator", "", "a"), part("calculator", SUM)],
}


@pytest.mark.parametrize("tools", [TOOLS, frozenset()], ids=["offered", "none offered"])
@pytest.mark.parametrize("fragments", CUT.values(), ids=CUT.keys())
def test_a_name_in_two_fragments_is_one_call(fragments: list[dict[str, Any]], tools: frozenset[str]) -> None:
    assert gathered(tools, *fragments) == [("calculator", SUM)]


def test_a_whole_name_is_sent_at_once_and_another_one_is_another_call() -> None:
    first = part("calc", "", "a")
    (sent,) = ToolCalls("fake", TOOLS).normalise([first])
    assert sent["function"] == first["function"]
    assert gathered(TOOLS, first, part("now")) == [("calc", ""), ("now", "")]
    two = gathered(TOOLS, part("weather", "", "a"), part("calculator", SUM, "b"))
    assert two == [("weather", ""), ("calculator", SUM)]
    assert gathered(TOOLS, part("wea", "", "a"), part("now", SUM, "b")) == [("wea", ""), ("now", SUM)]
    assert gathered(TOOLS, part("calcu", "", "a"), part("lator", SUM, "a", 1))[0] == ("calcu", "")


def test_a_name_that_no_tool_has_is_a_call_all_the_same() -> None:
    assert gathered(TOOLS, part("calcu", "", "a"), part(None, SUM)) == [("calcu", SUM)]
    assert gathered(TOOLS, part("invented", "", "a"), part(None, SUM)) == [("invented", SUM)]
    assert gathered(TOOLS, part("calcu", "", "a")) == [("calcu", "")]


@pytest.mark.parametrize("offers", [True, False])
async def test_the_tools_of_the_request_decide(offers: bool) -> None:
    tools = [{"type": "function", "function": {"name": "calculator", "parameters": {}}}] if offers else []
    script = [*(chunk({"tool_calls": [each]}) for each in CUT["with the arguments"]), *finish(reason="tool_calls")]
    async with scripted_provider(script) as provider, http_client() as http:
        where = endpoint(provider.base_url)
        answer = await read(http, provider.base_url, where=where, payload={**PAYLOAD, "tools": tools})
    found = [item["choices"][0]["delta"].get("tool_calls") for item in answer.items if item["choices"]]
    (call,) = [fragment for fragments in found for fragment in fragments or ()]
    assert call["function"] == {"name": "calculator", "arguments": SUM}
