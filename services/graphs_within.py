"""The graphs that a graph runs: its nodes, and what their functions and tools call."""

from collections.abc import Iterator
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from langchain_core.runnables import Runnable
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel._utils import get_function_nonlocals

MOST_HELD = 10_000
"""A container of more than this holds data, and not what runs."""


def graphs_within(graph: CompiledStateGraph[Any]) -> Iterator[CompiledStateGraph[Any]]:
    """The graph itself, and those that it runs, as far as they are there before it runs.

    LangGraph's own `get_subgraphs` knows one a node, and none that a tool calls.
    """
    seen: dict[int, Any] = {}
    waiting: list[Any] = [graph]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        # Held, for another object might have its id.
        seen[id(one)] = one
        if issubclass(type(one), CompiledStateGraph):
            yield one
        waiting += _held_by(one)


def _held_by(one: Any) -> list[Any]:
    # By the types themselves: a program's globals may hold objects that have a `__class__` of their own.
    kind = type(one)
    held: list[Any] = []
    if issubclass(kind, CompiledStateGraph):
        held = [node.bound for node in one.nodes.values()]
    elif issubclass(kind, FunctionType):
        held = _reached_by(one)
    elif issubclass(kind, MethodType):
        held = [one.__func__, *_values(one.__self__)]
    elif issubclass(kind, partial):
        held = [one.func, *one.args, *one.keywords.values()]
    elif issubclass(kind, dict | list | tuple | set | frozenset):
        if len(one) <= MOST_HELD:
            held = list(one.values() if issubclass(kind, dict) else one)
    elif issubclass(kind, Runnable):
        # Bindings, sequences, functions, tools: whatever has others run.
        held = _values(one)
    return held


def _values(holder: object) -> list[Any]:
    return list(getattr(holder, "__dict__", {}).values())


def _reached_by(function: FunctionType) -> list[Any]:
    """What a function refers to; of other functions, only those of the same package."""
    try:
        reached = get_function_nonlocals(function)
    except Exception:  # noqa: BLE001 - it reads attributes of the program's objects, which runs code of their own
        return []
    package = _package(function)
    return [one for one in reached if not issubclass(type(one), FunctionType) or _package(one) == package]


def _package(function: FunctionType) -> str:
    return str(function.__module__).partition(".")[0]
