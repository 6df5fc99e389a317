"""Which objects inside a state's objects come back changed: where that may be, and what is seen on reading them back.

A pydantic model is written as its fields' plain values, and made again by its annotations: what stands in a field of
`Any` stays plain, as it does in a message's content, metadata and arguments of calls. Other objects are written with
the types in them.
"""

import dataclasses
import inspect
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from functools import lru_cache
from itertools import islice, repeat
from typing import Any, Literal

import ormsgpack
from langgraph.checkpoint.serde.jsonplus import _option
from langgraph.store.base import Item
from langgraph.types import Send
from pydantic import BaseModel

from services.state_fields import PLAIN, SCALARS, open_fields

TEXT_KEYS = _option & ~ormsgpack.OPT_NON_STR_KEYS
"""As LangGraph encodes, but for keys that are no text. An enum as a key is written as its value, unseen."""
MOST_PARTS = 2_000
"""How many parts of an object are compared: a warning is not worth the walk through a table."""

IsMadeAgain = Callable[[Any], bool]
Shape = Literal[
    "plain", "enum", "dictionary", "list", "set", "named tuple", "model", "dataclass", "send", "item", "other"
]
_SHAPES: tuple[tuple[Shape, Any], ...] = (
    ("enum", Enum),
    ("plain", PLAIN),
    ("dictionary", dict),
    ("set", (set, frozenset)),
    ("model", BaseModel),
    ("send", Send),
    ("item", Item),
)
"""In the order in which a type is looked for: an enum may be derived from a plain type."""


def may_lose(value: Any, is_made_again: IsMadeAgain) -> bool:
    """Whether something in it might come back changed. The encoder finds that soonest: objects are all it stops at."""

    def in_a_model(part: Any) -> Any:
        if type(part) in SCALARS or (_has_plain_form(part) and is_made_again(part)):
            return None
        raise TypeError

    def anywhere(part: Any) -> Any:
        kind: Any = type(part)
        if kind in SCALARS:
            return None
        if kind in {set, frozenset, deque}:
            return _of_a_collection(part)
        if not is_made_again(part):
            raise TypeError
        if _shape(kind) == "model":
            ormsgpack.packb(_open_content(part), default=in_a_model, option=TEXT_KEYS)
            return None
        return None if _has_plain_form(part) else _arguments(part)

    try:
        ormsgpack.packb(value, default=anywhere, option=TEXT_KEYS)
    except Exception:  # noqa: BLE001 - it may be anything
        return True
    return False


def lost_types(value: Any, kept: Any) -> set[type]:
    """The types of a value and of what it holds that came back as something else."""
    lost: set[type] = set()
    waiting = [(value, kept)]
    for _ in range(MOST_PARTS):
        if not waiting:
            break
        part, other = waiting.pop()
        pairs = _pairs(part, other)
        if pairs is None:
            lost.add(type(part))
        else:
            waiting.extend(islice(pairs, MOST_PARTS))
    return lost


def lost_keys(value: Any) -> set[type]:
    """The types of the keys, in dictionaries and lists, that are written as a plain value."""
    lost: set[type] = set()
    waiting = [value]
    for _ in range(MOST_PARTS):
        if not waiting:
            break
        part = waiting.pop()
        if isinstance(part, dict):
            lost.update(kind for kind in _kinds(part) if not _is_plain(kind))
            part = part.values()
        elif not isinstance(part, list | tuple):
            continue
        if any(issubclass(kind, dict | list | tuple) for kind in set(map(type, part))):
            waiting.extend(islice(part, MOST_PARTS))
    return lost


def is_equal(part: Any, other: Any) -> bool:
    """As the objects' own code sees it."""
    try:
        return bool(part == other)
    except Exception:  # noqa: BLE001 - it may raise anything
        return False


@lru_cache(maxsize=1024)
def _shape(kind: Any) -> Shape:
    """What a type is to the encoder. It is remembered, for pydantic's answer to `issubclass` takes a microsecond."""
    if issubclass(kind, list | tuple | deque):
        return "named tuple" if hasattr(kind, "_asdict") else "list"
    for shape, bases in _SHAPES:
        if issubclass(kind, bases):
            return shape
    return "dataclass" if dataclasses.is_dataclass(kind) else "other"


def _of_a_collection(part: Any) -> Any:
    # A tuple comes back as a list, which no set can hold.
    if not isinstance(part, deque) and any(isinstance(one, tuple) for one in part):
        raise TypeError
    return tuple(part)


def _has_plain_form(part: Any) -> bool:
    """Whether it is made again from a single plain value. An enum of tuples is not: they come back as lists."""
    if isinstance(part, Enum):
        return isinstance(part.value, PLAIN)
    return type(part).__module__ == "numpy"


def _arguments(part: Any) -> Any:
    """What an object is written with, and made again from."""
    kind: Any = type(part)
    match _shape(kind):
        case "send":
            return part.arg
        case "named tuple":
            return tuple(part)
        case "dataclass" if _takes_its_fields(kind):
            return [getattr(part, field.name) for field in dataclasses.fields(part)]
    raise TypeError


@lru_cache(maxsize=1024)
def _takes_its_fields(kind: Any) -> bool:
    """Whether a dataclass can be called with its fields: those with `init=False` and an `InitVar` stand against it."""
    try:
        inspect.signature(kind).bind(**{field.name: None for field in dataclasses.fields(kind)})
    except (TypeError, ValueError):
        return False
    return True


def _pairs(part: Any, other: Any) -> Iterable[tuple[Any, Any]] | None:
    """What a part holds, each beside what came back of it; `None` where the part itself is lost."""
    kind: Any = type(part)
    match shape := _shape(kind):
        case "plain":
            return ()
        case "dictionary":
            return _pairs_of_dicts(part, other if isinstance(other, dict) else {})
        case "set":
            return _pairs_of_sets(part, other)
        case "list":
            return zip(part, other if isinstance(other, list | tuple | deque) else repeat(None), strict=False)
    if type(other) is kind:
        return _pairs_of_objects(shape, part, other)
    return () if shape not in {"enum", "named tuple"} and is_equal(part, other) else None


def _pairs_of_objects(shape: Shape, part: Any, other: Any) -> Iterable[tuple[Any, Any]] | None:
    match shape:
        case "model":
            kept = _open_content(other)
            return [(value, kept.get(name)) for name, value in _open_content(part).items()]
        case "named tuple":
            return zip(part, other, strict=True)
        case "send":
            return [(part.arg, other.arg)]
        case "item":
            return [(part.value, other.value)]
        case "dataclass":
            names = [field.name for field in dataclasses.fields(part)]
            return [(getattr(part, name, None), getattr(other, name, None)) for name in names]
    # Of an array of numpy's, fields may have become bytes.
    return () if getattr(part, "dtype", None) == getattr(other, "dtype", None) else None


def _pairs_of_dicts(part: dict[Any, Any], other: dict[Any, Any]) -> Iterable[tuple[Any, Any]]:
    if all(map(_is_plain, _kinds(part))):
        return [(value, other.get(key)) for key, value in part.items()]
    # A key that is lost cannot be looked up: what came back of it stands in its place.
    return [
        pair for mine, its in zip(part.items(), other.items(), strict=False) for pair in zip(mine, its, strict=True)
    ]


def _pairs_of_sets(part: Any, other: Any) -> Iterable[tuple[Any, Any]] | None:
    objects = [one for one in part if not _is_plain(type(one))]
    if isinstance(other, set | frozenset):
        kept = {(type(one), one) for one in other}
        return [(one, None) for one in objects if (type(one), one) not in kept]
    # No set can hold what came back: an object's plain data, or the list that was a tuple.
    pairs = list(zip(part, other, strict=False)) if isinstance(other, list) else []
    return pairs if any(lost_types(*pair) for pair in pairs) else None


def _open_content(model: BaseModel) -> dict[str, Any]:
    """What its annotations leave open, and the fields that `extra="allow"` let in."""
    kind: Any = type(model)
    content = {name: model.__dict__.get(name) for name in open_fields(kind)}
    return {**content, **model.__pydantic_extra__} if model.__pydantic_extra__ else content


def _kinds(part: dict[Any, Any]) -> set[type]:
    """The types of its keys, and of what stands in those that are tuples."""
    kinds = set(map(type, part))
    return kinds | {type(one) for key in part if type(key) is tuple for one in key} if tuple in kinds else kinds


def _is_plain(kind: Any) -> bool:
    """Whether a key, or what a set holds, of this type comes back equal."""
    return _shape(kind) in {"plain", "list"}
