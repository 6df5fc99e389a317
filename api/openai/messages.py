"""The `messages` of a request, checked and made the house's."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from api.json_body import short_text
from config.settings import Settings
from domain.errors import BadRequest, InvalidParameter
from domain.messages import VENDOR_FIELDS, Content, Message, Role
from services.llm.history import CALL_FIELDS
from services.llm.images import image_as_data_uri

ROLES: Mapping[str, Role] = {
    "user": "user",
    "assistant": "assistant",
    "system": "system",
    # OpenAI's newer word for it. Its vendor class writes it so where a model wants it; others know only the older one.
    "developer": "system",
    "tool": "tool",
}
MAX_IMAGES = 20
OPENAIS_FIELDS = frozenset(
    {
        "role",
        "content",
        "name",
        "tool_calls",
        "tool_call_id",
        "annotations",
        "audio",
        "function_call",
        "parsed",
        "refusal",
    }
)
"""What OpenAI's own messages hold; anything else is a vendor's, and goes on to endpoints that are not OpenAI's."""
MAX_PARTS = 1_000
"""Of one message: parts of its content, or calls of tools."""


async def messages_of(value: Any, settings: Settings) -> tuple[Message, ...]:
    """The messages; images at addresses are fetched, so that a provider never is sent there."""
    if not isinstance(value, list) or not value:
        raise InvalidParameter("messages", "send a list of at least one message")
    if len(value) > settings.max_history_messages + 1:
        limit = settings.max_history_messages + 1
        raise InvalidParameter("messages", f"{len(value)} messages; at most {limit} (MAX_HISTORY_MESSAGES)")
    messages = tuple(_message(message, f"messages.{place}") for place, message in enumerate(value))
    chars = sum(map(_chars, messages))
    if chars > settings.max_message_chars:
        raise InvalidParameter(
            "messages", f"{chars} characters; at most {settings.max_message_chars} (MAX_MESSAGE_CHARS)"
        )
    return await _with_images_inside(messages, settings)


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise InvalidParameter(where, f"a message is an object with `role` and `content` (got {short_text(message)})")
    role = ROLES.get(role_name) if isinstance(role_name := message.get("role"), str) else None
    if role is None:
        raise InvalidParameter(f"{where}.role", f"{short_text(message.get('role'))} is none of {', '.join(ROLES)}")
    if role == "user" and isinstance(content := message.get("content"), str) and len(message) == 2:
        return Message(role, content)
    more = _more(message, role, where)
    return Message(role, _content(message.get("content"), role, where, may_be_absent="tool_calls" in more), more)


def _more(message: Mapping[str, Any], role: Role, where: str) -> dict[str, Any]:
    """What a role adds to its text, and the fields of a vendor's own; what OpenAI's SDK adds to its answers is not."""
    more: dict[str, Any] = {}
    if fields := {name: value for name, value in message.items() if name not in OPENAIS_FIELDS and value is not None}:
        more[VENDOR_FIELDS] = fields
    if isinstance(name := message.get("name"), str) and role != "tool":
        more["name"] = name
    if role == "tool":
        call_id = message.get("tool_call_id")
        if not isinstance(call_id, str) or not call_id:
            raise InvalidParameter(f"{where}.tool_call_id", "name the call that this is the result of")
        more["tool_call_id"] = call_id
    if role == "assistant" and (calls := message.get("tool_calls")):
        if not isinstance(calls, list):
            raise InvalidParameter(f"{where}.tool_calls", "send a list of calls")
        _check_count(calls, f"{where}.tool_calls")
        more["tool_calls"] = [_tool_call(call, f"{where}.tool_calls.{place}") for place, call in enumerate(calls)]
    return more


def _tool_call(call: Any, where: str) -> dict[str, Any]:
    match call:
        case {"id": str(call_id), "function": {"name": str(name), "arguments": str(arguments), **more_of_function}}:
            # A call without arguments is written as an empty string by some models, which others cannot read.
            function = {**more_of_function, "name": name, "arguments": arguments or "{}"}
            more = {key: value for key, value in call.items() if key not in CALL_FIELDS and value is not None}
            return {**more, "id": call_id, "type": "function", "function": function}
        case _:
            raise InvalidParameter(where, 'send {"id", "type": "function", "function": {"name", "arguments"}}')


def _content(content: Any, role: Role, where: str, *, may_be_absent: bool) -> Content:
    if isinstance(content, str):
        return content
    if content is None:
        if role == "assistant" or may_be_absent:
            return ""
        raise InvalidParameter(f"{where}.content", "it is missing")
    if not isinstance(content, list) or not content:
        raise InvalidParameter(f"{where}.content", f"send a string or a list of parts (got {short_text(content)})")
    _check_count(content, f"{where}.content")
    parts = [_part(part, role, f"{where}.content.{place}") for place, part in enumerate(content)]
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        return str(parts[0]["text"])
    return parts


def _check_count(parts: Sequence[Any], where: str) -> None:
    if len(parts) > MAX_PARTS:
        raise InvalidParameter(where, f"{len(parts)} parts; at most {MAX_PARTS}")


def _part(part: Any, role: Role, where: str) -> dict[str, Any]:
    match part:
        case {"type": "text", "text": str()}:
            return dict(part)
        case {"type": "refusal", "refusal": str(text)} if role == "assistant":
            return {"type": "text", "text": text}
        case {"type": "image_url", "image_url": {"url": str(url)} as image} if role == "user":
            detail = {"detail": image["detail"]} if image.get("detail") in ("low", "high", "auto") else {}
            return {**part, "image_url": {"url": url, **detail}}
        case {"type": "image_url"} if role != "user":
            raise InvalidParameter(where, "only messages of role user hold images")
        case {"type": str(kind)} if kind not in {"text", "image_url"}:
            raise InvalidParameter(where, f"parts of type {short_text(kind)} are not served; send text or image_url")
        case _:
            problem = 'send {"type": "text", "text"} or {"type": "image_url", "image_url": {"url"}}'
            raise InvalidParameter(where, problem)


def _chars(message: Message) -> int:
    if isinstance(message.content, str):
        own = len(message.content)
    else:
        own = sum(len(part["text"]) for part in message.content if part["type"] == "text")
    own += sum(len(call["function"]["arguments"]) for call in message.more.get("tool_calls", ()))
    fields = message.more.get(VENDOR_FIELDS)
    return own + len(repr(fields)) if fields else own


async def _with_images_inside(messages: tuple[Message, ...], settings: Settings) -> tuple[Message, ...]:
    """The same messages, each image as a data URI that has been looked at."""
    places = {
        f"messages.{number}.content.{place}.image_url": part["image_url"]
        for number, message in enumerate(messages)
        if not isinstance(message.content, str)
        for place, part in enumerate(message.content)
        if part["type"] == "image_url"
    }
    if not places:
        return messages
    if len(places) > MAX_IMAGES:
        raise InvalidParameter("messages", f"{len(places)} images; at most {MAX_IMAGES}")
    read = await asyncio.gather(*(_data_uri(image["url"], where, settings) for where, image in places.items()))
    inside = {id(image): {**image, "url": uri} for image, uri in zip(places.values(), read, strict=True)}
    return tuple(
        message
        if isinstance(message.content, str)
        else Message(message.role, _replaced(message.content, inside), message.more)
        for message in messages
    )


def _replaced(parts: Sequence[Mapping[str, Any]], inside: Mapping[int, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [
        {**part, "image_url": inside[id(part["image_url"])]} if part["type"] == "image_url" else part for part in parts
    ]


async def _data_uri(url: str, where: str, settings: Settings) -> str:
    try:
        return await image_as_data_uri(url, max_bytes=settings.max_image_bytes, timeout_s=settings.image_timeout_s)
    except BadRequest as error:
        raise InvalidParameter(where, error.message) from error
