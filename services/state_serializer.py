"""How a graph's state is written down: whole where its types allow it, else as near as can be, and with a warning."""

import contextlib
import copy
import dataclasses
import re
import sys
from collections import deque
from datetime import datetime
from typing import Any

import ormsgpack
from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_TYPES
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer, _msgpack_default, _option
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from pydantic import BaseModel

from core.json_form import INT64_MIN, MAX_DEPTH, UINT64_MAX, as_json
from services.run_context import current_run

OF_THEIR_OWN_FORM = (datetime, re.Pattern, _DeltaSnapshot)
"""Types that checkpoints do not name, or name a function for, and that are always made again. So are numpy's arrays."""


class StateSerializer(JsonPlusSerializer):
    """LangGraph's own, which never fails on a value: what it cannot write has its JSON form instead.

    The run that is going on is warned of what its thread's next turn will find changed.
    """

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        if obj is None or isinstance(obj, bytes | bytearray):
            return super().dumps_typed(obj)
        try:
            return "msgpack", self._pack(obj)
        except Exception:  # noqa: BLE001 - objects are asked for their content, which runs code of their own
            return "msgpack", self._pack(self._storable(obj, 0))

    def _pack(self, value: Any) -> bytes:
        return ormsgpack.packb(value, default=self._default, option=_option)

    def _default(self, value: Any) -> str | ormsgpack.Ext:
        form = _msgpack_default(value)
        if isinstance(form, ormsgpack.Ext) and not self._is_made_again(value):
            _warn(f"{_name(type(value))} comes back as plain data in the thread's next turn: declare it in the state")
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
        match value:
            case None | bool() | float() | str() | bytes():
                return value
            case int():
                if not _is_small(value):
                    _warn("a whole number of more than 64 bits is kept as text in the thread")
                return as_json(value)
            case dict():
                return {_key(key): self._storable(part, depth + 1) for key, part in value.items()}
            case list() | tuple() | set() | frozenset() | deque():
                return [self._storable(part, depth + 1) for part in value]
            case _:
                return self._storable_object(value, depth)

    def _storable_object(self, value: Any, depth: int) -> Any:
        if self._can_pack(value):
            return value
        with contextlib.suppress(Exception):
            changed = self._with_storable_fields(value, depth)
            if self._can_pack(changed):
                return changed
        _warn(f"{_name(type(value))} cannot be kept in the thread: its JSON form is")
        return as_json(value)

    def _can_pack(self, value: Any) -> bool:
        try:
            self._pack(value)
        except Exception:  # noqa: BLE001 - as above
            return False
        return True

    def _with_storable_fields(self, value: Any, depth: int) -> Any:
        if isinstance(value, BaseModel):
            return value.model_copy(update={name: self._storable(part, depth + 1) for name, part in value})
        if not dataclasses.is_dataclass(value) or isinstance(value, type):
            raise TypeError
        changed = copy.copy(value)
        for field in dataclasses.fields(changed):
            object.__setattr__(changed, field.name, self._storable(getattr(changed, field.name), depth + 1))
        return changed


def _key(key: Any) -> Any:
    return key if isinstance(key, str | float | bool | None) or _is_small(key) else str(as_json(key))


def _is_small(key: Any) -> bool:
    return isinstance(key, int) and INT64_MIN <= key <= UINT64_MAX


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _warn(warning: str) -> None:
    """Tell the caller of the run, once."""
    if (run := current_run.get()) is not None:
        run.warnings[warning] = None
