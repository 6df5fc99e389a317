"""Answers made of a run: streamed or whole. Both end the run when the client goes, and neither cuts a connection."""

import asyncio
from contextlib import aclosing
from typing import Any, cast

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.json_response import json_response
from api.native_format import NativeEvents, whole_answer
from domain.errors import RouteurError
from domain.runs import Failed, Finished, Progress, RunRequest, Tokens
from services.completion import CompletionService

EVENT_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
PING = b": ping\n\n"


class RunResponse(Response):
    """Runs an agent inside the answer, and watches for the client's leaving meanwhile."""

    def __init__(self) -> None:
        # Without the head of an answer, which whoever writes this one makes.
        self.background = None
        self.raw_headers = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer, has_left = cast("asyncio.Task[Any]", asyncio.current_task()), False

        def end_answer(watch: asyncio.Task[None]) -> None:
            nonlocal has_left
            if not watch.cancelled():
                watch.exception()  # Whatever it is, nothing more comes from this client.
                has_left = True
                answer.cancel()

        watch = asyncio.create_task(_client_gone(receive), name="client gone")
        watch.add_done_callback(end_answer)
        try:
            # In the task of the request itself: once it ends, the run inside has been closed and counted.
            await self._answer(scope, receive, send)
        except asyncio.CancelledError:
            if not has_left:
                raise
        finally:
            watch.remove_done_callback(end_answer)
            watch.cancel()
            if has_left:
                answer.uncancel()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError


class EventStream(RunResponse):
    """Server-sent events. The status is decided by the first event: what fails before it answers with its error.

    A comment is sent after `ping_s` seconds of silence, also before the first event, so that proxies keep the line.
    """

    def __init__(self, ping_s: float) -> None:
        super().__init__()
        self._ping_s = ping_s
        self._started = False
        self._sent_at = 0.0
        self._loop: asyncio.AbstractEventLoop
        self._timer: asyncio.TimerHandle | None = None
        self._ping: asyncio.Task[None] | None = None

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._loop = asyncio.get_running_loop()
        self._sent_at = self._loop.time()
        self._timer = self._loop.call_later(self._ping_s, self._look_for_silence, send)
        try:
            await self._pump(send)
        finally:
            self._timer.cancel()
            if self._ping is not None:
                self._ping.cancel()
                await asyncio.gather(self._ping, return_exceptions=True)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pump(self, send: Send) -> None:
        raise NotImplementedError

    def _look_for_silence(self, send: Send) -> None:
        """A timer and not a task: most streams are never silent for that long."""
        silent_s = self._loop.time() - self._sent_at
        if silent_s >= self._ping_s and self._ping is not None and not self._ping.done():
            silent_s = 0.0  # The client does not read: a comment waits for it already.
        elif silent_s >= self._ping_s:
            self._ping = self._loop.create_task(self._send(send, PING), name="ping")
            silent_s = 0.0
        self._timer = self._loop.call_later(self._ping_s - silent_s, self._look_for_silence, send)

    async def _send(self, send: Send, body: bytes) -> None:
        if not self._started:
            self._started = True
            await send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM_HEADERS})
        self._sent_at = self._loop.time()
        await send({"type": "http.response.body", "body": body, "more_body": True})


class WholeAnswer(RunResponse):
    """The fold of the stream: one JSON answer, or the run's error with its status."""

    def __init__(self, completion: CompletionService, request: RunRequest) -> None:
        super().__init__()
        self._completion = completion
        self._request = request

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        texts: list[str] = []
        error: RouteurError | None = None
        answer: dict[str, Any] = {}
        async with aclosing(self._completion.stream(self._request)) as events:
            async for event in events:
                match event:
                    case Tokens(pieces=pieces):
                        texts += pieces
                    case Failed(error=error):
                        pass
                    case Finished() as finished:
                        answer = whole_answer(self._request, "".join(texts), finished)
                    case _:
                        pass
        if error is not None:
            raise error
        await json_response(answer)(scope, receive, send)


class StreamedAnswer(EventStream):
    """The native door's stream: pieces of text, and a last event that says what the run consumed."""

    def __init__(self, completion: CompletionService, request: RunRequest, ping_s: float) -> None:
        super().__init__(ping_s)
        self._completion = completion
        self._request = request

    async def _pump(self, send: Send) -> None:
        encoder = NativeEvents(self._request.agent or "")
        error: RouteurError | None = None
        async with aclosing(self._completion.stream(self._request)) as events:
            async for event in events:
                match event:
                    case Tokens(pieces=pieces, model=model):
                        await self._send(send, encoder.tokens(pieces, model))
                    case Progress():
                        await self._send(send, encoder.progress(event))
                    case Failed(error=error):
                        if not self._started:
                            raise error
                    case Finished():
                        await self._send(send, encoder.last(self._request, event, error))
                    case _:
                        pass


async def _client_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
