"""What LangChain's messages leave out of a history: tool calls to the letter, reasoning, fields that vendors add.

A caller's assistant message keeps these in `additional_kwargs`, and so do the answers of models; `restore` puts them
back into the payload that a vendor's class has built.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, InvalidToolCall, ToolCall
from langchain_core.messages.tool import invalid_tool_call as create_invalid_tool_call
from langchain_core.messages.tool import tool_call as create_tool_call

from core.json_form import INT64_MIN, UINT64_MAX
from domain.messages import VENDOR_FIELDS, Message
from services.llm.providers.surrogates import joined, with_whole_characters

RAW_TOOL_CALLS = "tool_calls"
"""LangChain's own name for the calls as they stood on the wire."""

REASONING = ("reasoning", "reasoning_content")
"""Some endpoints know one name alone. A model's own has the other one beside it, since LangChain looks there."""
PART_FIELDS: Mapping[str, frozenset[str]] = {
    "text": frozenset({"type", "text"}),
    "image_url": frozenset({"type", "image_url"}),
}
CALL_FIELDS = frozenset({"id", "type", "function"})


def assistant_message(message: Message) -> AIMessage:
    """A caller's assistant message. Arguments that are no object make an invalid call; the conversation goes on."""
    raw = message.more.get(RAW_TOOL_CALLS) or ()
    calls, invalid = parse_tool_calls(raw)
    kept = {name: message.more[name] for name in (RAW_TOOL_CALLS, VENDOR_FIELDS) if message.more.get(name)}
    content: Any = message.content
    return AIMessage(
        content=content,
        name=message.more.get("name"),
        tool_calls=calls,
        invalid_tool_calls=invalid,
        additional_kwargs=kept,
    )


def parse_tool_calls(raw: Sequence[Mapping[str, Any]]) -> tuple[list[ToolCall], list[InvalidToolCall]]:
    """The calls whose arguments are an object, and the others with their arguments as they came."""
    calls: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    for each in raw:
        function = each["function"]
        name, text = function["name"], function["arguments"]
        arguments = _parsed(text)
        if isinstance(arguments, dict):
            calls.append(create_tool_call(name=name, args=arguments, id=each["id"]))
        else:
            problem = "the arguments are not a JSON object"
            invalid.append(create_invalid_tool_call(name=name, args=text, id=each["id"], error=problem))
    return calls, invalid


def restore(messages: Sequence[BaseMessage], sent: Sequence[dict[str, Any]], *, vendor_fields: bool) -> None:
    """Put back into `sent`, one object a message, what the vendor's class left out or spelt its own way.

    `vendor_fields`: whether the endpoint takes fields that OpenAI does not know; OpenAI itself refuses them.
    """
    for message, out in zip(messages, sent, strict=True):
        if message.additional_kwargs:
            _restore_tool_calls(message, out, vendor_fields=vendor_fields)
            if vendor_fields:
                out.update(_extra_fields(message))
        if not vendor_fields and isinstance(out.get("content"), list):
            out["content"] = [_known_part(part) for part in out["content"]]


def _restore_tool_calls(message: BaseMessage, out: dict[str, Any], *, vendor_fields: bool) -> None:
    """The calls as they came, in their order: respelling them would break the provider's cache of the prompt.

    Only where they still are the message's calls: a node may have changed them.
    """
    raw = message.additional_kwargs.get(RAW_TOOL_CALLS)
    if not isinstance(message, AIMessage) or not isinstance(raw, list) or not _are_its_calls(raw, message):
        return
    # The vendor's class writes the valid calls first; the ids that it wrote may be of the vendor's own form.
    ids = [call["id"] for call in (*message.tool_calls, *message.invalid_tool_calls)]
    written = {each: call["id"] for each, call in zip(ids, out.get("tool_calls") or (), strict=False)}
    out["tool_calls"] = [
        {
            **(call if vendor_fields else _known_call(call)),
            "id": written.get(call["id"], call["id"]),
            "type": call.get("type") or "function",
        }
        for call in raw
    ]


def _are_its_calls(raw: list[Any], message: AIMessage) -> bool:
    try:
        calls, invalid = parse_tool_calls(raw)
        return _essence(calls) == _essence(message.tool_calls) and _essence(invalid) == _essence(
            message.invalid_tool_calls
        )
    except (KeyError, TypeError, ValueError, RecursionError):
        return False


def _essence(calls: Sequence[ToolCall] | Sequence[InvalidToolCall]) -> list[tuple[Any, Any, Any]]:
    return [(call["id"], call["name"], _comparable(call["args"])) for call in calls]


def _comparable(value: Any) -> Any:
    """The value in a form that two readings of the same letters share: LangChain's sum of an answer's chunks keeps
    halves of characters, a thread keeps numbers of more than 64 bits as their text, and NaN equals nothing."""
    match value:
        case str():
            return joined(value)
        case dict():
            return {_comparable(key): _comparable(each) for key, each in value.items()}
        case list():
            return [_comparable(each) for each in value]
        case int() if not INT64_MIN <= value <= UINT64_MAX:
            return str(value)
        case float() if not math.isfinite(value):
            return str(value)
        case _:
            return value


def _known_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = {name: call["function"][name] for name in ("name", "arguments")}
    return {**{name: value for name, value in call.items() if name in CALL_FIELDS}, "function": function}


def _extra_fields(message: BaseMessage) -> dict[str, Any]:
    """Fields of the caller's or the vendor's own, and the reasoning that led to tool calls.

    Models that think refuse the calls without it, also where it is empty. A model's other reasoning stays out: it has
    served its purpose.
    """
    kept = message.additional_kwargs
    extra: dict[str, Any] = {}
    if isinstance(message, AIMessage) and (message.tool_calls or message.invalid_tool_calls):
        given = sorted((name for name in REASONING if isinstance(kept.get(name), str)), key=lambda name: not kept[name])
        extra = {name: kept[name] for name in given[:1]}
    fields = kept.get(VENDOR_FIELDS)
    return {**extra, **fields} if isinstance(fields, dict) else extra


def _known_part(part: Any) -> Any:
    known = PART_FIELDS.get(str(part.get("type"))) if isinstance(part, dict) else None
    if known is None or part.keys() <= known:
        return part
    return {name: value for name, value in part.items() if name in known}


def _parsed(text: str) -> Any:
    """The value that the text spells; `None` for text that spells none."""
    try:
        # Half a character may be spelt in the arguments' own escapes too.
        return with_whole_characters(json.loads(text or "{}", strict=False))
    except (ValueError, RecursionError):
        return None
