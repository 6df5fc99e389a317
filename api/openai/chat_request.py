"""A body of POST /v1/chat/completions as a run to be made: what is forwarded, what is refused, what is passed over."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from api.completion import MAX_LABEL_CHARS, MAX_LABELS
from api.deps import Services
from api.openai.body import A_FLAG, A_NAME, A_TEXT, AN_OBJECT, SOME_NAMES, a_number, a_whole_number, check_fields
from api.openai.messages import messages_of
from api.openai.model_name import Target, target_of
from api.openai.spark_headers import spark_credentials
from domain.errors import InvalidParameter
from domain.messages import Message
from domain.principals import Principal
from domain.runs import RunRequest
from services.llm.providers.spark_auth import SPARK_PROVIDERS

MAX_CHOICES = 8
MAX_TOOLS = 1_000
MAX_STOPS = 64
MAX_BIASES = 4_096
"""More of each than any provider takes; counted before each is looked at."""
WHOLE_64 = 2**63 - 1

FORWARDED = frozenset(
    {
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    }
)
"""OpenAI's parameters that a model is told. Those that nobody knows are passed over."""

TOOL_FIELDS = frozenset({"tools", "tool_choice", "parallel_tool_calls"})
NOT_FOR_AGENTS = ("tools", "tool_choice", "logprobs", "top_logprobs", "logit_bias", "stop", "seed", "prediction")
"""What changes an answer, and would change every inner call of an agent: refused by name rather than dropped."""


def _is_stop(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= MAX_STOPS and all(isinstance(text, str) for text in value)
    return isinstance(value, str)


def _is_tools(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MAX_TOOLS and all(_is_tool(tool) for tool in value)


def _is_tool(tool: Any) -> bool:
    match tool:
        case {"type": "function", "function": {"name": str(name)}}:
            return bool(name)
        case _:
            return False


def _is_tool_choice(value: Any) -> bool:
    match value:
        case "none" | "auto" | "required" | {"type": "function", "function": {"name": str()}}:
            return True
        case {"type": "allowed_tools", "allowed_tools": dict()}:
            return True
        case _:
            return False


def _is_response_format(value: Any) -> bool:
    match value:
        case {"type": "text" | "json_object"}:
            return True
        case {"type": "json_schema", "json_schema": {"name": str(), "schema": dict()}}:
            return True
        case _:
            return False


CHECKS = {
    "model": A_NAME,
    "stream": A_FLAG,
    "stream_options": AN_OBJECT,
    "n": a_whole_number(1, MAX_CHOICES),
    "temperature": a_number(0, 2),
    "top_p": a_number(0, 1),
    "frequency_penalty": a_number(-2, 2),
    "presence_penalty": a_number(-2, 2),
    "max_tokens": a_whole_number(1, 1_000_000),
    "max_completion_tokens": a_whole_number(1, 1_000_000),
    "seed": a_whole_number(-WHOLE_64 - 1, WHOLE_64),
    "logprobs": A_FLAG,
    "top_logprobs": a_whole_number(0, 20),
    "logit_bias": (
        lambda value: isinstance(value, dict) and len(value) <= MAX_BIASES,
        f"an object of at most {MAX_BIASES} tokens",
    ),
    "parallel_tool_calls": A_FLAG,
    "user": A_TEXT,
    "project_id": A_NAME,
    "sources": SOME_NAMES,
    "thread_id": A_NAME,
    "reasoning_effort": A_TEXT,
    "version": A_TEXT,
    "stop": (_is_stop, f"a string or a list of strings, at most {MAX_STOPS}"),
    "tools": (
        _is_tools,
        f'a list of at most {MAX_TOOLS} {{"type": "function", "function": {{"name", "parameters"}}}}',
    ),
    "tool_choice": (_is_tool_choice, '"none", "auto", "required" or {"type": "function", "function": {"name"}}'),
    "response_format": (
        _is_response_format,
        '{"type": "text"}, {"type": "json_object"} or {"type": "json_schema", "json_schema": {"name", "schema"}}',
    ),
    "modalities": (lambda value: value == ["text"], '["text"]: sound is not served here'),
    # Null is absent, and an empty list asks for nothing.
    "functions": (lambda value: value == [], "absent: OpenAI has replaced it with `tools`, which are served"),
    "function_call": (lambda _: False, "absent: OpenAI has replaced it with `tool_choice`, which is served"),
    "audio": (lambda _: False, "absent: sound is not served here"),
}


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What to run, how many times, and how to tell it."""

    run: RunRequest
    choices: int = 1
    include_usage: bool = False


async def chat_request(
    body: Mapping[str, Any],
    headers: Iterable[tuple[bytes, bytes]],
    services: Services,
    *,
    principal: Principal,
    request_id: str,
) -> ChatRequest:
    """Raises `InvalidParameter` naming the field that does not hold, and `UnknownModel` or `UnknownAgent`."""
    check_fields(body, CHECKS)
    if "model" not in body:
        raise InvalidParameter("model", "name a model, a route or an agent of GET /v1/models")
    target = target_of(body["model"], services.router.catalogue, services.agents)
    stream = body.get("stream", False)
    parameters = _parameters(body, target)
    messages = await messages_of(body.get("messages"), services.settings)
    asks_spark = _asks_spark(target, services)
    credentials = spark_credentials(headers, needed=asks_spark)
    if asks_spark and "version" in body:
        parameters["spark_version"] = body["version"]
    _check_capabilities(target, parameters, messages, services)
    return ChatRequest(
        run=RunRequest(
            agent=target.agent,
            messages=messages,
            **_for_agents(body, target),
            principal=principal,
            request_id=request_id,
            model=target.model,
            temperature=body.get("temperature"),
            max_tokens=body.get("max_completion_tokens", body.get("max_tokens")),
            metadata=_labels(body.get("metadata")),
            parameters=parameters,
            credentials={} if credentials is None else dict.fromkeys(SPARK_PROVIDERS, credentials),
            stream=stream,
        ),
        choices=body.get("n", 1),
        include_usage=stream and body.get("stream_options", {}).get("include_usage") is True,
    )


def _parameters(body: Mapping[str, Any], target: Target) -> dict[str, Any]:
    """What the model is told besides; an agent, which tells its models itself, is told only of its limits."""
    if target.agent is not None:
        _refuse_for_agents(body, target.agent)
        return {}
    parameters = {name: value for name, value in body.items() if name in FORWARDED}
    if "top_logprobs" in parameters and not parameters.get("logprobs"):
        raise InvalidParameter("top_logprobs", "it is given with `logprobs: true` only")
    if not parameters.get("tools"):
        # Clients send an empty list, or a choice among no tools, and providers refuse both.
        parameters = {name: value for name, value in parameters.items() if name not in TOOL_FIELDS}
        if body.get("tool_choice") not in (None, "none", "auto"):
            raise InvalidParameter("tool_choice", "there is no tool to choose: send `tools` too")
    return parameters


def _refuse_for_agents(body: Mapping[str, Any], agent: str) -> None:
    for name in NOT_FOR_AGENTS:
        value = body.get(name)
        if value is not None and value is not False and value not in ([], {}, "none", "auto"):
            raise InvalidParameter(name, f"agent {agent!r} takes none of its own: leave it out, or name a model")
    if body.get("response_format", {"type": "text"})["type"] != "text":
        raise InvalidParameter("response_format", f"agent {agent!r} answers in text: leave it out, or name a model")


def _asks_spark(target: Target, services: Services) -> bool:
    if target.model is None:
        return False
    return any(model.provider in SPARK_PROVIDERS for model in services.router.catalogue.candidates(target.model))


def _for_agents(body: Mapping[str, Any], target: Target) -> dict[str, Any]:
    """Ours, beside OpenAI's: the documents an agent answers from, and the conversation the server keeps for it.

    A model by itself has neither; what it does not know is passed over, as on all of this door.
    """
    if target.agent is None:
        return {}
    return {
        "project_id": body.get("project_id"),
        "sources": tuple(body.get("sources", ())),
        "thread_id": body.get("thread_id"),
    }


def _check_capabilities(
    target: Target, parameters: Mapping[str, Any], messages: tuple[Message, ...], services: Services
) -> None:
    """What no model behind the name can do is refused by the field's name, before anything is asked."""
    needed = {}
    if "tools" in parameters:
        needed["tools"] = "tools"
    if parameters.get("response_format", {}).get("type") == "json_schema":
        needed["json_schema"] = "response_format"
    if any(_has_image(message) for message in messages):
        needed["vision"] = "messages"
    if not needed or target.model is None:
        return
    candidates = services.router.catalogue.candidates(target.model)
    for capability, name in needed.items():
        if not any(getattr(model.capabilities, capability) for model in candidates):
            raise InvalidParameter(name, f"model {target.model!r} has no {capability} (see GET /models)")


def _has_image(message: Message) -> bool:
    return not isinstance(message.content, str) and any(part["type"] == "image_url" for part in message.content)


def _labels(value: Any) -> dict[str, str]:
    """The caller's own labels, for its traces; what is no label is passed over, as fields that nobody knows are."""
    if not isinstance(value, dict):
        return {}
    labels = {key: text for key, text in value.items() if isinstance(text, str)}
    if len(labels) > MAX_LABELS or any(len(key) + len(text) > MAX_LABEL_CHARS for key, text in labels.items()):
        raise InvalidParameter("metadata", f"at most {MAX_LABELS} labels of {MAX_LABEL_CHARS} characters each")
    return labels
