"""How a graph's state is written down: whole where its types allow it, else as near as can be, and with a warning."""

import asyncio
import contextlib
import copy
import dataclasses
import re
import sys
from collections import deque
from datetime import datetime
from enum import Enum
from typing import Any

import ormsgpack
from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_TYPES
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer, _msgpack_default, _option
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from pydantic import BaseModel

from core.json_form import INT64_MIN, MAX_DEPTH, UINT64_MAX, as_json, whole_characters
from services.run_context import current_run
from services.state_losses import lost_types

OF_THEIR_OWN_FORM = (datetime, re.Pattern, _DeltaSnapshot)
"""Types that checkpoints do not name, or name a function for, and that are always made again. So are numpy's arrays."""


class StateSerializer(JsonPlusSerializer):
    """LangGraph's own, which never fails on a value: what it cannot write has its JSON form instead.

    The run that is going on is warned of what its thread's next turn will find changed.
    """

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        if obj is None or type(obj) is bytes or type(obj) is bytearray:
            return super().dumps_typed(obj)
        if (packed := self._packed(obj)) is None and (packed := self._packed(self._storable(obj, 0))) is None:
            packed = self._pack(as_json(obj))
        return "msgpack", packed

    def _packed(self, value: Any) -> bytes | None:
        try:
            return self._pack(value)
        except asyncio.CancelledError:
            raise
        except BaseException:  # noqa: BLE001 - objects are asked for their content, which runs code of their own
            return None

    def _pack(self, value: Any) -> bytes:
        return ormsgpack.packb(value, default=self._default, option=_option)

    def _default(self, value: Any) -> str | ormsgpack.Ext:
        form = _msgpack_default(value)
        if isinstance(form, ormsgpack.Ext):
            if not self._is_made_again(value):
                _warn_of_loss(type(value), "declare it in the state")
                return form
            try:
                for kind in lost_types(value, self._is_made_again):
                    _warn_of_loss(kind, f"it is kept inside {_name(type(value))}")
            except Exception:  # noqa: BLE001 - as above; a warning fails no run
                return form
        return form

    def _is_made_again(self, value: Any) -> bool:
        kind = type(value)
        key = (kind.__module__, kind.__name__)
        if key in SAFE_MSGPACK_TYPES or isinstance(value, OF_THEIR_OWN_FORM) or kind.__module__ == "numpy":
            return True
        allowed = self._allowed_msgpack_modules
        is_known = allowed is True or (allowed is not None and key in allowed)
        return is_known and getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind

    def _storable(self, value: Any, depth: int) -> Any:
        """The same value with other forms for those of its parts that cannot be written."""
        if depth > MAX_DEPTH:
            _warn(f"what is nested more than {MAX_DEPTH} deep is not kept in the thread")
            return as_json(value)
        try:
            return self._storable_part(value, depth)
        except asyncio.CancelledError:
            raise
        except BaseException:  # noqa: BLE001 - as above
            _warn(f"{_name(type(value))} cannot be kept in the thread: its JSON form is")
            return as_json(value)

    def _storable_part(self, value: Any, depth: int) -> Any:
        match value:
            case None | bool():
                return value
            case float() | str() | bytes() | int() if not isinstance(value, Enum):
                return _plain(value)
            case dict():
                return {_key(key): self._storable(part, depth + 1) for key, part in value.items()}
            case list() | tuple() | set() | frozenset() | deque():
                return [self._storable(part, depth + 1) for part in value]
            case _:
                return self._storable_object(value, depth)

    def _storable_object(self, value: Any, depth: int) -> Any:
        if self._packed(value) is not None:
            return value
        with contextlib.suppress(Exception):
            changed = self._with_storable_fields(value, depth)
            if self._packed(changed) is not None:
                return changed
        _warn(f"{_name(type(value))} cannot be kept in the thread: its JSON form is")
        return as_json(value)

    def _with_storable_fields(self, value: Any, depth: int) -> Any:
        if isinstance(value, BaseModel):
            return value.model_copy(update={name: self._storable(part, depth + 1) for name, part in value})
        if not dataclasses.is_dataclass(value) or isinstance(value, type):
            raise TypeError
        changed = copy.copy(value)
        for field in dataclasses.fields(changed):
            object.__setattr__(changed, field.name, self._storable(getattr(changed, field.name), depth + 1))
        return changed


def _plain(value: float | str | bytes) -> Any:
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
                _warn("a whole number of more than 64 bits is kept as text in the thread")
            return as_json(value)


def _key(key: Any) -> Any:
    """A dictionary's key as encoders take it: a plain value, else text."""
    form = as_json(key)
    return form if form is None or type(form) in {str, float, bool} or _is_small(form) else str(form)


def _is_small(number: Any) -> bool:
    return type(number) is int and INT64_MIN <= number <= UINT64_MAX


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _warn_of_loss(kind: type, why: str) -> None:
    _warn(f"{_name(kind)} comes back as plain data in the thread's next turn: {why}")


def _warn(warning: str) -> None:
    """Tell the caller of the run, once."""
    if (run := current_run.get()) is not None:
        run.warnings[warning] = None
