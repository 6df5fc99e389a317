"""OpenAI, and every endpoint that speaks its format: langchain-openai builds the payload, the wire is ours."""

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from langchain_core.messages import BaseMessage
from langchain_openai import ChatOpenAI
from langchain_openai.chat_models.base import BaseChatOpenAI
from pydantic import SecretStr

from config.catalogue import ModelEntry
from core.http_client import HttpClient
from services.llm.history import restore
from services.llm.providers.chunk_reader import read_answer
from services.llm.providers.provider import Delta, ModelCall
from services.llm.providers.quirks import AS_OPENAI, Quirks
from services.llm.providers.wire import Endpoint


@dataclass(slots=True)
class OpenAICompatible:
    """One endpoint that speaks OpenAI's format.

    `is_openai` picks the vendor class that knows OpenAI's own renamings (`max_completion_tokens`, developer role).
    `missing` says why it cannot serve, when it cannot; `api_key` is absent where the endpoint asks for none.
    """

    name: str
    http: HttpClient
    base_url: str
    api_key: SecretStr | None
    stall_timeout_s: float
    is_openai: bool = False
    missing: Callable[[ModelEntry], str | None] = lambda _: None
    context_limit: int | None = None
    quirks: Quirks = AS_OPENAI
    _endpoint: Endpoint = field(init=False)
    _adapters: dict[str, BaseChatOpenAI] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if is_openai_itself(self.base_url):
            self.quirks = replace(self.quirks, refuses_unknown_fields=True)
        # Made once: what is learnt of it lasts as long as the process.
        self._endpoint = openai_endpoint(self.name, self.base_url, self.api_key, self.stall_timeout_s, self.quirks)

    def unavailable_reason(self, model: ModelEntry, credential: Any = None) -> str | None:
        return self.missing(model)

    def unsupported_parameter(self, model: ModelEntry, parameters: Mapping[str, Any]) -> str | None:
        return None  # What it does not take, it refuses itself.

    def context_tokens(self, model: ModelEntry) -> int:
        return min(model.context.tokens, self.context_limit or model.context.tokens)

    def stream(self, call: ModelCall) -> AsyncGenerator[Delta]:
        return stream_openai(self.http, self._endpoint, self._adapter(call.model), call)

    def _adapter(self, model: ModelEntry) -> BaseChatOpenAI:
        adapter = self._adapters.get(model.id)
        if adapter is None:
            adapter = self._adapters[model.id] = openai_adapter(model.name_on_wire, is_openai=self.is_openai)
        return adapter


def openai_adapter(wire_name: str, *, is_openai: bool) -> BaseChatOpenAI:
    """The vendor's class as a builder of payloads and reader of chunks; it never opens a connection.

    Its clients are given a placeholder, so that it builds none: the first would cost 117 ms of TLS set-up.
    """
    vendor_class = ChatOpenAI if is_openai else BaseChatOpenAI
    no_client = object()
    return vendor_class(
        model=wire_name,
        api_key=SecretStr("unused"),
        client=no_client,
        async_client=no_client,
        root_client=no_client,
        root_async_client=no_client,
        use_responses_api=False,
        max_retries=0,
    )


def is_openai_itself(base_url: str) -> bool:
    """Whether OpenAI, or Azure for it, answers at this address, and not a server that only speaks its format."""
    host = urlsplit(base_url).hostname or ""
    return host == "api.openai.com" or host.endswith((".api.openai.com", ".openai.azure.com"))


def openai_endpoint(
    provider: str, base_url: str, api_key: SecretStr | None, stall_timeout_s: float, quirks: Quirks = AS_OPENAI
) -> Endpoint:
    """Where chat completions of this base URL are asked."""
    url = f"{base_url.rstrip('/')}/chat/completions"
    return Endpoint(provider, url, bearer_headers(api_key), stall_timeout_s, quirks)


def stream_openai(
    http: HttpClient, endpoint: Endpoint, adapter: BaseChatOpenAI, call: ModelCall
) -> AsyncGenerator[Delta]:
    """One call over OpenAI's wire."""
    return read_answer(http, endpoint, openai_payload(adapter, call, endpoint.quirks), whole=call.whole)


def openai_payload(adapter: BaseChatOpenAI, call: ModelCall, quirks: Quirks = AS_OPENAI) -> dict[str, Any]:
    """The body of `/chat/completions`, streamed, with usage on its last chunk."""
    parameters = dict(call.parameters)
    parameters.pop("spark_version", None)  # Meant for a candidate that did not answer.
    if not call.model.capabilities.temperature:
        parameters.pop("temperature", None)
    # A node gives it as LangChain's argument, a door as OpenAI's parameter.
    stop = parameters.pop("stop", None) or call.stop
    messages: list[BaseMessage] = call.messages
    payload: dict[str, Any] = adapter._get_request_payload(messages, stop=stop, **parameters)  # noqa: SLF001 - the vendor offers no public way to its payload without its client
    restore(messages, payload["messages"], vendor_fields=not quirks.refuses_unknown_fields)
    payload["stream"] = not call.whole
    if call.whole or not quirks.takes_stream_options:
        payload.pop("stream_options", None)
    else:
        payload["stream_options"] = {"include_usage": True}
    return payload


def bearer_headers(api_key: SecretStr | None) -> Mapping[str, str]:
    """The headers of a streaming JSON request."""
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key.get_secret_value()}"
    return headers
