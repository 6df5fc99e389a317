"""Which types come back from a checkpoint wherever they stand, and which fields of a model may hold others."""

import re
import types
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path, PosixPath, WindowsPath
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin, get_type_hints
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import BaseModel
from typing_extensions import is_typeddict

PLAIN = (types.NoneType, bool, int, float, str, bytes, bytearray, memoryview)
"""What is derived from one comes back as that, which is equal."""
SCALARS = frozenset(
    {
        *(date, datetime, time, timedelta, timezone, ZoneInfo, Decimal, UUID, PosixPath, WindowsPath, re.Pattern),
        *(IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network),
    }
)
"""They always come back; what is derived from one does not."""
_CLOSED = (*PLAIN, *SCALARS, Path, Enum)
_TRANSPARENT = (Union, types.UnionType, Required, NotRequired)
_MOST_DEPTH = 8


@lru_cache(maxsize=1024)
def open_fields(kind: type[BaseModel]) -> tuple[str, ...]:
    """The fields whose annotations do not make everything again that they allow, and those of models, which may."""
    return tuple(name for name, field in kind.model_fields.items() if not _is_closed(field.annotation, 0))


def _is_closed(hint: Any, depth: int) -> bool:
    """Whether an annotation allows plain values alone, and what it makes again from them."""
    origin, parts = get_origin(hint), get_args(hint)
    if depth > _MOST_DEPTH:
        return False
    if origin is Literal or hint is None or hint is Ellipsis:
        return True
    if origin is Annotated:
        return _is_closed(parts[0], depth)
    # By identity: not every annotation can be hashed.
    if any(origin is one for one in _TRANSPARENT) or (isinstance(origin, type) and issubclass(origin, Iterable)):
        return bool(parts) and all(_is_closed(part, depth + 1) for part in parts)
    if is_typeddict(hint):
        return all(_is_closed(part, depth + 1) for part in _hints(hint))
    return isinstance(hint, type) and origin is None and issubclass(hint, _CLOSED)


def _hints(kind: Any) -> Iterable[Any]:
    try:
        return get_type_hints(kind).values()
    except Exception:  # noqa: BLE001 - names that are there for type checkers alone
        return (Any,)
