"""How a graph's state is written down: whole where its types allow it, else as near as can be, and with a warning."""

import asyncio
import contextlib
import re
import sys
import warnings
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import ormsgpack
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_TYPES
from langgraph.checkpoint.serde.jsonplus import EXT_PYDANTIC_V2, JsonPlusSerializer, _msgpack_default, _option
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from core.json_form import as_json
from services.run_context import current_run
from services.state_fields import SCALARS
from services.state_forms import IN_A_KEY, StorableForms, loss, type_name
from services.state_losses import TEXT_KEYS, lost_keys, lost_types, may_lose
from services.state_types import is_data

OF_THEIR_OWN_FORM = (re.Pattern, _DeltaSnapshot)
"""Types that checkpoints do not name, or name a function for, and that are always made again."""
MESSAGES = frozenset({AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage})
"""Models that pydantic writes as their fields stand. Those derived from them may have serializers of their own."""


class StateSerializer(JsonPlusSerializer):
    """LangGraph's own, which never fails on a value: what it cannot write has its JSON form instead.

    The run that is going on is warned of what its thread's next turn will find changed.
    """

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        if obj is None or type(obj) is bytes or type(obj) is bytearray:
            return super().dumps_typed(obj)
        packed = self._packed(obj, TEXT_KEYS)
        if packed is None:
            with _unharmed():
                for kind in lost_keys(obj) if current_run.get() is not None else ():
                    _warn(loss(kind, IN_A_KEY))
            packed = self._packed(obj)
        return "msgpack", packed if packed is not None else self._packed_forms(obj)

    def _packed_forms(self, value: Any) -> bytes:
        with warnings.catch_warnings():
            # Pydantic expects no text in the field of an address, and makes one of it all the same.
            warnings.simplefilter("ignore", UserWarning)
            packed = self._packed(StorableForms(self._unpacked, _warn).of(value))
        return packed if packed is not None else self._pack(as_json(value), _option)

    def _packed(self, value: Any, option: int = _option) -> bytes | None:
        try:
            return self._pack(value, option)
        except asyncio.CancelledError:
            raise
        except BaseException:  # noqa: BLE001 - objects are asked for their content, which runs code of their own
            return None

    def _pack(self, value: Any, option: int) -> bytes:
        return ormsgpack.packb(value, default=self._default, option=option)

    def _unpacked(self, packed: bytes) -> Any:
        return self.loads_typed(("msgpack", packed))

    def _default(self, value: Any) -> str | ormsgpack.Ext:
        if type(value) in MESSAGES and (packed := _packed_message(value)) is not None:
            return ormsgpack.Ext(EXT_PYDANTIC_V2, packed)
        form = _msgpack_default(value)
        if current_run.get() is not None:
            with _unharmed():
                self._warn_of_losses(value, form)
        return form

    def _warn_of_losses(self, value: Any, form: str | ormsgpack.Ext) -> None:
        kind = type(value)
        if not self._is_made_again(value):
            _warn(loss(kind, "declare it in the state" if is_data(kind) else "its type is not kept"))
        elif kind not in SCALARS and may_lose(value, self._is_made_again):
            kept = self._unpacked(ormsgpack.packb(form))
            inside = f"it is kept inside {type_name(kind)}"
            for lost in lost_types(value, kept):
                is_whole = lost is kind and type(kept) is not kind
                _warn(loss(lost, "it cannot be made again of what it holds" if is_whole else inside))

    def _is_made_again(self, value: Any) -> bool:
        """Whether the type is one that is looked for when the state is read."""
        kind = type(value)
        key = (kind.__module__, kind.__name__)
        if key in SAFE_MSGPACK_TYPES or isinstance(value, OF_THEIR_OWN_FORM):
            return True
        if kind.__module__ == "numpy":
            return kind.__name__ == "ndarray" and value.dtype.kind not in "OV"
        if isinstance(value, datetime):
            return False
        allowed = self._allowed_msgpack_modules
        is_known = allowed is True or (allowed is not None and key in allowed)
        return is_known and getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind


def _packed_message(message: BaseMessage) -> bytes | None:
    """What LangGraph writes of a message whose fields are plain values; `None` for any other message.

    Pydantic would copy the fields first. The encoder stops at objects among them, and so is the look for these as well.
    """
    kind, extra = type(message), message.__pydantic_extra__
    fields = {**message.__dict__, **extra} if extra else message.__dict__
    written = (kind.__module__, kind.__name__, fields, "model_validate_json")
    try:
        return ormsgpack.packb(written, option=TEXT_KEYS)
    except Exception:  # noqa: BLE001 - it may be anything
        return _packed_with_plain_keys(written, fields)


def _packed_with_plain_keys(written: Any, fields: dict[str, Any]) -> bytes | None:
    try:
        packed = ormsgpack.packb(written, option=_option)
    except Exception:  # noqa: BLE001 - as above
        return None
    return None if lost_keys(fields) else packed


@contextlib.contextmanager
def _unharmed() -> Iterator[None]:
    """What is looked at may run code of its own: a warning fails no run."""
    try:
        yield
    except asyncio.CancelledError:
        raise
    except BaseException:  # noqa: BLE001, S110 - see the docstring
        pass


def _warn(warning: str, _: type | None = None) -> None:
    """Tell the caller of the run, once."""
    if (run := current_run.get()) is not None:
        run.warnings[warning] = None
