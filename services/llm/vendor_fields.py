"""What only a vendor knows of its messages and tool calls: gathered over the pieces of an answer, and passed on."""

from collections.abc import Mapping
from typing import Any

TEXT_FIELDS = frozenset({"reasoning_content", "reasoning", "refusal"})
"""Texts that come in pieces; two equal ones are two."""


def merged(gathered: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with those of a later piece: texts and lists go on, objects fill up, and other values change.

    Whatever a vendor sends, this does not raise, as LangChain's own way of adding messages may.
    """
    fields = dict(gathered)
    for name, value in more.items():
        before = fields.get(name)
        if isinstance(before, str) and isinstance(value, str):
            fields[name] = before if before == value and name not in TEXT_FIELDS else before + value
        elif isinstance(before, list) and isinstance(value, list):
            fields[name] = before + value
        elif isinstance(before, dict) and isinstance(value, dict):
            fields[name] = merged(before, value)
        else:
            fields[name] = value
    return fields


def with_fields(fragment: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """A tool call, or a piece of one, with the vendor's fields beside its own and inside its `function`."""
    return {**more, **fragment, "function": {**more.get("function", {}), **fragment["function"]}}
