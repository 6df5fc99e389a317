"""A part that cannot be written has another form; what stands beside it is kept, and warned of where it is not."""

from collections import UserDict, deque, namedtuple
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, StateGraph
from langgraph.types import Send, TimeoutPolicy, interrupt
from pydantic import BaseModel, ConfigDict, HttpUrl, SecretStr

from services.state_serializer import StateSerializer
from tests.house_for_tests import a_run, text_of
from tests.postgres_for_tests import _made_cluster, database_url, postgres, tmp_path
from tests.services.test_threads import Draft, server, turn

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.

UNWRITABLE = numpy.float64(1.5)
"""Encoders refuse it; it is kept as the number that it equals."""

Pair = namedtuple("Pair", "one other")


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)
    number: int = 1


class Source(BaseModel):
    address: HttpUrl
    key: SecretStr = SecretStr("k")
    prices: dict[Decimal, int] = {}
    rest: Any = None


MESSAGE = "langchain_core.messages.human.HumanMessage"
ADDRESS = HttpUrl("https://a.example/")
KEPT: list[Any] = [
    [{1, 2}, UNWRITABLE],
    [frozenset({1}), deque([1]), UNWRITABLE],
    [{UNWRITABLE}, deque([UNWRITABLE])],
    [Pair(1, {2}), UNWRITABLE],
    [Pair(1, UNWRITABLE)],
    {b"k": UNWRITABLE, (1, 2): 3, None: 4, True: 5},
    Source(address=ADDRESS),
    [Source(address=ADDRESS, prices={Decimal("1.5"): 1}, rest={1})],
    Source(address=ADDRESS, prices={Decimal("1.5"): 1}, rest=[UNWRITABLE]),
    HumanMessage("h", scores=[UNWRITABLE]),
    HumanMessage("h", some=UserDict(a=1)),
    [Send("item", {"score": UNWRITABLE}, timeout=TimeoutPolicy(run_timeout=1))],
]
CHANGED: list[tuple[Any, Any, str]] = [
    ([{(1, UNWRITABLE)}], [[[1, 1.5]]], "builtins.set cannot be kept in the thread: a list is"),
    (Fraction(1, 2), "1/2", "fractions.Fraction cannot be kept in the thread: its JSON form is"),
    ({2**70: UNWRITABLE}, {str(2**70): 1.5}, "a whole number of more than 64 bits is kept as text in the thread"),
    (
        {Decimal(1): UNWRITABLE},
        {"1": 1.5},
        "decimal.Decimal comes back as plain data in the thread's next turn: it is a key of a dictionary",
    ),
    (
        Source(address=ADDRESS, rest=ADDRESS),
        Source(address=ADDRESS, rest=str(ADDRESS)),
        "pydantic.networks.HttpUrl cannot be kept in the thread: its JSON form is",
    ),
    (
        HumanMessage("h", some=deque([{Frozen()}])),
        HumanMessage("h", some=deque([[{"number": 1}]])),
        f"{__name__}.Frozen comes back as plain data in the thread's next turn: it is kept inside {MESSAGE}",
    ),
    (
        HumanMessage("h", some={(1, UNWRITABLE)}),
        HumanMessage("h", some=[[1, 1.5]]),
        "builtins.set cannot be kept in the thread: a list is",
    ),
    (
        Source(address=ADDRESS, prices={Decimal(1): 1}, rest=({1: ADDRESS},)),
        Source(address=ADDRESS, prices={Decimal(1): 1}, rest=[{1: str(ADDRESS)}]),
        "pydantic.networks.HttpUrl cannot be kept in the thread: its JSON form is",
    ),
    (
        Source(address=ADDRESS, rest=2**70),
        Source(address=ADDRESS, rest=str(2**70)),
        "a whole number of more than 64 bits is kept as text in the thread",
    ),
    (
        HumanMessage("h", prices={Decimal(1): 1}),
        HumanMessage("h", prices={"1": 1}),
        "decimal.Decimal comes back as plain data in the thread's next turn: it is a key of a dictionary",
    ),
]


async def kept(value: Any) -> tuple[Any, list[str]]:
    """What comes back, and what the run is warned of."""
    serializer = StateSerializer(allowed_msgpack_modules=[(kind.__module__, kind.__name__) for kind in (Source, Pair)])
    async with a_run() as run:
        return serializer.loads_typed(serializer.dumps_typed(value)), list(run.warnings)


@pytest.mark.parametrize("value", KEPT)
async def test_what_stands_beside_a_part_with_another_form_is_kept(value: Any) -> None:
    back, warnings = await kept(value)
    assert back == value
    assert repr(back).replace("np.float64(1.5)", "1.5") == repr(value).replace("np.float64(1.5)", "1.5")
    assert warnings == []


@pytest.mark.parametrize(("value", "form", "warning"), CHANGED)
async def test_a_changed_part_is_warned_of_once(value: Any, form: Any, warning: str) -> None:
    assert await kept(value) == (form, [warning])


async def test_a_node_that_was_sent_such_a_value_takes_the_answer_to_its_question(
    database_url: str, tmp_path: Path
) -> None:
    def create(llm: Any) -> StateGraph[Any]:
        graph: StateGraph[Any] = StateGraph(Draft)
        graph.add_node("item", lambda sent: {"messages": [AIMessage(f"{interrupt('Go on?')}: {sent['score']}")]})
        graph.add_node("first", lambda _: {"messages": []})
        graph.add_conditional_edges("first", lambda _: [Send("item", {"score": UNWRITABLE})], ["item"])
        graph.add_edge(START, "first")
        return graph

    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        await turn(house, "un", agent="mine")
        assert text_of(await turn(house, "", agent="mine", resume="yes")) == "yes: 1.5"
