"""Whatever a graph gives has a JSON form, and the form never breaks an encoder."""

import json
import math
from collections import OrderedDict, deque, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import orjson
import pytest
from langchain_core.messages import AIMessage
from pydantic import BaseModel

from core.json_form import LEFT_OUT, as_json


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Money(BaseModel):
    amount: Decimal
    colour: Colour = Colour.RED


class Raw(BaseModel):
    content: bytes
    more: set[int] = {2, 1}


@dataclass
class Order:
    money: Money
    lines: tuple[int, ...]


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no")


class Plain:
    pass


Point = namedtuple("Point", "x y")

CASES: list[tuple[object, object]] = [
    (Money(amount=Decimal("900.10")), {"amount": "900.10", "colour": "red"}),
    (Raw(content=b"\xff\x00"), {"content": "/wA=", "more": [1, 2]}),
    (Order(Money(amount=Decimal(1)), (1, 2)), {"money": {"amount": "1", "colour": "red"}, "lines": [1, 2]}),
    (Decimal("1.50"), "1.50"),
    ({"b", "a"}, ["a", "b"]),
    (b"\x00\xff", "AP8="),
    ({1: "one", None: 2, False: 3, (1, 2): 4}, {"1": "one", "null": 2, "false": 3, "[1, 2]": 4}),
    (Colour.RED, "red"),
    (Level.HIGH, 3),
    (datetime(2026, 11, 20, tzinfo=UTC), "2026-11-20T00:00:00+00:00"),
    (date(2026, 11, 20), "2026-11-20"),
    (timedelta(seconds=1.5), 1.5),
    (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (PurePosixPath("/a"), "/a"),
    (Point(1, 2), {"x": 1, "y": 2}),
    (deque([1]), [1]),
    (OrderedDict(a=1), {"a": 1}),
    ("\ud83d", "\ufffd"),
    ("\ud83d\ude00", "😀"),
    ({"\ude00": 1}, {"\ufffd": 1}),
    ([math.nan, math.inf, 1.5], [None, None, 1.5]),
    (10**30, "1" + "0" * 30),
    (2**64 - 1, 2**64 - 1),
    (ValueError("x"), {"error": "ValueError", "message": "x"}),
    (Hostile(), "<Hostile>"),
    (Plain(), "<Plain>"),
    (object, "<class 'object'>"),
]


@pytest.mark.parametrize(("value", "form"), CASES, ids=[str(number) for number in range(len(CASES))])
def test_any_value_has_a_form_that_encoders_take(value: object, form: object) -> None:
    found = as_json(value)
    assert found == form
    assert json.loads(orjson.dumps(found)) == found


def test_a_message_shows_what_it_says() -> None:
    assert as_json(AIMessage("Oui"))["content"] == "Oui"


def test_numbers_of_more_digits_than_python_writes_have_a_form() -> None:
    assert as_json(10**5000).startswith("0x")


def test_what_contains_itself_ends_there() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    assert as_json(loop) == [1, LEFT_OUT]


def test_nesting_and_size_are_bounded() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    assert LEFT_OUT in json.dumps(as_json(deep), ensure_ascii=False)
    wide: Any = [1]
    for _ in range(60):
        wide = [wide, wide]
    orjson.dumps(as_json(wide))


def test_shared_parts_are_not_taken_for_cycles() -> None:
    part = {"a": 1}
    assert as_json([part, part]) == [part, part]
