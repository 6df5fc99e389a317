"""What is lost inside a state's objects is warned of, and nothing else is."""

import dataclasses
from collections import deque, namedtuple
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, List, Literal  # noqa: UP035 - as agents write it
from uuid import UUID

import numpy
import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, StateGraph
from langgraph.store.base import Item
from langgraph.types import Send, interrupt
from pydantic import BaseModel, ConfigDict, SecretStr, field_serializer
from typing_extensions import TypedDict

from services.state_losses import MOST_PARTS
from services.state_serializer import StateSerializer
from tests.house_for_tests import a_run, failure_of, finish_of
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


class Level(Enum):
    BOTH = (1, 2)
    ONE = 1


class Day(datetime):
    pass


@dataclasses.dataclass(frozen=True, slots=True)
class Spot:
    x: Any = None


@dataclasses.dataclass
class Sum:
    one: int = 1
    total: int = dataclasses.field(init=False, default=2)


class Inner(BaseModel):
    x: Any = None


class Derived(Inner):
    more: int = 1


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    by_shade: dict[Shade, int] = {}


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
    either: dict[str, Any] | Inner | None = None
    bases: list[BaseMessage] = []
    secret: SecretStr | None = None


Pair = namedtuple("Pair", "one other")

DECLARED = (Outer, Inner, Derived, Open, Point, Spot, Sum, Shade, Level, Pair)


def spoken(**fields: Any) -> ToolMessage:
    return ToolMessage("r", tool_call_id="1", **fields)


def calls(value: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": "f", "args": {"a": value}, "id": "1"}])


NOW = datetime(2026, 1, 1, tzinfo=UTC)
PARTS = [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "https://a"}}]
USAGE = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3, "input_token_details": {"cache_read": 1}}
PLAIN_MESSAGES: list[BaseMessage] = [
    HumanMessage(PARTS, id="1", name="a", custom={"a": (1, 2)}),
    SystemMessage("é \ud83d", additional_kwargs={"a": [{"b": None}]}),
    AIMessage(
        "x",
        tool_calls=[{"name": "f", "args": {"a": [1.5, {"b": True}]}, "id": "1"}],
        invalid_tool_calls=[{"name": "f", "args": "{", "id": "2", "error": None}],
        usage_metadata=USAGE,
        response_metadata={"finish_reason": "stop", "logprobs": None},
    ),
    AIMessageChunk("x", tool_call_chunks=[{"name": "f", "args": "{", "id": "1", "index": 0}], usage_metadata=USAGE),
    ToolMessage(PARTS, tool_call_id="1", status="error", artifact={"rows": [[1, 2.5, "x", b"y"], {"a": True}]}),
]
LOST: list[tuple[Any, type]] = [
    (spoken(artifact=Unknown()), Unknown),
    (spoken(artifact={"deep": [Unknown()]}), Unknown),
    (spoken(artifact=Inner()), Inner),
    (spoken(artifact=[Point()]), Point),
    (AIMessage("", additional_kwargs={"o": Tone.LOW}), Tone),
    (spoken(artifact=numpy.array([(1, 2)], "i4,i4")), numpy.ndarray),
    (AIMessage("", response_metadata={"deep": [Unknown()]}), Unknown),
    (AIMessage("", response_metadata={"o": HumanMessage("h")}), HumanMessage),
    (AIMessage([{"type": "x", "o": Point()}]), Point),
    (ToolMessage([{"type": "x", "o": Tone.LOW}], tool_call_id="1"), Tone),
    (calls(Unknown()), Unknown),
    (calls([{"b": Pair(1, 2)}]), Pair),
    (calls(Day(2026, 1, 1)), Day),
    (calls({Shade.RED: 1}), Shade),
    (HumanMessage("h", custom=Unknown()), Unknown),
    (HumanMessage("h", custom={Tone.LOW}), Tone),
    (HumanMessage("h", custom=ValueError("x")), ValueError),
    (Open(custom=Unknown()), Unknown),
    (Open(custom={"a": Tone.LOW}), Tone),
    (Outer(inner=Derived()), Derived),
    (Outer(bases=[HumanMessage("h")]), HumanMessage),
    (Outer(either=Inner()), Inner),
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
    (Send("item", {"messages": [calls(Unknown())]}), Unknown),
    ({"a": {Tone.LOW}}, Tone),
    (deque([Spot(Unknown())]), Unknown),
    (Spot({Shade.RED: 1}), Shade),
    (Item(value={"a": Unknown()}, key="k", namespace=("n",), created_at=NOW, updated_at=NOW), Unknown),
]
WHOLE: list[tuple[Any, str]] = [
    (Sum(), "Sum comes back as plain data in the thread's next turn: it cannot be made again of what it holds"),
    (Level.BOTH, "Level comes back as plain data in the thread's next turn: it cannot be made again of what it holds"),
    ({(1, 2)}, "set comes back as plain data in the thread's next turn: it cannot be made again of what it holds"),
    (Unknown(), "Unknown comes back as plain data in the thread's next turn: declare it in the state"),
    (Day(2026, 1, 1), "Day comes back as plain data in the thread's next turn: its type is not kept"),
    (ValueError("x"), "ValueError comes back as plain data in the thread's next turn: its type is not kept"),
    (
        numpy.array([(1, 2)], "i4,i4"),
        "numpy.ndarray comes back as plain data in the thread's next turn: its type is not kept",
    ),
    ({Shade.RED: 1}, "Shade comes back as plain data in the thread's next turn: it is a key of a dictionary"),
    ({(1, NOW): 1}, "datetime comes back as plain data in the thread's next turn: it is a key of a dictionary"),
    (
        [{"a": {Decimal(1): 1}}],
        "Decimal comes back as plain data in the thread's next turn: it is a key of a dictionary",
    ),
]
KEPT: list[Any] = [
    HumanMessage("h"),
    *PLAIN_MESSAGES[2:],
    calls([UUID(int=1), Shade.RED, {1, 2}, {3: NOW}]),
    HumanMessage("h", custom=Shade.RED),
    AIMessage([{"type": "x", "at": NOW}], response_metadata={1: 2, b"k": 3, (1, 2): 4}),
    Open(custom=[1], by_shade={Shade.RED: 1}),
    Open(by_shade={Shade.RED: 1}, custom=Decimal(1)),
    Outer(x=[Shade.RED], inner=Inner(), place={"at": NOW}, secret=SecretStr("s")),
    Outer(bases=[BaseMessage("h", type="x")]),
    Spot(Spot(frozenset({Spot(1)}))),
    deque([{Shade.RED}, Level.ONE]),
    {1: {b"k": 2, (1, 2): NOW}, None: 3, 1.5: 4},
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


@pytest.mark.parametrize(("value", "warning"), WHOLE)
async def test_what_is_itself_plain_data_afterwards_is_named_with_the_reason(value: Any, warning: str) -> None:
    (given,) = await warnings_of({"value": value})
    assert given.endswith(warning)


@pytest.mark.parametrize("message", PLAIN_MESSAGES)
def test_a_plain_message_is_written_as_langgraph_writes_it(message: BaseMessage) -> None:
    assert StateSerializer().dumps_typed([message]) == JsonPlusSerializer().dumps_typed([message])


def test_a_message_with_a_serializer_of_its_own_is_written_by_that() -> None:
    class Brief(AIMessage):
        @field_serializer("content")
        def short(self, content: Any) -> str:
            return str(content)[:1]

    assert StateSerializer().dumps_typed([Brief("xyz")]) == JsonPlusSerializer().dumps_typed([Brief("xyz")])


@pytest.mark.parametrize("value", KEPT)
async def test_what_comes_back_as_it_was_is_not_warned_of(value: Any) -> None:
    assert await warnings_of([value]) == []


@pytest.mark.parametrize("value", [value for value, _ in LOST + WHOLE])
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


async def test_a_run_is_not_warned_of_the_error_that_it_failed_with(database_url: str, tmp_path: Path) -> None:
    def fail(_: Any) -> Any:
        raise ValueError("broken")

    def create(llm: Any) -> StateGraph[Any]:
        graph: StateGraph[Any] = StateGraph(Draft)
        graph.add_node("fails", fail)
        graph.add_edge(START, "fails")
        return graph

    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        events = await turn(house, "un", agent="mine")
    assert failure_of(events) is not None
    assert finish_of(events).warnings == ()
