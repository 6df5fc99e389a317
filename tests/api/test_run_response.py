"""An answer runs in its request's task: it ends with the client, and what ended it is plain to see."""

import asyncio
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from api.run_response import RunResponse
from domain.errors import Forbidden
from tests.house_for_tests import until


class Answer(RunResponse):
    """Waits for `may_end`, and notes how it was ended."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.may_end = asyncio.Event()
        self.has_begun = False
        self.is_closed = False
        self._error = error

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.has_begun = True
        try:
            await self.may_end.wait()
        finally:
            await asyncio.sleep(0)  # A run takes a moment to be counted.
            self.is_closed = True
        if self._error is not None:
            raise self._error
        await send({"type": "http.response.start", "status": 204, "headers": []})


class Client:
    """One that reads, until it leaves."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.has_left = asyncio.Event()

    async def receive(self) -> Message:
        await self.has_left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def take(self, answer: RunResponse) -> "asyncio.Task[Any]":
        return asyncio.create_task(answer({"type": "http"}, self.receive, self.send))


async def test_an_answer_that_ends_leaves_no_task_behind() -> None:
    answer, client = Answer(), Client()
    before = asyncio.all_tasks()
    answer.may_end.set()
    await client.take(answer)
    await asyncio.sleep(0)
    assert [message["status"] for message in client.sent] == [204]
    assert asyncio.all_tasks() == before


async def test_a_client_that_leaves_ends_the_answer_without_an_error() -> None:
    answer, client = Answer(), Client()
    task = client.take(answer)
    await until(lambda: answer.has_begun)
    client.has_left.set()
    await asyncio.wait_for(task, 5)
    assert answer.is_closed
    assert client.sent == []
    assert task.cancelling() == 0, "what comes after in the same task is not cancelled"


async def test_a_client_that_left_before_the_answer_began_is_not_waited_for() -> None:
    answer, client = Answer(), Client()
    client.has_left.set()
    await asyncio.wait_for(client.take(answer), 5)
    assert client.sent == []


async def test_a_server_that_stops_cancels_the_request_itself() -> None:
    answer, client = Answer(), Client()
    task = client.take(answer)
    await until(lambda: answer.has_begun)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert answer.is_closed


async def test_a_failure_is_the_requests() -> None:
    answer, client = Answer(Forbidden("no")), Client()
    answer.may_end.set()
    with pytest.raises(Forbidden):
        await client.take(answer)


async def test_a_connection_that_breaks_is_a_client_that_leaves(caplog: pytest.LogCaptureFixture) -> None:
    answer, client = Answer(), Client()

    async def broken() -> Message:
        raise ConnectionResetError

    await asyncio.wait_for(answer({"type": "http"}, broken, client.send), 5)
    assert answer.is_closed
    assert caplog.records == []
