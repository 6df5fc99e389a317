"""What is lost inside a state's objects is warned of, and nothing else is."""

import dataclasses
from collections import namedtuple
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, List, Literal  # noqa: UP035 - as agents write it
from uuid import UUID

import numpy
import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.graph import START, StateGraph
from langgraph.types import Send, interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

from services.state_losses import MOST_PARTS
from services.state_serializer import StateSerializer
from tests.house_for_tests import a_run, finish_of
from tests.postgres_for_tests import _made_cluster, database_url, postgres, tmp_path
from tests.services.test_threads import Draft, server, turn

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.


class Unknown(BaseModel):
    number: int = 1


class Shade(Enum):
    RED = "red"


class Tone(str, Enum):  # noqa: UP042 - as agents write it
    LOW = "low"


@dataclasses.dataclass
class Point:
    x: Any = None


class Inner(BaseModel):
    x: Any = None


class Place(TypedDict):
    at: Any


class Outer(BaseModel):
    x: Any = None
    inner: Inner = Inner()
    shade: Shade = Shade.RED
    size: Literal["s", "l"] = "s"
    when: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    cost: Decimal | None = None
    place: Place = {"at": None}
    messages: list[AnyMessage] = []
    bare: list = []  # type: ignore[type-arg]  # As agents write it.
    old: List = []  # type: ignore[type-arg]  # noqa: UP006 - the same


Pair = namedtuple("Pair", "one other")

DECLARED = (Outer, Inner, Point, Shade, Pair)


def spoken(**fields: Any) -> ToolMessage:
    return ToolMessage("r", tool_call_id="1", **fields)


LOST: list[tuple[Any, type]] = [
    (spoken(artifact=Unknown()), Unknown),
    (spoken(artifact={"deep": [Unknown()]}), Unknown),
    (spoken(artifact=Inner()), Inner),
    (spoken(artifact=[Point()]), Point),
    (AIMessage("", additional_kwargs={"o": Tone.LOW}), Tone),
    (Outer(x=Unknown()), Unknown),
    (Outer(x=(1, {"a": Unknown()})), Unknown),
    (Outer(inner=Inner(x=Unknown())), Unknown),
    (Outer(place={"at": Unknown()}), Unknown),
    (Outer(bare=[Unknown()]), Unknown),
    (Outer(old=[Unknown()]), Unknown),
    (Outer(messages=[spoken(artifact=Unknown())]), Unknown),
    (Point(Unknown()), Unknown),
    (Point([Outer(x=Unknown())]), Unknown),
    (Pair(1, Unknown()), Unknown),
    (Send("item", Unknown()), Unknown),
    (Send("item", {"a": Tone.LOW}), Tone),
]
KEPT: list[Any] = [
    HumanMessage("h"),
    AIMessage("", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "1"}], additional_kwargs={"a": [{"b": None}]}),
    spoken(artifact={"rows": [[1, 2.5, "x", b"y"], {"a": True}]}),
    spoken(artifact=[UUID(int=1), Decimal("1.5"), datetime(2026, 1, 1, tzinfo=UTC), Path("a")]),
    spoken(artifact=Shade.RED),
    spoken(artifact=numpy.array([1, 2])),
    Outer(inner=Inner(x=[1]), cost=Decimal(1), messages=[HumanMessage("h"), spoken(artifact={"a": 1})]),
    Point(Outer()),
    Point(Inner(x=Shade.RED)),
    Pair(1, Point()),
    Send("item", {"messages": [HumanMessage("h")], "o": Outer()}),
]


async def warnings_of(value: Any) -> list[str]:
    serializer = StateSerializer(allowed_msgpack_modules=[(kind.__module__, kind.__name__) for kind in DECLARED])
    async with a_run() as run:
        written = serializer.dumps_typed(value)
        serializer.loads_typed(written)
        return list(run.warnings)


@pytest.mark.parametrize(("value", "kind"), LOST)
async def test_what_comes_back_as_plain_data_is_named_once(value: Any, kind: type) -> None:
    (warning,) = await warnings_of([value, value])
    assert warning.startswith(f"{kind.__module__}.{kind.__qualname__} comes back as plain data")
    assert "inside" in warning


@pytest.mark.parametrize("value", KEPT)
async def test_what_comes_back_as_it_was_is_not_warned_of(value: Any) -> None:
    assert await warnings_of([value]) == []


@pytest.mark.parametrize("value", [value for value, _ in LOST])
def test_what_is_warned_of_is_lost(value: Any) -> None:
    serializer = StateSerializer(allowed_msgpack_modules=[(kind.__module__, kind.__name__) for kind in DECLARED])
    assert repr(serializer.loads_typed(serializer.dumps_typed(value))) != repr(value)


@pytest.mark.parametrize("value", KEPT)
def test_what_is_not_warned_of_is_kept(value: Any) -> None:
    serializer = StateSerializer(allowed_msgpack_modules=[(kind.__module__, kind.__name__) for kind in DECLARED])
    assert repr(serializer.loads_typed(serializer.dumps_typed(value))) == repr(value)


async def test_an_object_too_large_is_not_looked_at_to_its_end() -> None:
    assert await warnings_of(spoken(artifact=[*[Shade.RED] * MOST_PARTS, Unknown()])) == []


async def test_the_answer_names_what_a_message_carried(database_url: str, tmp_path: Path) -> None:
    def create(llm: Any) -> StateGraph[Any]:
        graph: StateGraph[Any] = StateGraph(Draft)
        graph.add_node("item", lambda _: {"messages": [AIMessage(str(interrupt("Go on?")))]})
        graph.add_node("first", lambda _: {"messages": [spoken(artifact=Point())]})
        graph.add_conditional_edges("first", lambda _: [Send("item", Unknown())], ["item"])
        graph.add_edge(START, "first")
        return graph

    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        finished = finish_of(await turn(house, "un", agent="mine"))
    assert sorted(warning.split()[0].rpartition(".")[2] for warning in finished.warnings) == ["Point", "Unknown"]
