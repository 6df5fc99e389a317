"""What stands in a state for values that cannot be written: as near as can be, and with a warning."""

import asyncio
import contextlib
import copy
import dataclasses
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

from langgraph.checkpoint.serde.jsonplus import _msgpack_enc
from langgraph.types import Send
from pydantic import BaseModel

from core.json_form import INT64_MIN, MAX_DEPTH, UINT64_MAX, as_json, whole_characters
from services.state_losses import is_equal, lost_types

IN_A_KEY = "it is a key of a dictionary"
Warn = Callable[[str, type | None], None]
"""Takes a warning, and the type that is lost."""


@dataclasses.dataclass(frozen=True, slots=True)
class StorableForms:
    """Finds them part by part: what LangGraph's encoder takes is left as it is."""

    unpacked: Callable[[bytes], Any]
    warn: Warn
    keeps_sets: bool = True

    def of(self, value: Any, depth: int = 0) -> Any:
        """The same value with other forms for those of its parts that cannot be written."""
        if depth > MAX_DEPTH:
            self.warn(f"what is nested more than {MAX_DEPTH} deep is not kept in the thread", None)
            return as_json(value)
        try:
            return self._of_part(value, depth)
        except asyncio.CancelledError:
            raise
        except BaseException:  # noqa: BLE001 - reading an object runs code of its own
            return self._in_json(value)

    def with_forms(self, value: Any, depth: int) -> Any:
        """An object of the same type with the forms of its parts; a list for a set that cannot hold them."""
        if isinstance(value, BaseModel):
            return value.model_copy(update={name: self.of(part, depth + 1) for name, part in value})
        if isinstance(value, tuple | set | frozenset | deque):
            return self._collection(type(value), [self.of(part, depth + 1) for part in value])
        if isinstance(value, Send):
            return Send(value.node, self.of(value.arg, depth + 1), timeout=value.timeout)
        if not _has_parts(value):
            raise TypeError
        changed = copy.copy(value)
        for field in dataclasses.fields(changed):
            object.__setattr__(changed, field.name, self.of(getattr(changed, field.name), depth + 1))
        return changed

    def _of_part(self, value: Any, depth: int) -> Any:
        match value:
            case None | bool():
                return value
            case float() | str() | bytes() | int() if not isinstance(value, Enum):
                return self._plain(value)
            case dict():
                return {self._key(key): self.of(part, depth + 1) for key, part in value.items()}
            case list() | tuple() if not hasattr(value, "_asdict"):
                return [self.of(part, depth + 1) for part in value]
            case _:
                return self._of_object(value, depth)

    def _of_object(self, value: Any, depth: int) -> Any:
        if (self.keeps_sets or not _has_parts(value)) and _packed(value) is not None:
            return value
        # Pydantic writes no set of models, however it is kept: what holds one keeps a list.
        for keeps_sets in (True, False) if self.keeps_sets else (False,):
            lost: list[tuple[str, type | None]] = []
            with contextlib.suppress(Exception):
                forms = dataclasses.replace(self, warn=lambda *one, lost=lost: lost.append(one), keeps_sets=keeps_sets)
                changed = forms.with_forms(value, depth)
                if (packed := _packed(changed)) is not None:
                    self._warn_of_what_is_lost(lost, value, self.unpacked(packed))
                    return changed
        return self._in_json(value)

    def _warn_of_what_is_lost(self, lost: list[tuple[str, type | None]], value: Any, kept: Any) -> None:
        """A model may make a part again from its form: an address from its text, say."""
        kinds = lost_types(value, kept) if lost else set()
        for warning, kind in lost:
            if kind in kinds or (kind is None and not is_equal(kept, value)):
                self.warn(warning, kind)

    def _collection(self, kind: Any, parts: list[Any]) -> Any:
        if hasattr(kind, "_make"):
            return kind._make(parts)
        if self.keeps_sets or issubclass(kind, deque):
            with contextlib.suppress(TypeError):
                return kind(parts)
        self.warn(f"{type_name(kind)} cannot be kept in the thread: a list is", kind)
        return parts

    def _in_json(self, value: Any) -> Any:
        self.warn(f"{type_name(type(value))} cannot be kept in the thread: its JSON form is", type(value))
        return as_json(value)

    def _plain(self, value: float | str | bytes) -> Any:
        """The value of a plain type's own: encoders refuse or misread what is derived from one (`numpy.float64`)."""
        match value:
            case float():
                return float.__float__(value)
            case str():
                return whole_characters(value)
            case bytes():
                return bytes(memoryview(value))
            case _:
                if not _is_small(int.__int__(value)):
                    self.warn("a whole number of more than 64 bits is kept as text in the thread", None)
                return as_json(value)

    def _key(self, key: Any) -> Any:
        """A dictionary's key as encoders take it: plain values, and tuples of them, else text."""
        match key:
            case None | bool():
                return key
            case float() | str() | bytes() | int() if not isinstance(key, Enum):
                return self._plain(key)
            case tuple() if not hasattr(key, "_asdict"):
                return tuple(map(self._key, key))
        self.warn(loss(type(key), IN_A_KEY), type(key))
        form = as_json(key)
        return form if form is None or type(form) in {str, float, bool} or _is_small(form) else str(form)


def type_name(kind: type) -> str:
    """As warnings name it."""
    return f"{kind.__module__}.{kind.__qualname__}"


def loss(kind: type, why: str) -> str:
    """The warning of an object that is not made again."""
    return f"{type_name(kind)} comes back as plain data in the thread's next turn: {why}"


def _has_parts(value: Any) -> bool:
    kind: Any = type(value)
    return isinstance(value, BaseModel | Send | tuple | set | frozenset | deque) or dataclasses.is_dataclass(kind)


def _packed(value: Any) -> bytes | None:
    try:
        return _msgpack_enc(value)
    except asyncio.CancelledError:
        raise
    except BaseException:  # noqa: BLE001 - as above
        return None


def _is_small(number: Any) -> bool:
    return type(number) is int and INT64_MIN <= number <= UINT64_MAX
