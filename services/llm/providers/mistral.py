"""Mistral: langchain-mistralai builds the payload, the wire is ours."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage
from langchain_mistralai import ChatMistralAI
from pydantic import SecretStr

from config.catalogue import ModelEntry
from core.http_client import HttpClient
from domain.errors import BadRequest
from domain.messages import VENDOR_FIELDS
from services.llm.history import restore
from services.llm.providers.chunk_reader import read_answer
from services.llm.providers.openai_compatible import openai_endpoint
from services.llm.providers.provider import Delta, ModelCall

OUR_NAME_TO_MISTRALS = {"seed": "random_seed", "max_completion_tokens": "max_tokens"}
WITHOUT_EFFECT = frozenset(
    {"metadata", "safety_identifier", "service_tier", "store", "stream_options", "top_logprobs", "user"}
)
"""OpenAI's parameters that Mistral refuses, and that change nothing in what it answers: left out."""
REFUSED = ("logprobs", "logit_bias", "verbosity", "web_search_options")
"""OpenAI's parameters that change the answer, and that Mistral has no counterpart for: refused by name."""

FIELDS_OF_THE_LAST_ANSWER = ("prefix",)
"""Mistral's own mark of an assistant message that it is to go on with; it takes it on the last message alone."""


@dataclass(slots=True)
class Mistral:
    """Mistral's own platform, or whatever answers at its base URL."""

    name: str
    http: HttpClient
    base_url: str
    api_key: SecretStr | None
    stall_timeout_s: float
    _adapters: dict[str, ChatMistralAI] = field(default_factory=dict)

    def unavailable_reason(self, model: ModelEntry, credential: Any = None) -> str | None:
        if self.api_key is None:
            return f"{model.id!r} needs the setting MISTRALAI_API_KEY (or MISTRAL_API_KEY)"
        return None

    def unsupported_parameter(self, model: ModelEntry, parameters: Mapping[str, Any]) -> str | None:
        for name in REFUSED:
            # An empty object, as `logit_bias: {}`, asks for nothing; `web_search_options: {}` asks for a search.
            if parameters.get(name) or (name == "web_search_options" and parameters.get(name) is not None):
                return f"{model.id!r} takes no {name!r}"
        return None

    def context_tokens(self, model: ModelEntry) -> int:
        return model.context.tokens

    def stream(self, call: ModelCall) -> AsyncGenerator[Delta]:
        endpoint = openai_endpoint(self.name, self.base_url, self.api_key, self.stall_timeout_s)
        return read_answer(self.http, endpoint, self._payload(call), whole=call.whole)

    def _payload(self, call: ModelCall) -> dict[str, Any]:
        if (reason := self.unsupported_parameter(call.model, call.parameters)) is not None:
            raise BadRequest(f"{reason}: leave it out, or name another model")
        adapter = self._adapters.get(call.model.id)
        if adapter is None:
            adapter = self._adapters[call.model.id] = _adapter(call.model.name_on_wire)
        messages, defaults = adapter._create_message_dicts(call.messages, call.stop)  # noqa: SLF001 - the vendor offers no public way to its payload
        restore(call.messages, messages, vendor_fields=False)
        if call.messages and isinstance(call.messages[-1], AIMessage):
            fields = call.messages[-1].additional_kwargs.get(VENDOR_FIELDS, {})
            messages[-1] |= {name: fields[name] for name in FIELDS_OF_THE_LAST_ANSWER if name in fields}
        return {"messages": messages, **defaults, **_parameters(call), "stream": not call.whole}


def _adapter(wire_name: str) -> ChatMistralAI:
    """The vendor's class as a builder of payloads: made without validation, so that it opens no connection pool.

    What the caller did not ask for is left to Mistral: the class would send a temperature and a top_p of its own.
    """
    nothing: Any = None
    return ChatMistralAI.model_construct(
        model=wire_name, client=nothing, async_client=nothing, temperature=nothing, top_p=nothing
    )


def _parameters(call: ModelCall) -> Mapping[str, Any]:
    renamed = {OUR_NAME_TO_MISTRALS.get(key, key): value for key, value in call.parameters.items()}
    if not call.model.capabilities.temperature:
        renamed.pop("temperature", None)
    if renamed.get("tool_choice") == "required":
        renamed["tool_choice"] = "any"
    return {key: value for key, value in renamed.items() if key not in WITHOUT_EFFECT and key not in REFUSED}
