"""iFlytek Spark: one call as the one frame that asks it."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from domain.errors import BadRequest
from services.llm.images import read_data_uri
from services.llm.providers.provider import ModelCall
from services.llm.providers.spark_auth import SparkRoute
from services.llm.providers.surrogates import json_of

LOWEST_TEMPERATURE = 0.01
"""The vendor takes (0, 1]: the nearest to 0 that two decimals can say."""

DEFAULT_MAX_TOKENS = 2048
TOP_K_RANGE = (1, 6)
MAX_IMAGE_BYTES = 4 * 1024 * 1024
SPARK_IMAGE_TYPES = frozenset({"image/jpeg", "image/png"})
MAX_UID_CHARS = 32

HAS_NO_WORD_FOR = ("functions", "stop", "seed", "logprobs", "top_logprobs", "logit_bias")
CANNOT_DO = ("tools", "response_format", *HAS_NO_WORD_FOR)
"""What changes the answer and the vendor's WebSocket has no word for: refused by name rather than dropped."""

ROLES = {SystemMessage: "system", HumanMessage: "user", AIMessage: "assistant"}
Turn = dict[str, str]


def question_frame(call: ModelCall, route: SparkRoute, app_id: str) -> str:
    """The frame; raises `BadRequest` for what this model cannot be asked."""
    frame = {
        # A user of its own for each question: the vendor refuses a second connection of the same one (10006).
        "header": {"app_id": app_id, "uid": uuid4().hex[:MAX_UID_CHARS]},
        "parameter": {"chat": {"domain": route.domain, **_chat_parameters(call)}},
        "payload": {"message": {"text": _text(call, route)}},
    }
    return json_of(frame).decode()


def max_tokens_of(call: ModelCall) -> int:
    """How long the answer may be: what was asked for, at most what the catalogue knows the model to write."""
    asked = asked_max_tokens(call)
    if asked is not None:
        return asked
    return min(DEFAULT_MAX_TOKENS, call.model.context.max_output_tokens or DEFAULT_MAX_TOKENS)


def asked_max_tokens(call: ModelCall) -> int | None:
    """The same, `None` where nobody asked."""
    asked = call.parameters.get("max_tokens")
    if asked is None:
        asked = call.parameters.get("max_completion_tokens")
    if asked is None:
        return None
    if not isinstance(asked, int) or isinstance(asked, bool) or asked < 1:
        raise BadRequest(f"max_tokens {asked!r} must be a whole number of 1 or more")
    return min(asked, call.model.context.max_output_tokens or asked)


def check_can_do(call: ModelCall, cannot: Sequence[str]) -> None:
    """Raises `BadRequest` naming the first of these parameters that asks for something."""
    asked = {**call.parameters, "stop": call.stop or call.parameters.get("stop")}
    if (reason := unsupported(call.model.id, asked, cannot)) is not None:
        raise BadRequest(f"{reason}: leave it out, or name another model")


def unsupported(model: str, parameters: Mapping[str, Any], cannot: Sequence[str]) -> str | None:
    """The first of these parameters that has an effect, in words; `None` when none has."""
    for name in cannot:
        if parameters.get(name) and parameters[name] != {"type": "text"}:
            return f"{model!r} cannot do {name!r}"
    return None


def sampling_of(call: ModelCall) -> dict[str, Any]:
    """Temperature and `top_k`, brought into the vendor's ranges; absent where nobody asked."""
    sampling: dict[str, Any] = {}
    if (temperature := _number(call.parameters, "temperature")) is not None and call.model.capabilities.temperature:
        sampling["temperature"] = min(max(temperature, LOWEST_TEMPERATURE), 1.0)
    if (top_k := _number(call.parameters, "top_k")) is not None:
        least, most = TOP_K_RANGE
        sampling["top_k"] = min(max(int(top_k), least), most)
    return sampling


def text_of(message: BaseMessage, model: str) -> str:
    """The message's text; raises `BadRequest` when there is an image in it."""
    text, images = _parts_of(message, model)
    if images:
        raise _takes_no_images(model)
    return text


def _chat_parameters(call: ModelCall) -> dict[str, Any]:
    check_can_do(call, CANNOT_DO)
    return {"max_tokens": max_tokens_of(call), **sampling_of(call)}


def _number(parameters: Mapping[str, Any], name: str) -> float | None:
    value = parameters.get(name)
    if value is None:
        return None
    # Also refuses what is not a number though it is a float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        raise BadRequest(f"{name} {value!r} must be a number")
    return value


def _text(call: ModelCall, route: SparkRoute) -> list[Turn]:
    """The conversation in the vendor's words: system first, the user last, the image before everything."""
    turns: list[Turn] = []
    system: list[str] = []
    images: list[str] = []
    for message in call.messages:
        role = _role_of(message, call.model.id)
        text, found = _parts_of(message, call.model.id)
        images += found
        if role == "system" and not route.takes_system:
            system.append(text)
        else:
            turns.append({"role": role, "content": text})
    if not turns or turns[-1]["role"] != "user":
        raise BadRequest(
            f"the last message to {call.model.id!r} must be the user's: end the conversation with a question"
        )
    if system:
        # Only Max and Ultra know the role, elsewhere the vendor refuses it: the text leads the first question.
        first = next(turn for turn in turns if turn["role"] == "user")
        first["content"] = "\n\n".join([*system, first["content"]])
    if route.takes_image:
        return [_image_turn(images, call.model.id), *_alternating(turns, call.model.id)]
    if images:
        raise _takes_no_images(call.model.id)
    return turns


def _takes_no_images(model: str) -> BadRequest:
    return BadRequest(f"{model!r} takes no images: name the model 'vision' for them")


def _role_of(message: BaseMessage, model: str) -> str:
    for kind, role in ROLES.items():
        if isinstance(message, kind) and not (isinstance(message, AIMessage) and message.tool_calls):
            return role
    raise BadRequest(f"{model!r} cannot do 'tools': leave out messages of or to a tool, or name another model")


def _parts_of(message: BaseMessage, model: str) -> tuple[str, list[str]]:
    """The message's text, and its images' data URIs."""
    if isinstance(message.content, str):
        return message.content, []
    texts: list[str] = []
    images: list[str] = []
    for part in message.content:
        match part:
            case str():
                texts.append(part)
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "image_url", "image_url": {"url": str(url)}} | {"type": "image_url", "image_url": str(url)}:
                images.append(url)
            case _:
                kind = part.get("type") if isinstance(part, dict) else None
                raise BadRequest(f"{model!r} takes text and 'image_url' parts, not {str(kind)[:40]!r}")
    return "\n".join(texts), images


def _image_turn(images: Sequence[str], model: str) -> Turn:
    if len(images) != 1:
        raise BadRequest(f"{model!r} takes one image, not {len(images)}: send exactly one 'image_url' part")
    image = read_data_uri(images[0], max_bytes=MAX_IMAGE_BYTES, content_types=SPARK_IMAGE_TYPES)
    _, _, encoded = image.data_uri.partition(",")
    return {"role": "user", "content": encoded, "content_type": "image"}


def _alternating(turns: Sequence[Turn], model: str) -> list[Turn]:
    """User and assistant in turn, the user first: neighbours of one role become one."""
    merged: list[Turn] = []
    for turn in turns:
        if merged and merged[-1]["role"] == turn["role"]:
            both = (merged[-1]["content"], turn["content"])
            merged[-1]["content"] = "\n\n".join(filter(None, both))
        else:
            merged.append({**turn, "content_type": "text"})
    if merged[0]["role"] != "user":
        raise BadRequest(f"the first message to {model!r} must be the user's")
    if not merged[-1]["content"].strip():
        raise BadRequest(f"{model!r} needs a question beside the image: add a 'text' part")
    return merged
