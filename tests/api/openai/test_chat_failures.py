"""POST /v1/chat/completions when the provider fails, the client leaves, or nothing is said for long."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.api.conftest import PING_S
from tests.live_server import LiveServer, wait_until
from tests.openai_wire import check_openai_error, hello, objects_of, objects_of_a_failed_stream, text_of
from tests.provider_thread import play
from tests.scripted_provider import Chunk, Cut, Meet, ScriptedProvider, Stall, Status, Wait, finish, say

CHAT = "/v1/chat/completions"
BOTH_FORMS = pytest.mark.parametrize("stream", [True, False])
NAMES = pytest.mark.parametrize("name", ["gpt-4o", "V2@gpt-4o"])


async def post(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post(CHAT, json=hello() | body)


@BOTH_FORMS
@NAMES
async def test_a_refusal_before_the_first_token_is_a_status_and_not_worth_retrying(
    client: httpx.AsyncClient, provider: ScriptedProvider, stream: bool, name: str
) -> None:
    play(provider, [Status(401, {"error": {"message": "Incorrect API key provided: sk-abc"}})])
    answer = await post(client, stream=stream, model=name)
    assert "sk-abc" not in check_openai_error(answer, 502, "provider_refused")
    assert answer.headers["x-should-retry"] == "false"


@BOTH_FORMS
async def test_a_providers_limit_is_passed_on_with_its_delay_once_all_attempts_are_used_up(
    client: httpx.AsyncClient, provider: ScriptedProvider, stream: bool
) -> None:
    play(provider, [Status(429, {"error": {"message": "slow down"}}, (("Retry-After", "99"),))])
    answer = await post(client, stream=stream)
    check_openai_error(answer, 429, "rate_limit_exceeded")
    assert answer.json()["error"]["type"] == "rate_limit_error"
    assert answer.headers["retry-after"] == "99"
    assert answer.headers["x-should-retry"] == "false"


@BOTH_FORMS
async def test_a_provider_that_says_nothing_is_a_timeout(
    impatient: LiveServer, provider: ScriptedProvider, stream: bool
) -> None:
    if not stream:
        pytest.skip("asked whole, a provider may be silent for as long as the run may take")
    play(provider, [*say(), Stall()])
    async with impatient.client() as client:
        answer = await client.post(CHAT, json=hello(stream=stream))
    # Silence was filled with comments, and so the status was sent before the failure was known.
    chunks, last = objects_of_a_failed_stream(answer.content)
    assert chunks == []
    assert last["error"]["code"] == "provider_stalled"


@NAMES
async def test_a_failure_after_the_first_token_is_an_error_event_with_what_was_consumed(
    client: httpx.AsyncClient, provider: ScriptedProvider, name: str
) -> None:
    play(provider, [*say("Il", " était"), Wait(0.05), Cut()])
    answer = await post(client, stream=True, model=name, stream_options={"include_usage": True})
    assert answer.status_code == 200
    chunks, last = objects_of_a_failed_stream(answer.content)
    assert text_of(chunks) == "Il était"
    assert last["error"]["type"] == "server_error"
    assert last["error"]["code"] == "provider_cut"
    assert last["impact"]["estimated"] is True
    assert last["impact"]["usage_by_model"]["gpt-4o"]["output_tokens"] == 2


async def test_an_error_event_of_the_providers_is_one_of_ours(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, [*say("Il"), Chunk({"error": {"message": "overloaded"}})])
    _, last = objects_of_a_failed_stream((await post(client, stream=True)).content)
    assert "overloaded" in last["error"]["message"]


@BOTH_FORMS
async def test_one_choice_that_is_refused_fails_the_answer_and_ends_the_others(
    client: httpx.AsyncClient, provider: ScriptedProvider, stream: bool
) -> None:
    play(provider, [Meet(2), Status(401)], [Stall()])
    check_openai_error(await post(client, n=2, stream=stream), 502, "provider_refused")
    wait_until(provider.left_early.is_set, 30, "the other choice's call is ended")


async def test_one_choice_that_is_cut_fails_the_answer_and_ends_the_others(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, [Meet(2), *say("un"), Wait(2.0), Cut()], [Meet(2), *say("deux"), Stall()])
    chunks, last = objects_of_a_failed_stream((await post(client, n=2, stream=True)).content)
    assert {text_of(chunks, 0), text_of(chunks, 1)} == {"un", "deux"}
    assert last["error"]["code"] == "provider_cut"
    wait_until(provider.left_early.is_set, 30, "the other choice's call is ended")


@BOTH_FORMS
@pytest.mark.parametrize("n", [1, 2])
async def test_leaving_ends_the_providers_call(
    server: LiveServer, provider: ScriptedProvider, stream: bool, n: int
) -> None:
    play(provider, *[[*say("Il"), Stall()]] * n)
    async with server.client() as client:
        going = asyncio.create_task(client.post(CHAT, json=hello(stream=stream, n=n)))
        await asyncio.to_thread(wait_until, lambda: provider.answering == n, 30, "the provider answers")
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)
    await asyncio.to_thread(wait_until, lambda: provider.answering == 0, 30, "every call is ended")


async def test_comments_fill_a_silence_without_being_an_event(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, [*say("Il"), Wait(2 * PING_S), *say("est"), *finish()])
    answer = await post(client, stream=True)
    assert b": ping\n\n" in answer.content
    assert text_of(objects_of(answer.content)) == "Ilest"


async def test_many_streams_at_once_never_mix(client: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    def echo(body: dict[str, Any]) -> Any:
        text = body["messages"][-1]["content"]
        return [*say(*text), *finish(1, len(text))]

    provider.compose = echo
    try:
        texts = [f"answer number {number}" for number in range(24)]
        answers = await asyncio.gather(
            *(post(client, stream=True, messages=[{"role": "user", "content": text}]) for text in texts)
        )
        assert [text_of(objects_of(answer.content)) for answer in answers] == texts
    finally:
        provider.compose = None
