"""iFlytek Spark X1, over HTTP: OpenAI's wire, with the vendor's own codes and no finish reason."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_openai.chat_models.base import BaseChatOpenAI
from pydantic import SecretStr

from config.catalogue import ModelEntry
from core.http_client import HttpClient
from domain.errors import BadRequest, ContentFiltered, ModelUnavailable, ProviderCut, ProviderRefused, RouteurError
from services.llm.providers.openai_compatible import openai_adapter, openai_endpoint, stream_openai
from services.llm.providers.provider import Delta, ModelCall
from services.llm.providers.quirks import Quirks
from services.llm.providers.refusals import words_of
from services.llm.providers.spark_answer import credential_refusal, refusal_by_code
from services.llm.providers.spark_auth import NEEDED, SparkCredentials
from services.llm.providers.spark_question import (
    HAS_NO_WORD_FOR,
    asked_max_tokens,
    check_can_do,
    sampling_of,
    text_of,
    unsupported,
)

X1_BASE_URL = "https://spark-api-open.xf-yun.com/v2"
SPARK_HTTP = Quirks(takes_stream_options=False, gives_finish_reason=False, refuses_unknown_fields=True)

TAKEN = ("presence_penalty", "frequency_penalty", "tools", "tool_choice", "response_format", "thinking", "user")
"""What the vendor documents besides what is brought into its ranges; OpenAI's other parameters are not sent."""

LOWEST_CODE = 10_000
"""The vendor's codes have five digits; a smaller number in an error repeats the HTTP status."""


@dataclass(slots=True)
class SparkHttp:
    """Serves the catalogue's `x1`, with the credentials of `Spark`: the caller's own go before the server's."""

    http: HttpClient
    credentials: SparkCredentials | None = None
    base_url: str = X1_BASE_URL
    stall_timeout_s: float = 60.0
    name: str = "spark-http"
    _adapters: dict[str, BaseChatOpenAI] = field(default_factory=dict)

    def unavailable_reason(self, model: ModelEntry, credential: object = None) -> str | None:
        if self.credentials is None and not isinstance(credential, SparkCredentials):
            return f"{model.id!r} needs {NEEDED}"
        return None

    def unsupported_parameter(self, model: ModelEntry, parameters: Mapping[str, Any]) -> str | None:
        if (parameters.get("response_format") or {}).get("type") == "json_schema":
            return f"{model.id!r} knows no JSON schema"
        return unsupported(model.id, parameters, HAS_NO_WORD_FOR)

    def context_tokens(self, model: ModelEntry) -> int:
        return model.context.tokens

    async def stream(self, call: ModelCall) -> AsyncGenerator[Delta]:
        is_callers = isinstance(call.credential, SparkCredentials)
        credentials = call.credential if is_callers else self.credentials
        if credentials is None:
            raise ModelUnavailable(f"{call.model.id!r} needs {NEEDED}")
        refusal_in = partial(refusal_in_body, provider=self.name, model=call.model.id, is_callers=is_callers)
        quirks = replace(SPARK_HTTP, refusal_in=refusal_in)
        endpoint = openai_endpoint(self.name, self.base_url, bearer(credentials), self.stall_timeout_s, quirks)
        end = _End(call.model.name_on_wire, asked_max_tokens(call))
        try:
            deltas = stream_openai(self.http, endpoint, self._adapter(call.model), x1_call(call))
            async with aclosing(deltas):
                async for delta in deltas:
                    end.saw(delta)
                    yield delta
        except ContentFiltered:
            if not end.has_begun:
                raise
            # The audit stopped an answer that is already on its way: the reader is told how it ended.
            end.filtered = True
        if not end.saw_anything:
            raise ProviderCut(f"{self.name} ended its answer before it began", retryable=True)
        yield end.chunk()

    def _adapter(self, model: ModelEntry) -> BaseChatOpenAI:
        adapter = self._adapters.get(model.id)
        if adapter is None:
            adapter = self._adapters[model.id] = openai_adapter(model.name_on_wire, is_openai=False)
        return adapter


def bearer(credentials: SparkCredentials) -> SecretStr:
    """The credentials as the vendor's HTTP takes them, which has no need of the application's id."""
    return SecretStr(f"{credentials.api_key.get_secret_value()}:{credentials.api_secret.get_secret_value()}")


def x1_call(call: ModelCall) -> ModelCall:
    """The call in the vendor's words; raises `BadRequest` for what it cannot be asked."""
    check_can_do(call, HAS_NO_WORD_FOR)
    if (call.parameters.get("response_format") or {}).get("type") == "json_schema":
        raise BadRequest(f"{call.model.id!r} knows no JSON schema: ask for 'json_object', or name another model")
    told = {name: call.parameters[name] for name in TAKEN if call.parameters.get(name) is not None}
    parameters = {**told, **sampling_of(call)}
    if (max_tokens := asked_max_tokens(call)) is not None:
        parameters["max_tokens"] = max_tokens
    messages = [
        # The vendor takes text as a string only, and knows no names.
        message.model_copy(update={"content": text_of(message, call.model.id), "name": None})
        for message in call.messages
    ]
    return replace(call, messages=messages, parameters=parameters, stop=None)


def refusal_in_body(parsed: Any, status: int, *, provider: str, model: str, is_callers: bool) -> RouteurError | None:
    """The error that a body or an event carries, in either of the vendor's shapes; `None` when it carries none.

    `{"error": {"message", "type", "param", "code"}}` or `{"code", "message", "sid"}`, also under status 200.
    """
    content: Mapping[str, Any] = parsed if isinstance(parsed, dict) else {}
    error = content.get("error")
    own_code = content.get("code")
    if status == 200 and error is None and own_code in (None, 0, "0"):
        return None
    code = _code_of(error.get("code") if isinstance(error, dict) else None) or _code_of(own_code)
    if code is not None:
        sid = str(content.get("sid") or content.get("id") or "")[:64]
        return refusal_by_code(provider, model, code, words=words_of(content), sid=sid, is_callers=is_callers)
    match status:
        case 401 | 403:
            return credential_refusal(provider, f"status {status}", status, is_callers=is_callers)
        case 200:
            return ProviderRefused(f"{provider} refused {model!r} without a code ({words_of(content)})", retryable=True)
        case _:
            return None


def _code_of(value: Any) -> int | None:
    """A code of the vendor's own, which comes as a number or in words."""
    try:
        code = int(value) if isinstance(value, int | str) else 0
    except ValueError:
        return None
    return code if code >= LOWEST_CODE else None


@dataclass(slots=True)
class _End:
    """How the answer ended, which the vendor mostly does not say."""

    model: str
    max_tokens: int | None
    filtered: bool = False
    saw_anything: bool = False
    has_begun: bool = False
    _is_told: bool = False
    _calls_tools: bool = False
    _written: int = 0

    def saw(self, delta: Delta) -> None:
        self.saw_anything = True
        if isinstance(delta, list):
            self.has_begun = True
            return
        message = delta.message
        self._is_told = self._is_told or bool((delta.generation_info or {}).get("finish_reason"))
        if not isinstance(message, AIMessageChunk):
            return
        self._calls_tools = self._calls_tools or bool(message.tool_call_chunks)
        self.has_begun = self.has_begun or self._calls_tools or bool(message.text or message.additional_kwargs)
        if message.usage_metadata:
            self._written = message.usage_metadata["output_tokens"]

    def chunk(self) -> ChatGenerationChunk:
        """The last one. An answer as long as it was allowed to be was cut short."""
        told: dict[str, Any] = {"model_name": self.model, "spark": {"domain": self.model}}
        if not self._is_told:
            told["finish_reason"] = self._reason()
        return ChatGenerationChunk(message=AIMessageChunk(content=""), generation_info=told)

    def _reason(self) -> str:
        if self.filtered:
            return "content_filter"
        if self._calls_tools:
            return "tool_calls"
        is_full = self.max_tokens is not None and self._written >= self.max_tokens
        return "length" if is_full else "stop"
