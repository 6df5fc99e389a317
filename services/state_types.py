"""Which Python types a graph's state declares: only those are made again from what a checkpoint names."""

import dataclasses
import typing
from collections.abc import Iterator
from enum import Enum
from typing import Any, Literal, TypeVar, get_args, get_origin

from langgraph._internal._serde import build_serde_allowlist
from langgraph.graph.state import CompiledStateGraph, StateGraph
from pydantic import BaseModel
from typing_extensions import is_typeddict

TypeKey = tuple[str, ...]
"""A module and a name in it, as checkpoints have them."""

LIBRARIES = frozenset({"builtins", "enum", "langchain_core", "langgraph", "pydantic", "typing", "typing_extensions"})
"""A state that declares one of their types does not mean everything that was ever derived from it."""


def declared_types(graph: CompiledStateGraph[Any]) -> set[TypeKey]:
    """Those of the state, input, output, context and nodes' own schemas, of the graph and of the graphs in it."""
    inner = (one for _, one in graph.get_subgraphs(recurse=True))
    builders: list[StateGraph[Any, Any, Any, Any]] = [
        one.builder for one in (graph, *inner) if isinstance(one, CompiledStateGraph)
    ]
    found: set[TypeKey] = set()
    for builder in builders:
        schemas = [schema for schema in (*builder.schemas, builder.context_schema) if schema is not None]
        # What LangGraph itself collects, under LANGGRAPH_STRICT_MSGPACK alone.
        found |= build_serde_allowlist(schemas=schemas, channels=builder.channels)
        seen: list[Any] = []
        for schema in schemas:
            found |= {(one.__module__, one.__name__) for one in _classes(schema, seen)}
    return found


def _classes(hint: Any, seen: list[Any]) -> Iterator[type]:
    """The classes of data that a type hint leads to: through generics of any kind, aliases, fields and subclasses."""
    if any(hint is one for one in seen):
        return
    seen.append(hint)
    for part in _parts(hint):
        yield from _classes(part, seen)
    if not isinstance(hint, type):
        return
    if is_data(hint):
        yield hint
        if hint.__module__.partition(".")[0] not in LIBRARIES:
            derived: list[type] = type.__subclasses__(hint)
            for one in derived:
                yield from _classes(one, seen)
    if is_data(hint) or is_typeddict(hint) or hasattr(hint, "_fields"):
        for field in _hints(hint).values():
            yield from _classes(field, seen)


def _parts(hint: Any) -> Iterator[Any]:
    if isinstance(hint, TypeVar):
        yield from (hint.__bound__, *hint.__constraints__)
    elif get_origin(hint) is Literal:
        yield from (type(one) for one in get_args(hint) if isinstance(one, Enum))
    elif get_origin(hint) is not None:
        yield from (get_origin(hint), *get_args(hint))
    elif isinstance(hint, type) and issubclass(hint, BaseModel):
        generic = hint.__pydantic_generic_metadata__
        yield from (generic["origin"], *generic["args"])
    elif isinstance(hint, list | tuple):
        yield from hint  # The parameters of a Callable.
    else:
        # `type X = ...`, and NewType.
        yield from (getattr(hint, name) for name in ("__value__", "__supertype__") if hasattr(hint, name))


def is_data(kind: type) -> bool:
    """Whether a state can declare it."""
    return issubclass(kind, BaseModel | Enum) or dataclasses.is_dataclass(kind)


def _hints(kind: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except Exception:  # noqa: BLE001 - names that are there for type checkers alone
        return {}
