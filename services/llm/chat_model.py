"""The one chat model of the house: what graph nodes call, and the only one LangChain's callbacks hear of.

Tokens do not travel through callbacks: they go from the wire to the run's queue, and the node gets the whole
message once. `.astream()`, tools and structured output work for those who want them.
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing
from operator import itemgetter
from typing import Any, Literal, Protocol, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, BaseCallbackManager, CallbackManagerForLLMRun
from langchain_core.globals import get_debug, get_llm_cache
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig, RunnableMap, RunnablePassthrough
from langchain_core.runnables.config import ensure_config
from langchain_core.tools import BaseTool
from langsmith.utils import tracing_is_enabled
from pydantic import BaseModel, ConfigDict, Field

from services.llm.context import trim_messages
from services.llm.message import WholeMessage, as_chunks, as_one_chunk, text_of
from services.llm.providers.provider import Delta
from services.llm.router import Plan, Request, Router
from services.llm.structured_output import (
    answer_tool,
    formatted_tool,
    legal_name,
    response_format,
    text_parser,
    tool_parser,
)
from services.run_context import RunContext, current_run, is_on_loop, on_the_loop_of_the_run

NOSTREAM_TAG = "nostream"
"""LangGraph's own tag for a call whose text is not part of the answer: `llm.with_config(tags=["nostream"])`."""

REWRITE = "rewrite"
"""`llm.ainvoke(messages, rewrite=...)`: what passes the answer's text on its way to the caller."""


class Rewrite(Protocol):
    """Sees the pieces of a text as they come, and gives those that go out; what it holds back comes by `end`."""

    def feed(self, pieces: list[str]) -> list[str]: ...

    def end(self) -> list[str]: ...


class RouteurChatModel(BaseChatModel):
    """A model whose name, temperature and limits are those of the current run, unless bound by the node."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    router: Router = Field(exclude=True, repr=False)

    @property
    def _llm_type(self) -> str:
        return "routeur"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        run = current_run.get()
        return {"model": run.model, **run.parameters} if run else {"model": None}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        """What traces say of the call: the model chosen for this run."""
        plan, parameters = self._choice(kwargs)
        model = plan.first
        traced = {"ls_provider": model.provider, "ls_model_name": model.id, "ls_model_type": "chat"}
        return {**traced, "ls_temperature": parameters.get("temperature")}

    async def ainvoke(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """The whole answer. Where nobody listens to callbacks, LangChain's 100 µs of telling them are spared."""
        config = ensure_config(config)
        if self._somebody_listens(config):
            return await super().ainvoke(input, config, stop=stop, **kwargs)
        messages = self._convert_input(input).to_messages()
        if not all(isinstance(message.content, str) for message in messages):
            # LangChain brings parts of messages into one shape.
            return await super().ainvoke(input, config, stop=stop, **kwargs)
        kwargs.pop("ls_structured_output_format", None)
        result = await self._whole(messages, stop, _hushed(kwargs, config.get("tags")))
        message = result.generations[0].message
        message.id = f"lc_run--{config.get('run_id') or uuid.uuid4()}-0"
        return cast("AIMessage", message)

    def _somebody_listens(self, config: RunnableConfig) -> bool:
        """Whether a tracer, a counter or a stream of tokens hangs on this call, or something caches or limits it."""
        callbacks = config.get("callbacks")
        listening = callbacks.handlers if isinstance(callbacks, BaseCallbackManager) else callbacks
        return bool(
            listening
            or self.callbacks
            or self.verbose
            or self.cache
            or self.rate_limiter
            or get_debug()
            or get_llm_cache() is not None
            or tracing_is_enabled()
        )

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await self._whole(messages, stop, kwargs)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        run = current_run.get()
        if run is not None and not is_on_loop(run.loop):
            # A loop of a node's own; the text still streams to the caller as it comes.
            yield as_one_chunk((await self._whole(messages, stop, kwargs)).generations[0])
            return
        async with aclosing(self._deltas(messages, stop, kwargs)) as deltas:
            async for chunk in as_chunks(deltas):
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.message.text, chunk=chunk)
                yield chunk

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        """For nodes that are plain functions: LangGraph runs them in a thread, the call runs on the server's loop."""
        return _on_the_runs_loop(lambda: self._whole(messages, stop, kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        """For nodes that are plain functions; the text still streams to the caller as it comes."""
        result = self._generate(messages, stop, run_manager, **kwargs)
        yield as_one_chunk(result.generations[0])

    # When LangChain streams, it shows a call's tags to none of the methods above: they are looked up on the way in.

    def astream(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        return super().astream(input, config, **_hushed(kwargs, ensure_config(config).get("tags")))

    def stream(
        self,
        input: LanguageModelInput,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        return super().stream(input, config, **_hushed(kwargs, ensure_config(config).get("tags")))

    async def _agenerate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        hushed = _hushed(kwargs, run_manager.tags if run_manager else None)
        return await super()._agenerate_with_cache(messages, stop, run_manager, **hushed)

    def _generate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        hushed = _hushed(kwargs, run_manager.tags if run_manager else None)
        return super()._generate_with_cache(messages, stop, run_manager, **hushed)

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The model with tools. `tool_choice`: a tool's name, `auto`, `none`, `any`, `required`, or OpenAI's object.

        `strict` goes into each function: its arguments then fit its schema to the word.
        """
        formatted = [formatted_tool(tool, strict=strict) for tool in tools]
        if tool_choice is not None and tool_choice is not False:
            kwargs["tool_choice"] = _tool_choice(tool_choice, formatted)
        return self.bind(tools=formatted, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: Literal["json_schema", "function_calling"] = "json_schema",
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Answers that fit the schema; by JSON schema unless `method` says otherwise: exact on local models too."""
        if method == "function_calling":
            tool = answer_tool(schema, strict=strict)
            model = self.bind(tools=[tool], tool_choice="required", **kwargs)
            parser = tool_parser(schema, tool)
        else:
            model = self.bind(response_format=response_format(schema, strict=strict), **kwargs)
            parser = text_parser(schema)
        if not include_raw:
            return model | parser
        parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
        not_parsed = RunnablePassthrough.assign(parsed=lambda _: None)
        return RunnableMap(raw=model) | parsed.with_fallbacks([not_parsed], exception_key="parsing_error")

    def trim_to_context(self, messages: Sequence[BaseMessage]) -> list[BaseMessage]:
        """The messages that fit the run's model: system messages and the newest of the rest, never half a turn.

        Raises `ContextOverflow` when the last message alone does not fit.
        """
        plan, parameters = self._choice({})
        model = plan.first
        context = self.router.context_tokens(model)
        return trim_messages(messages, context_tokens=context, max_tokens=parameters.get("max_tokens"), model=model.id)

    def supports(self, capability: Literal["vision", "tools", "json_schema", "temperature"]) -> bool:
        """Whether the run's model can do this, by the catalogue."""
        plan, _ = self._choice({})
        return bool(getattr(plan.first.capabilities, capability))

    def _choice(self, bound: Mapping[str, Any]) -> tuple[Plan, dict[str, Any]]:
        """The models and the parameters of a call: what the node bound, over what the run asks for."""
        run = current_run.get()
        parameters = {**(run.parameters if run else {}), **bound}
        name = parameters.pop("model", None) or (run.requested_model if run else None)
        return self.router.plan(name, run.credentials if run else None), parameters

    async def _whole(self, messages: list[BaseMessage], stop: list[str] | None, bound: Mapping[str, Any]) -> ChatResult:
        """The whole message, its text already on its way to the caller."""
        return await on_the_loop_of_the_run(lambda: self._whole_here(messages, stop, bound))

    async def _whole_here(
        self, messages: list[BaseMessage], stop: list[str] | None, bound: Mapping[str, Any]
    ) -> ChatResult:
        whole = WholeMessage()
        async with aclosing(self._deltas(messages, stop, bound, is_whole=True)) as deltas:
            async for delta in deltas:
                whole.add(delta)
        return ChatResult(generations=[whole.generation()])

    def _deltas(
        self, messages: list[BaseMessage], stop: list[str] | None, bound: Mapping[str, Any], *, is_whole: bool = False
    ) -> AsyncGenerator[Delta]:
        plan, parameters = self._choice(bound)
        parameters.pop("stream", None)
        is_answer = not parameters.pop(NOSTREAM_TAG, False) and "response_format" not in parameters
        rewrite: Rewrite | None = parameters.pop(REWRITE, None)
        run = current_run.get()
        goes_out = run is not None and is_answer
        # A node that wants the whole message, for a caller who does not read along, need not be given a broken one.
        request = Request(messages, parameters, stop, held=is_whole and not (goes_out and run and run.is_streamed))
        if run is not None:
            if run.calls:
                run.before_next_call()
            request.credentials = run.credentials
            request.on_call = run.calls.append
            request.on_hop = run.hops.append
            request.retry_wait = run.retry_wait = run.retry_wait or self.router.new_retry_wait()
        deltas = self.router.stream(plan, request)
        if run is None or not is_answer:
            return deltas if rewrite is None else _rewritten(deltas, rewrite)
        request.on_first_token = run.note_first_token
        return _said(deltas, run, request, rewrite)


async def _said(
    deltas: AsyncGenerator[Delta], run: RunContext, request: Request, rewrite: Rewrite | None
) -> AsyncGenerator[Delta]:
    """The same deltas; their text also goes straight to whoever reads the run."""
    sent: list[str] = []
    run.sent.append(sent)
    async with aclosing(deltas):
        async for delta in deltas:
            pieces = delta if isinstance(delta, list) else text_of(delta)
            if pieces and rewrite is not None:
                pieces = rewrite.feed(pieces)
            if pieces:
                sent += pieces
                await run.say(request.answering_model, pieces)
            if not isinstance(delta, list) and delta.generation_info:
                run.finish_reason = delta.generation_info.get("finish_reason") or run.finish_reason
            yield delta
    if rewrite is not None and (pieces := rewrite.end()):
        sent += pieces
        await run.say(request.answering_model, pieces)


async def _rewritten(deltas: AsyncGenerator[Delta], rewrite: Rewrite) -> AsyncGenerator[Delta]:
    """The same deltas, whose text nobody but the node reads: it still asks the rewrite what became of it."""
    async with aclosing(deltas):
        async for delta in deltas:
            if pieces := delta if isinstance(delta, list) else text_of(delta):
                rewrite.feed(pieces)
            yield delta
    rewrite.end()


def _hushed(kwargs: dict[str, Any], tags: Sequence[str] | None) -> dict[str, Any]:
    """The arguments of a call, saying also whether its text is to be kept from the caller."""
    return {**kwargs, NOSTREAM_TAG: True} if tags and NOSTREAM_TAG in tags else kwargs


def _on_the_runs_loop(work: Callable[[], Coroutine[Any, Any, ChatResult]]) -> ChatResult:
    """Run the call on the server's loop and wait for it in this thread."""
    run = current_run.get()
    if run is None:
        raise RuntimeError("outside a run, call the model with `await llm.ainvoke(...)`")
    if is_on_loop(run.loop):
        raise RuntimeError(
            "this node is async, and a blocking call would stop the server: use `await llm.ainvoke(...)`"
        )
    return asyncio.run_coroutine_threadsafe(run.call_for_thread(work), run.loop).result()


def _tool_choice(choice: str | dict[str, Any] | bool, tools: list[dict[str, Any]]) -> str | dict[str, Any]:
    """OpenAI's spelling of a choice of tool."""
    if choice is True or choice == "any":
        return "required"
    names = {tool["function"]["name"] for tool in tools if "function" in tool}
    # A schema may be chosen by its title, for which the wire has a legal name.
    if isinstance(choice, str) and (name := choice if choice in names else legal_name(choice)) in names:
        return {"type": "function", "function": {"name": name}}
    if isinstance(choice, dict) or choice in {"auto", "none", "required"}:
        return choice
    raise ValueError(f"tool_choice {choice!r} is not a tool ({', '.join(sorted(names))}), auto, none, any or required")
