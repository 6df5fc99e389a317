"""Which objects inside a state's objects come back as plain data: those that the object around them does not name.

A pydantic model is written as its fields' plain values, and made again by its annotations: what stands in a field of
`Any` stays plain (a message's `artifact` and `additional_kwargs`). Other objects are written with the types in them.
"""

import dataclasses
import typing
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from functools import lru_cache
from itertools import islice
from types import NoneType
from typing import Any

import ormsgpack
from langchain_core.messages import BaseMessage
from langgraph.checkpoint.serde.jsonplus import _option
from langgraph.types import Send
from pydantic import BaseModel
from typing_extensions import is_typeddict

PLAIN = (NoneType, bool, int, float, str, bytes, bytearray)
SEQUENCES = (list, tuple, set, frozenset, deque)
OPEN = (Any, object)
MOST_DEPTH = 8
FIELDS_OF_MESSAGES = ("additional_kwargs", "artifact")
MOST_PARTS = 2_000
"""How many parts of an object are looked at: a warning is not worth the walk through a table."""

IsMadeAgain = Callable[[Any], bool]


def lost_types(value: Any, is_made_again: IsMadeAgain) -> Iterable[type]:
    """The types of the objects inside this one that the thread's next turn finds as plain data."""
    names = _open_fields(type(value))  # type: ignore[arg-type]  # Classes are hashable, which mypy doubts.
    waiting: list[tuple[Any, bool]] = []
    if names is None:
        waiting.extend(_parts(value))
    else:
        # The usual case, a message: most of these fields are empty, and the rest plain.
        content = value.__dict__
        for name, is_free in names:
            part = content.get(name)
            if part is not None and not (type(part) is dict and not part) and not _is_plain(part):
                waiting.append((part, is_free))
    return _lost(waiting, is_made_again) if waiting else ()


def _lost(waiting: list[tuple[Any, bool]], is_made_again: IsMadeAgain) -> set[type]:
    lost: set[type] = set()
    for _ in range(MOST_PARTS):
        if not waiting:
            break
        part, is_free = waiting.pop()
        kind = type(part)
        if isinstance(part, PLAIN) and not isinstance(part, Enum):
            continue
        if isinstance(part, dict):
            _add(waiting, part.values(), is_free)
        elif isinstance(part, SEQUENCES) and not hasattr(part, "_asdict"):
            _add(waiting, part, is_free)
        elif (is_free and _is_dumped(kind)) or not is_made_again(part):
            lost.add(kind)
        else:
            waiting.extend(_parts(part))
    return lost


def _add(waiting: list[tuple[Any, bool]], parts: Iterable[Any], is_free: bool) -> None:
    waiting.extend((part, is_free) for part in islice(parts, MOST_PARTS))


def _parts(value: Any) -> Iterable[tuple[Any, bool]]:
    """What an object holds that may be lost, each with whether its type is nowhere named."""
    if (names := _open_fields(type(value))) is not None:  # type: ignore[arg-type]  # As above.
        return [(value.__dict__.get(name), is_free) for name, is_free in names]
    if isinstance(value, Send):
        return [(value.arg, False)]
    if hasattr(value, "_asdict"):
        return [(value._asdict(), False)]
    if dataclasses.is_dataclass(value):
        return [(getattr(value, field.name, None), False) for field in dataclasses.fields(value)]
    return ()


def _is_plain(part: Any) -> bool:
    """Whether it is made of plain values alone. The encoder knows soonest."""
    try:
        ormsgpack.packb(part, option=_option)
    except Exception:  # noqa: BLE001 - it may be anything
        return False
    return True


def _is_dumped(kind: type) -> bool:
    """Whether pydantic writes it as a dictionary, wherever it finds it."""
    return issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind)


@lru_cache(maxsize=1024)
def _open_fields(kind: type) -> tuple[tuple[str, bool], ...] | None:
    """The fields of a model that may hold objects, each with whether its annotation leaves open of which type.

    `None` for what is no model. Of messages, those that nodes fill: the rest is a provider's JSON.
    """
    if not issubclass(kind, BaseModel):
        return None
    if issubclass(kind, BaseMessage):
        return tuple((name, True) for name in FIELDS_OF_MESSAGES if name in kind.model_fields)
    fields = ((name, _openness(field.annotation, 0)) for name, field in kind.model_fields.items())
    return tuple((name, openness) for name, openness in fields if openness is not None)


def _openness(hint: Any, depth: int) -> bool | None:
    """Whether an annotation leaves a type open; `None` where it makes everything again by itself."""
    inner = typing.get_args(hint)
    whole = typing.get_origin(hint) or hint
    # By identity: not every annotation can be hashed.
    if any(whole is one for one in OPEN) or isinstance(hint, typing.TypeVar) or depth > MOST_DEPTH:
        return True
    if not inner and any(whole is one for one in (dict, *SEQUENCES)):
        return True
    if whole is typing.Literal:
        return None
    if inner:
        return _widest(inner, depth)
    if is_typeddict(hint):
        return _widest(hint.__annotations__.values(), depth)
    return False if isinstance(hint, type) and _is_dumped(hint) else None


def _widest(hints: Iterable[Any], depth: int) -> bool | None:
    found = {_openness(one, depth + 1) for one in hints}
    return True if True in found else False if False in found else None
