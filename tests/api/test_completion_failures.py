"""POST /completion when the provider fails: a status before the first token, an event after it, pings in silence."""

import asyncio
import time
from typing import Any

import httpx
import pytest

from tests.api.conftest import PING_S
from tests.api_errors import check_error
from tests.live_server import LiveServer, wait_until
from tests.provider_thread import play
from tests.raw_client import body_of, open_completion, read_to_its_end
from tests.scripted_provider import Cut, ScriptedProvider, Stall, Status, Wait, finish, say
from tests.server_sent_events import COMMENT, parse_stream, text_of

MODEL = "gpt-4o"
WAIT_S = 30
ATTEMPTS = 3
"""How often a model without a stand-in is asked before its failure is told."""


async def post(client: httpx.AsyncClient, *, stream: bool, **body: Any) -> httpx.Response:
    return await client.post("/completion", json={"message": "Raconte.", "model": MODEL, "stream": stream, **body})


BOTH_FORMS = pytest.mark.parametrize("stream", [True, False])


@BOTH_FORMS
async def test_a_provider_that_wants_to_be_paid_has_nothing_left_for_the_caller(
    client: httpx.AsyncClient, provider: ScriptedProvider, stream: bool
) -> None:
    play(provider, [Status(402, {"error": {"message": "the provider wants to be paid"}})])
    answer = await post(client, stream=stream)
    assert "the provider wants to be paid" in check_error(answer, 429, "insufficient_quota")


# Streams with another attempt are in `tests/e2e/test_faults_over_http.py`: here a ping would come before the status.


async def test_a_provider_that_fails_is_a_bad_gateway(client: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    play(provider, *[[Status(500, {"error": {"message": "the provider is on fire"}})]] * ATTEMPTS)
    answer = await post(client, stream=False)
    assert "the provider is on fire" in check_error(answer, 502, "provider_refused")


async def test_a_cut_before_the_first_token_is_a_bad_gateway(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, *[[*say(), Cut()]] * ATTEMPTS)
    check_error(await post(client, stream=False), 502, "provider_cut")


@BOTH_FORMS
async def test_a_providers_limit_is_passed_on_with_its_delay(
    client: httpx.AsyncClient, provider: ScriptedProvider, stream: bool
) -> None:
    # Longer than a run is kept waiting for: the caller is to come back.
    play(provider, [Status(429, {"error": {"message": "slow down"}}, (("Retry-After", "61"),))])
    answer = await post(client, stream=stream)
    check_error(answer, 429, "rate_limited_by_provider")
    assert answer.headers["retry-after"] == "61"


@pytest.mark.parametrize(("given", "passed_on"), [("60.01", "61"), ("60.5", "61"), ("60.0", "60")])
async def test_a_part_of_a_second_of_a_delay_is_a_whole_one(
    client: httpx.AsyncClient, provider: ScriptedProvider, given: str, passed_on: str
) -> None:
    play(provider, [Status(429, {"error": {"message": "slow down"}}, (("Retry-After", given),))])
    assert (await post(client, stream=False)).headers["retry-after"] == passed_on


async def test_a_limit_without_a_delay_still_says_when_to_come_back(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, *[[Status(429)]] * ATTEMPTS)
    answer = await post(client, stream=False)
    check_error(answer, 429, "rate_limited_by_provider")
    assert int(answer.headers["retry-after"]) > 0


async def test_a_provider_that_says_nothing_is_a_timeout(impatient: LiveServer, provider: ScriptedProvider) -> None:
    play(provider, [*say(), Stall(comments=True)])
    async with impatient.client() as client:
        check_error(await post(client, stream=False), 504, "provider_stalled")


async def test_a_key_that_the_provider_refuses_is_never_shown(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, [Status(401, {"error": {"message": f"Incorrect API key provided: {provider.api_key}"}})])
    answer = await post(client, stream=False)
    check_error(answer, 502, "provider_refused")
    assert provider.api_key not in answer.text


@BOTH_FORMS
async def test_a_prompt_that_the_provider_finds_too_long_is_the_callers_to_shorten(
    client: httpx.AsyncClient, provider: ScriptedProvider, stream: bool
) -> None:
    too_long = Status(400, {"error": {"message": "maximum context length is 10", "code": "context_length_exceeded"}})
    play(provider, [too_long], [too_long])
    check_error(await post(client, stream=stream), 400, "context_overflow")
    asked, larger = (request["model"] for request in provider.requests)
    assert asked == MODEL
    assert larger != MODEL


async def test_a_failure_after_the_first_token_is_told_inside_the_last_event(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, [*say("La moi", "tié"), Cut()])
    answer = await post(client, stream=True)
    assert answer.status_code == 200
    events = parse_stream(answer.content)
    assert text_of(events) == "La moitié"
    last = events[-1]
    assert set(last) == {"content", "done", "metadata", "error"}
    assert last["error"].keys() == {"code", "message"}
    assert last["error"]["code"] == "provider_cut"
    assert last["metadata"]["usage"]["output_tokens"] > 0
    assert last["metadata"]["impact"]["estimated"] is True
    assert last["metadata"]["pricing"]["total_cost"] > 0


async def test_a_whole_answer_that_broke_in_the_middle_is_made_again(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, [*say("La moi", "tié"), Cut()], [*say("Tout", " entier"), *finish()])
    answer = (await post(client, stream=False)).json()
    assert answer["response"] == "Tout entier"
    # Both calls are paid for: the broken one as an estimate.
    assert answer["metadata"]["impact"]["estimated"] is True


async def test_a_whole_answer_that_breaks_each_time_is_an_error(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, *[[*say("La moi", "tié"), Cut()]] * 3)
    check_error(await post(client, stream=False), 502, "provider_cut")


async def test_an_answer_without_a_finish_reason_is_a_failure(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, [*say("La moitié")])
    assert parse_stream((await post(client, stream=True)).content)[-1]["error"]["code"] == "provider_cut"


async def test_a_silent_stream_is_kept_open_by_comments(client: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    play(provider, [*say("Un"), Wait(2 * PING_S), *say(" deux"), *finish()])
    started = time.monotonic()
    answer = await post(client, stream=True)
    blocks = answer.text.split("\n\n")
    assert 1 <= blocks.count(COMMENT) <= (time.monotonic() - started) / PING_S
    assert text_of(parse_stream(answer.content)) == "Un deux"


async def test_a_stream_is_kept_open_before_its_first_token(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, [*say(), Wait(2 * PING_S), *say("Enfin"), *finish()])
    async with client.stream("POST", "/completion", json={"message": "a", "model": MODEL, "stream": True}) as answer:
        assert answer.status_code == 200
        chunks = answer.aiter_bytes()
        assert await anext(chunks) == f"{COMMENT}\n\n".encode()
        rest = b"".join([chunk async for chunk in chunks])
    assert text_of(parse_stream(rest)) == "Enfin"


async def test_a_failure_after_a_comment_is_told_in_the_last_event_for_the_status_is_sent(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, *[[*say(), Wait(1.5 * PING_S), Cut()]] * ATTEMPTS)
    answer = await post(client, stream=True)
    assert answer.status_code == 200
    assert answer.text.startswith(COMMENT)
    (last,) = parse_stream(answer.content)
    assert last["error"]["code"] == "provider_cut"


async def test_pieces_arrive_as_they_come(client: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    play(provider, [*say("Un"), Wait(0.4), *say(" deux"), *finish()])
    arrived = asyncio.get_running_loop().time
    async with client.stream("POST", "/completion", json={"message": "a", "model": MODEL, "stream": True}) as answer:
        times = [arrived() async for _ in answer.aiter_bytes()]
    assert times[-1] - times[0] > 0.3


def test_comments_do_not_pile_up_behind_a_client_that_does_not_read(
    server: LiveServer, provider: ScriptedProvider
) -> None:
    """A stream that waits for its reader is silent too; one comment may wait with it, not one every `SSE_PING_S`."""
    piece, pieces = "x" * 1_000, 12_000
    play(provider, [*say(*[piece] * pieces), *finish()])
    with open_completion(server, stream=True, receive_buffer=65536) as connection:
        wait_until(lambda: provider.requests, WAIT_S, "the provider is asked")
        deadline = time.monotonic() + 4 * PING_S
        wait_until(lambda: time.monotonic() > deadline, WAIT_S, "four times the time between comments passed")
        received = read_to_its_end(connection)
    body = body_of(received)
    assert len(text_of(parse_stream(body))) == len(piece) * pieces
    assert body.decode().split("\n\n").count(COMMENT) <= 2
    assert "never retrieved" not in server.log
