"""Answers of POST /v1/chat/completions: streamed or whole."""

from contextlib import aclosing

from starlette.types import Receive, Scope, Send

from api.deps import Services
from api.error_shapes import Problem, openai_error
from api.json_response import json_response
from api.openai.chat_request import ChatRequest
from api.openai.chunks import ChatChunks, failure
from api.openai.consumption import Consumption
from api.openai.fan_out import events_of_choices
from api.openai.whole_chat import WholeChoice, whole_chat
from api.run_response import EventStream, RunResponse
from domain.errors import RouteurError
from domain.runs import Failed, Finished, ModelDelta, RunEvent, Started, Tokens


class StreamedChat(EventStream):
    """Chunks as they come. A failure after the first byte is an error event with neither finish reason nor end."""

    def __init__(self, services: Services, request: ChatRequest) -> None:
        super().__init__(services.settings.sse_ping_s)
        self._completion = services.completion
        self._request = request
        self._consumption = Consumption(request.run, services.accountant)
        self._chunks = ChatChunks(
            request.choices,
            include_usage=request.include_usage,
            with_logprobs=bool(request.run.parameters.get("logprobs")),
        )

    async def _pump(self, send: Send) -> None:
        request = self._request
        failed: tuple[int, RouteurError] | None = None
        async with aclosing(events_of_choices(self._completion, request.run, request.choices)) as events:
            async for index, event in events:
                if isinstance(event, Failed):
                    if not self._started:
                        raise event.error
                    failed = failed or (index, event.error)
                elif failed is None:
                    if body := self._encode(index, event):
                        await self._send(send, body)
                elif isinstance(event, Finished):
                    self._consumption.finished.append(event)
                    if index == failed[0]:
                        break
        if failed is not None:
            problem = Problem.of(failed[1], request.run.request_id)
            await self._send(send, failure(openai_error(problem), self._consumption))

    def _encode(self, index: int, event: RunEvent) -> bytes:
        consumption = self._consumption
        match event:
            case Tokens(pieces=pieces, model=model):
                return self._chunks.tokens(index, pieces, model)
            case ModelDelta():
                consumption.extra = event.extra or consumption.extra
                return self._chunks.delta(index, event)
            case Started(run_id=run_id):
                self._chunks.start(run_id)
            case Finished(model=model, finish_reason=reason):
                consumption.finished.append(event)
                self._chunks.ended(index, reason)
                if len(consumption.finished) == self._request.choices:
                    return self._chunks.last(index, model, consumption)
                return self._chunks.finish(index, model)
            case _:
                pass
        return b""


class WholeChat(RunResponse):
    """One JSON answer, or the error of the first run that fails, with its status."""

    def __init__(self, services: Services, request: ChatRequest) -> None:
        super().__init__()
        self._completion = services.completion
        self._request = request
        self._consumption = Consumption(request.run, services.accountant)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        consumption = self._consumption
        choices = [WholeChoice(index) for index in range(self._request.choices)]
        async with aclosing(events_of_choices(self._completion, self._request.run, len(choices))) as events:
            async for index, event in events:
                match event:
                    case Tokens(pieces=pieces):
                        choices[index].texts += pieces
                    case ModelDelta():
                        consumption.extra = event.extra or consumption.extra
                        choices[index].add(event)
                    case Failed(error=error):
                        raise error
                    case Finished(finish_reason=reason):
                        consumption.finished.append(event)
                        choices[index].reason = choices[index].reason or reason
                    case _:
                        pass
        await json_response(whole_chat(choices, consumption))(scope, receive, send)
