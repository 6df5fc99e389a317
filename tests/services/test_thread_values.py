"""Values of a thread's state: declared types come back, others are warned of, and none breaks a run or an encoder."""

import dataclasses
import json
import math
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NotRequired, Optional, TypedDict, TypeVar

import numpy
import pytest
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt
from pydantic import BaseModel

from api.native_format import NativeEvents, whole_answer
from core.json_form import as_json
from domain.runs import Progress
from services.agent_registry import AgentOptions
from services.state_serializer import StateSerializer
from tests.house_for_tests import ask, events_of, failure_of, finish_of, house_of, text_of
from tests.postgres_for_tests import _made_cluster, database_url, postgres, tmp_path
from tests.services.test_threads import server, state_of, turn

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.

Part = TypeVar("Part")


class Colour(str, Enum):  # noqa: UP042 - as agents write it
    RED = "red"


class Level(Enum):
    HIGH = 3


class Item(BaseModel):
    price: Decimal
    colour: Colour = Colour.RED


class Dear(Item):
    reason: str = "rare"


@dataclasses.dataclass
class Note:
    text: str
    level: Level


@dataclasses.dataclass
class Box(Generic[Part]):
    content: Part


class Inner(BaseModel):
    number: int


class Base(TypedDict):
    messages: Annotated[list[Any], add_messages]


class Declared(Base):
    item: NotRequired[Item]
    dear: NotRequired[Item]
    colour: NotRequired[Colour]
    note: NotRequired[Optional[Note]]  # noqa: UP045 - as agents write it
    items: NotRequired[Sequence[Item]]
    by_name: NotRequired[Mapping[str, list[Note]]]
    box: NotRequired[Box[Inner]]
    level: NotRequired[Literal[Level.HIGH]]


VALUES: dict[str, Any] = {
    "item": Item(price=Decimal("1.5")),
    "dear": Dear(price=Decimal(2)),
    "colour": Colour.RED,
    "note": Note("a", Level.HIGH),
    "items": [Item(price=Decimal(3))],
    "by_name": {"a": [Note("b", Level.HIGH)]},
    "box": Box(Inner(number=1)),
    "level": Level.HIGH,
}


def keeps(values: dict[str, Any], schema: Any) -> Any:
    """Its first turn puts the values into the state; the others show what they have become."""

    def node(state: Any) -> dict[str, Any]:
        if state["messages"][-1].text == "put":
            return {**values, "messages": [AIMessage("put")]}
        SEEN.clear()
        SEEN.update({name: state.get(name) for name in values})
        return {"messages": [AIMessage("seen")]}

    def create(llm: Any) -> StateGraph[Any]:
        graph: StateGraph[Any] = StateGraph(schema)
        graph.add_node("node", node)
        graph.add_edge(START, "node")
        graph.add_edge("node", END)
        return graph

    return create


SEEN: dict[str, Any] = {}


async def test_declared_types_come_back_as_they_were(database_url: str, tmp_path: Path) -> None:
    async with server(database_url, tmp_path, agents={"mine": keeps(VALUES, Declared)}) as (house, _, _):
        events = await turn(house, "put", agent="mine")
        assert finish_of(events).warnings == ()
        await turn(house, "see", agent="mine")
    assert SEEN == VALUES
    assert {name: type(value) for name, value in SEEN.items()} == {name: type(value) for name, value in VALUES.items()}


async def test_types_of_a_nodes_own_schema_and_of_a_graph_within_come_back(database_url: str, tmp_path: Path) -> None:
    seen: list[Any] = []

    class Private(TypedDict):
        secret: Inner

    class Within(Base):
        note: NotRequired[Note]

    def within() -> Any:
        graph: StateGraph[Any] = StateGraph(Within)
        graph.add_node("first", lambda _: {"note": Note("n", Level.HIGH)})
        graph.add_node("asks", lambda state: (interrupt("go on?"), seen.append(state["note"]), {})[2])
        graph.add_edge(START, "first")
        graph.add_edge("first", "asks")
        graph.add_edge("asks", END)
        return graph.compile()

    def last(state: Private) -> dict[str, Any]:
        interrupt("and on?")
        seen.append(state["secret"])
        return {"messages": [AIMessage("done")]}

    def create(llm: Any) -> StateGraph[Any]:
        graph: StateGraph[Any] = StateGraph(Base)
        graph.add_node("within", within())
        graph.add_node("put", lambda _: {"secret": Inner(number=7)})
        graph.add_node("last", last, input_schema=Private)
        graph.add_edge(START, "within")
        graph.add_edge("within", "put")
        graph.add_edge("put", "last")
        graph.add_edge("last", END)
        return graph

    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        await turn(house, "x", agent="mine")
        await turn(house, "", agent="mine", resume=True)
        assert text_of(await turn(house, "", agent="mine", resume=True)) == "done"
    assert seen == [Note("n", Level.HIGH), Inner(number=7)]


class Undeclared(Base):
    value: Any


async def test_a_type_that_is_not_declared_is_warned_of_in_the_answer(database_url: str, tmp_path: Path) -> None:
    agents = {"mine": keeps({"value": {"deep": [Inner(number=1)]}}, Undeclared)}
    async with server(database_url, tmp_path, agents=agents) as (house, _, _):
        finished = finish_of(await turn(house, "put", agent="mine"))
        assert len(finished.warnings) == 1
        assert f"{Inner.__module__}.Inner" in finished.warnings[0]
        shown = json.loads(json.dumps(as_json(whole_answer(ask("mine"), "", finished))))["metadata"]
        assert shown["impact"]["warnings"][-1] == finished.warnings[0]
        await turn(house, "see", agent="mine")
    assert SEEN == {"value": {"deep": [{"number": 1}]}}


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__


class Raw(BaseModel):
    content: Any


def cycle() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


def nested() -> Any:
    deep: Any = 1
    for _ in range(3000):
        deep = [deep]
    return deep


class Exits:
    def __repr__(self) -> str:
        raise SystemExit(3)

    __str__ = __repr__


class Nameless:
    @property
    def __class__(self) -> Any:
        raise SystemExit(3)


class HostileText(str):
    def __str__(self, *_: Any) -> Any:
        raise SystemExit(3)

    __repr__ = isascii = encode = __str__


class Text(str):
    __slots__ = ()


class Number(float):
    pass


class Whole(int):
    pass


class Data(bytes):
    pass


class HostileDict(dict[str, Any]):
    def items(self) -> Any:
        raise SystemExit(3)


ANYTHING: dict[str, Any] = {
    "model": Item(price=Decimal("900.10")),
    "model of bytes": Raw(content=b"\xff"),
    "model of anything": Raw(content=Hostile()),
    "dataclass of anything": Note("a", 10**30),  # type: ignore[arg-type]
    "decimal": Decimal("1.5"),
    "set": {1, "a"},
    "bytes": b"\xff\x00",
    "message": AIMessage("hello"),
    "integer keys": {1: {2: 3}, None: 4, (1, 2): 5},
    "datetime": datetime(2026, 11, 20, tzinfo=UTC),
    "enum": Colour.RED,
    "half a surrogate": "\ud83d",
    "nul": "a\x00b",
    "huge number": 10**400,
    "number beyond 64 bits": [2**64],
    "nan": {"a": math.nan, "b": math.inf},
    "plain nan": math.nan,
    "object": object(),
    "hostile": Hostile(),
    "function": lambda: 1,
    "lock": threading.Lock(),
    "generator": (n for n in range(3)),
    "class": Item,
    "cycle": cycle(),
    "nested": nested(),
    "error": ValueError("x"),
    "exits": [Exits()],
    "exits in a model": Raw(content=Exits()),
    "exits in an error": ValueError(Exits()),
    "nameless": Nameless(),
    "nameless in a list": [Nameless()],
    "hostile text": [HostileText("x")],
    "hostile dict": HostileDict(a=1),
    "own text": Text("x"),
    "own types": [Text("x"), Number(1.5), Whole(3), Data(b"x"), Whole(2**70)],
    "own types as keys": {Text("x"): 1, Number(1.5): 2, Whole(3): 3, Data(b"x"): 4, Colour.RED: 5, Level.HIGH: 6},
    "own bytes": Data(b"x"),
    "numpy float": numpy.float64(1.5),
    "numpy nan": numpy.float64("nan"),
    "numpy numbers": [numpy.float64("inf"), numpy.float32(1.5), numpy.int64(3), numpy.bool_(True)],
    "numpy keys": {numpy.float64(2): 1, numpy.int64(3): {numpy.float64("nan"): 1}, numpy.str_("a"): 1},
    "numpy text": numpy.str_("a\x00b"),
    "numpy array": {"a": numpy.arange(3)},
    "half a surrogate in a key": {"k\udc00": {"\ud83d": "\ud83d"}},
    "day as a key": {datetime(2020, 1, 1, tzinfo=UTC).date(): 1, Decimal("1.5"): 2, b"k": 3, 2**70: 4, math.nan: 5},
}


@pytest.mark.parametrize("name", ANYTHING)
async def test_a_question_may_be_anything(database_url: str, tmp_path: Path, name: str) -> None:
    def create(llm: Any) -> StateGraph[Any]:
        graph: StateGraph[Any] = StateGraph(Base)
        graph.add_node("asks", lambda _: {"messages": [AIMessage(f"got {interrupt(ANYTHING[name])}")]})
        graph.add_edge(START, "asks")
        graph.add_edge("asks", END)
        return graph

    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        request = ask("mine", thread_id="t", events=True)
        events = [event async for event in house.service.stream(request)]
        assert failure_of(events) is None
        finished = finish_of(events)
        encoder = NativeEvents("mine")
        for event in events:
            if isinstance(event, Progress):
                json.loads(encoder.progress(event).split(b"data: ")[1])
        last = json.loads(encoder.last(request, finished, None)[6:])
        assert last["metadata"]["interrupt"]["value"] == as_json(ANYTHING[name])
        assert (await state_of(house, "t", "mine")).interrupts == finished.interrupts
        assert text_of(await turn(house, "", agent="mine", resume=1)) == "got 1"


@pytest.mark.parametrize("name", ANYTHING)
async def test_a_state_may_hold_anything(database_url: str, tmp_path: Path, name: str) -> None:
    agents = {"mine": keeps({"value": ANYTHING[name]}, Undeclared)}
    async with server(database_url, tmp_path, agents=agents) as (house, _, _):
        assert failure_of(await turn(house, "put", agent="mine")) is None
        assert text_of(await turn(house, "see", agent="mine")) == "seen"


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (numpy.float64(1.5), 1.5),
        ([numpy.float64(1.5), {"a": numpy.float64(2)}], [1.5, {"a": 2.0}]),
        ({numpy.float64(2): Text("x")}, {2.0: "x"}),
        ({"k\udc00": 1}, {"k\ufffd": 1}),
        ([Text("x"), Number(1.5), Whole(3), Data(b"x")], ["x", 1.5, 3, b"x"]),
        ([HostileText("x")], ["x"]),
    ],
    ids=["number", "numbers", "key", "half", "own types", "hostile"],
)
def test_what_is_derived_from_a_plain_type_is_kept_as_that(value: Any, form: Any) -> None:
    serializer = StateSerializer()
    kept = serializer.loads_typed(serializer.dumps_typed(value))
    assert kept == form
    assert json.dumps(kept, default=repr) == json.dumps(form, default=repr)


async def test_messages_keep_their_kind_when_a_part_of_one_cannot_be_kept(database_url: str, tmp_path: Path) -> None:
    odd = AIMessage("odd", additional_kwargs={"object": object(), "number": 2**70})

    def create(llm: Any) -> StateGraph[Any]:
        graph: StateGraph[Any] = StateGraph(Base)
        graph.add_node("node", lambda _: {"messages": [odd, AIMessage("even \ud83d")]})
        graph.add_edge(START, "node")
        graph.add_edge("node", END)
        return graph

    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        finished = finish_of(await turn(house, "x", agent="mine"))
        assert [warning for warning in finished.warnings if "builtins.object" in warning]
        messages = (await state_of(house, "t", "mine")).messages
    assert [message.type for message in messages] == ["human", "ai", "ai"]
    assert messages[1].additional_kwargs["number"] == str(2**70)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("Oui", "Oui"),
        (3, "3"),
        (None, ""),
        ({"a": Decimal(1)}, '{"a": "1"}'),
        (Item(price=Decimal(2)), '{"price": "2", "colour": "red"}'),
    ],
)
async def test_an_answer_that_is_no_text_is_its_json(given: object, text: str) -> None:
    def create(llm: Any) -> StateGraph[Any]:
        graph: StateGraph[Any] = StateGraph(Undeclared)
        graph.add_node("node", lambda _: {"value": 1})
        graph.add_edge(START, "node")
        graph.add_edge("node", END)
        return graph

    options = AgentOptions(answer=lambda _: given)  # type: ignore[arg-type, return-value]
    async with house_of(agents={"mine": create}, options=options) as (house, _):
        assert text_of(await events_of(house, ask("mine"))) == text
