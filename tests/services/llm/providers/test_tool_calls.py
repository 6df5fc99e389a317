"""However a provider cuts, numbers or repeats the fragments of its tool calls, each call comes whole and once."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import ProviderCut
from services.llm.providers.tool_calls import ToolCalls

PARIS, ROME = '{"city": "Paris"}', '{"city": "Rome"}'
Call = tuple[str, str, str]


def part(arguments: Any = "", name: Any = None, call_id: Any = None, index: Any = None, **more: Any) -> dict[str, Any]:
    """A fragment with only the fields that are given."""
    function = {"arguments": arguments} | ({} if name is None else {"name": name})
    given_fields = {"id": call_id, "index": index} | more
    return {"function": function} | {key: value for key, value in given_fields.items() if value is not None}


def fragments_of(*events: Any) -> list[dict[str, Any]]:
    """The fragments that come out, with the rule that all clients rely on: id, type and name come first and once."""
    calls = ToolCalls("fake")
    fragments = [fragment for event in events for fragment in calls.normalise(event)] + calls.settle() + calls.end()
    seen: set[int] = set()
    for fragment in fragments:
        is_first = fragment["index"] not in seen
        seen.add(fragment["index"])
        assert isinstance(fragment["function"]["arguments"], str)
        assert is_first == ("id" in fragment) == ("type" in fragment) == ("name" in fragment["function"]), fragment
    assert sorted(seen) == list(range(len(seen)))
    return fragments


def gathered(*events: Any) -> list[Call]:
    """The calls as a client puts them together: id, name, arguments."""
    whole: dict[int, list[str]] = {}
    for fragment in fragments_of(*events):
        call = whole.setdefault(fragment["index"], [fragment.get("id", ""), fragment["function"].get("name", ""), ""])
        call[2] += fragment["function"]["arguments"]
    ids = [call[0] for call in whole.values()]
    assert all(ids)
    assert len(set(ids)) == len(ids), "results are sent back under the ids"
    return [(call_id, name, arguments) for call_id, name, arguments in whole.values()]


TWO = [("a", "weather", PARIS), ("b", "weather", ROME)]
CASES: dict[str, tuple[list[Any], list[Call]]] = {
    "OpenAI's own way": (
        [
            [part("", "weather", "a", 0, type="function")],
            [part('{"city": ', index=0)],
            [part('"Paris"}', index=0)],
            [part("", "weather", "b", 1, type="function")],
            [part(ROME, index=1)],
        ],
        TWO,
    ),
    "no index, in two events": ([[part(PARIS, "weather", "a")], [part(ROME, "weather", "b")]], TWO),
    "no index, in one event": ([[part(PARIS, "weather", "a"), part(ROME, "weather", "b")]], TWO),
    "no index, in fragments": (
        [
            [part("", "weather", "a")],
            [part('{"city": ')],
            [part('"Paris"}')],
            [part("", "weather", "b")],
            [part(ROME)],
        ],
        TWO,
    ),
    "index 0 twice": ([[part(PARIS, "weather", "a", 0)], [part(ROME, "weather", "b", 0)]], TWO),
    "index 0 twice, in fragments": (
        [
            [part("", "weather", "a", 0)],
            [part(PARIS, index=0)],
            [part("", "weather", "b", 0)],
            [part('{"city"', index=0)],
            [part(': "Rome"}', index=0)],
        ],
        TWO,
    ),
    "index 0 twice, in turns": (
        [
            [part("", "weather", "a", 0), part("", "weather", "b", 0)],
            [part('{"city": ', None, "a", 0), part('{"city": ', None, "b", 0)],
            [part('"Paris"}', None, "a", 0), part('"Rome"}', None, "b", 0)],
        ],
        TWO,
    ),
    "index in words": ([[part(PARIS, "weather", "a", "0")], [part(ROME, "weather", "b", "1")]], TWO),
    "index from 1 on": ([[part(PARIS, "weather", "a", 1)], [part(ROME, "weather", "b", 2)]], TWO),
    "the index counts fragments": (
        [
            [part("", "weather", "a", 0)],
            [part('{"city": ', index=1)],
            [part('"Paris"}', index=2)],
            [part(ROME, "weather", "b", 3)],
        ],
        TWO,
    ),
    "id and name on every fragment": (
        [
            [part('{"city": ', "weather", "a", 0)],
            [part('"Paris"}', "weather", "a", 0)],
            [part(ROME, "weather", "b", 1)],
        ],
        TWO,
    ),
    "a new id on every fragment": (
        [
            [part("", "weather", "a", 0)],
            [part('{"city": ', None, "x", 0)],
            [part('"Paris"}', None, "y", 0)],
            [part(ROME, "weather", "b", 1)],
        ],
        TWO,
    ),
    "whole and again": (
        [[part(PARIS, "weather", "a")], [part(PARIS, "weather", "a"), part(ROME, "weather", "b")]],
        TWO,
    ),
    "in fragments, then whole again": (
        [
            [part("", "weather", "a", 0)],
            [part('{"city": ', index=0)],
            [part('"Paris"}', index=0)],
            [part(ROME, "weather", "b", 1)],
            [part('{"city":"Paris"}', "weather", "a", 0), part(ROME, "weather", "b", 1)],
        ],
        TWO,
    ),
    "arguments that grow": (
        [
            [part("{", "weather", "a", 0)],
            [part('{"city"', "weather", "a", 0)],
            [part(PARIS, "weather", "a", 0)],
            [part(PARIS, "weather", "a", 0)],
            [part(ROME, "weather", "b", 1)],
        ],
        TWO,
    ),
    "arguments that grow, without id or name": (
        [
            [part("", "weather", "a", 0)],
            [part('{"ci', index=0)],
            [part('{"city": "Pa', index=0)],
            [part(PARIS, index=0)],
            [part(ROME, "weather", "b", 1)],
        ],
        TWO,
    ),
    "an object inside that begins like the whole": (
        [[part('{"a":', "nest", "a", 0)], [part('{"a":1}}', index=0)]],
        [("a", "nest", '{"a":{"a":1}}')],
    ),
    "null where nothing is meant": (
        [
            [{"index": None, "id": "a", "type": None, "function": {"name": "weather", "arguments": None}}],
            [{"index": None, "id": None, "type": None, "function": {"name": None, "arguments": PARIS}}],
            [{"index": None, "id": "b", "type": None, "function": {"name": "weather", "arguments": ROME}}],
        ],
        TWO,
    ),
    "empty words where nothing is meant": (
        [
            [part("", "weather", "a", 0)],
            [{"index": 0, "id": "", "type": "", "function": {"name": "", "arguments": PARIS}}],
            [part(ROME, "weather", "b", 1)],
        ],
        TWO,
    ),
    "arguments as an object": (
        [[part({"city": "Paris"}, "weather", "a", 0)], [part({"city": "Rome"}, "weather", "b", 1)]],
        [("a", "weather", '{"city":"Paris"}'), ("b", "weather", '{"city":"Rome"}')],
    ),
    "empty arguments before the real ones": (
        [[part("{}", "weather", "a", 0)], [part(PARIS, index=0)], [part({}, "weather", "b", 1)], [part(ROME, index=1)]],
        TWO,
    ),
    "a call without arguments": ([[part("{}", "now", "a", 0)]], [("a", "now", "{}")]),
    "a call with nothing for arguments": ([[part("", "now", "a", 0)]], [("a", "now", "")]),
    "arguments that are no object": (
        [[part(PARIS, "weather", "a", 0)], [part("oops", "weather", "b", 1)], [part("[1]", "weather", "c", 2)]],
        [("a", "weather", PARIS), ("b", "weather", "oops"), ("c", "weather", "[1]")],
    ),
    "a broken call after a whole one, both index 0": (
        [[part(PARIS, "weather", "a", 0)], [part("oops", "weather", "b", 0)]],
        [("a", "weather", PARIS), ("b", "weather", "oops")],
    ),
    "index 0 throughout, then all calls as they should be": (
        [
            [part("", "weather", "a", 0)],
            [part(PARIS, index=0)],
            [part("", "weather", "b", 0)],
            [part(ROME, index=0)],
            [part(PARIS, "weather", "a", 0), part(ROME, "weather", "b", 1)],
        ],
        TWO,
    ),
    "a lone call outside a list": ([part(PARIS, "weather", "a")], TWO[:1]),
    "name and arguments beside the id": ([[{"id": "a", "name": "weather", "arguments": PARIS}]], TWO[:1]),
    "the name comes late": (
        [[{"index": 0, "id": "a"}], [part('{"city": ', index=0)], [part('"Paris"}', "weather", index=0)]],
        TWO[:1],
    ),
    "the index inside the function": (
        [[{"id": "a", "function": {"index": 0, "name": "weather", "arguments": {}}}]],
        [("a", "weather", "{}")],
    ),
    "an id that is a number": ([[part(PARIS, "weather", 7, 0)]], [("7", "weather", PARIS)]),
    "an empty fragment at the end": ([[part(PARIS, "weather", "a", 0)], [part("", index=0)], [{"index": 1}]], TWO[:1]),
}


@pytest.mark.parametrize(("events", "calls"), CASES.values(), ids=CASES.keys())
def test_each_call_comes_whole_and_once(events: list[Any], calls: list[Call]) -> None:
    assert gathered(*events) == calls


NAMELESS: dict[str, list[Any]] = {
    "in two events": [[part(PARIS, "weather")], [part(ROME, "weather")]],
    "in one event": [[part(PARIS, "weather"), part(ROME, "weather")]],
    "index 0 twice": [[part(PARIS, "weather", index=0)], [part(ROME, "weather", index=0)]],
    "empty ids": [[part(PARIS, "weather", "", 0)], [part(ROME, "weather", "", 1)]],
    "null ids": [[{**part(PARIS, "weather"), "id": None}, {**part(ROME, "weather"), "id": None}]],
    "the names first": [[part("", "weather")], [part(PARIS)], [part("", "weather")], [part(ROME)]],
    "the names first, index 0 twice": [
        [part("", "weather", index=0)],
        [part('{"city": ', index=0)],
        [part('"Paris"}', index=0)],
        [part(None, "weather", index=0)],
        [part("", index=0)],
        [part('{"ci', index=0)],
        [part('ty": "Rome"}', index=0)],
    ],
    "by position": [
        [part('{"city": ', "weather"), part('{"city": ', "weather")],
        [part('"Paris"}'), part('"Rome"}')],
    ],
    "by position, growing": [
        [part('{"city": ', "weather"), part('{"city": ', "weather")],
        [part(PARIS, "weather"), part(ROME, "weather")],
    ],
}


@pytest.mark.parametrize("events", NAMELESS.values(), ids=NAMELESS.keys())
def test_calls_without_ids_stay_two_and_are_given_ids(events: list[Any]) -> None:
    assert [call[1:] for call in gathered(*events)] == [("weather", PARIS), ("weather", ROME)]


@pytest.mark.parametrize("last", [[part("")], [part("", "weather")], [part(None, index=0)], [part(PARIS)]])
def test_what_adds_nothing_to_a_complete_call_is_no_call(last: list[Any]) -> None:
    (call,) = gathered([part("", "weather", index=0)], [part(PARIS, index=0)], [part("", "weather", index=0)], last)
    assert call[1:] == ("weather", PARIS)


@pytest.mark.parametrize("last", [[part("", index=0)], [part(None, index=0, extra=1)], [part("\n", index=0)]])
def test_a_call_without_arguments_keeps_its_braces(last: list[Any]) -> None:
    assert gathered([part("{}", "now", "a", 0)], last, last) == [("a", "now", "{}")]
    assert gathered([part("{}", "weather", "a", 0)], last, [part(PARIS, index=0)]) == [("a", "weather", PARIS)]


def test_calls_by_another_name_are_other_calls() -> None:
    calls = gathered([part("{}", "now", index=0)], [part(PARIS, "weather", index=0)], [part("", "here", index=0)])
    assert [call[1:] for call in calls] == [("now", "{}"), ("weather", PARIS), ("here", "")]


@pytest.mark.parametrize("in_one_event", [True, False])
@pytest.mark.parametrize("indexes", [(0, 1), (None, None)])
def test_two_calls_under_one_id_are_two_with_two_ids(in_one_event: bool, indexes: tuple[Any, Any]) -> None:
    calls = [part(PARIS, "weather", "a", indexes[0]), part(ROME, "weather", "a", indexes[1])]
    found = gathered(calls) if in_one_event else gathered(calls[:1], calls[1:])
    assert [call[1:] for call in found] == [("weather", PARIS), ("weather", ROME)]


def test_fragments_of_openais_own_form_come_out_as_they_are() -> None:
    events = CASES["OpenAI's own way"][0]
    calls = ToolCalls("fake")
    assert [calls.normalise(event) for event in events] == events


def test_half_a_character_at_the_end_of_a_fragment_is_joined_with_the_next() -> None:
    (call,) = gathered([part('{"a": "\ud83d', "say", "a", 0)], [part('\ude00 \ud83d"}', index=0)])
    assert call == ("a", "say", '{"a": "😀 \ufffd"}')


def test_what_only_the_vendor_knows_of_a_call_stays_with_it() -> None:
    signature = {"google": {"thought_signature": "c2ln"}}
    first, second = fragments_of([part(PARIS, "weather", "a", extra_content=signature)], [part("", index=0, more=[1])])
    assert first["extra_content"] == signature
    assert second == {"index": 0, "function": {"arguments": ""}, "more": [1]}
    assert (
        fragments_of([{"id": "a", "function": {"name": "now", "arguments": "{}", "mark": 1}}])[0]["function"]["mark"]
        == 1
    )


@pytest.mark.parametrize("broken", [5, "add", [5], ["add"], [None], {"a": 1}, [{"function": "add"}], [[]]], ids=str)
def test_what_is_no_call_is_the_providers_fault(broken: Any) -> None:
    with pytest.raises(ProviderCut):
        fragments_of(broken)


def test_a_call_that_never_names_its_tool_is_the_providers_fault() -> None:
    with pytest.raises(ProviderCut, match="without a name"):
        fragments_of([part(PARIS, None, "a", 0)])


@given(
    arguments=st.lists(
        st.dictionaries(st.text(max_size=3), st.text(max_size=4) | st.integers() | st.lists(st.text(max_size=2))),
        min_size=1,
        max_size=3,
    ),
    cuts=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    numbers=st.sampled_from(["right", "none", "zero"]),
    repeats=st.booleans(),
)
def test_calls_are_whole_however_they_are_cut(
    arguments: list[dict[str, Any]], cuts: list[int], numbers: str, repeats: bool
) -> None:
    """With ids in the first fragments, numbered rightly, wrongly or not at all, ids and names repeated or not."""
    events = []
    for number, value in enumerate(arguments):
        index = {"right": number, "none": None, "zero": 0}[numbers]
        text, turn, is_first = json.dumps(value), 0, True
        while text:
            size = cuts[turn % len(cuts)]
            named = is_first or repeats
            name, call_id = ("do", f"call_{number}") if named else (None, None)
            events.append([part(text[:size], name, call_id, index)])
            text, turn, is_first = text[size:], turn + 1, False
    assert [json.loads(call[2]) for call in gathered(*events)] == arguments


@given(
    st.lists(
        st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "index": st.none() | st.integers(-1, 2) | st.just("1"),
                    "id": st.none() | st.sampled_from(["", "a", "b"]),
                    "type": st.none() | st.just("function"),
                    "function": st.fixed_dictionaries(
                        {},
                        optional={
                            "name": st.none() | st.sampled_from(["", "f", "g"]),
                            "arguments": st.sampled_from([None, "", "{", "{}", '{"a"', ":1}", "null", {}]),
                        },
                    ),
                },
            ),
            max_size=3,
        ),
        max_size=6,
    )
)
def test_any_fragments_at_all_come_out_in_openais_form_or_are_the_providers_fault(events: list[Any]) -> None:
    try:
        fragments_of(*events)
    except ProviderCut:
        return
