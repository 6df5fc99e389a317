"""An answer over real HTTP: how it ends, how long it may keep silent, and what becomes of its connection."""

import asyncio
import contextlib
import socket
import time

import pytest

from domain.errors import (
    ProviderCut,
    ProviderStalled,
    ProviderUnreachable,
    RateLimitedByProvider,
)
from services.llm.providers import wire
from services.llm.providers.wire import stream_events
from tests.house_for_tests import until
from tests.scripted_provider import (
    DONE,
    Chunk,
    ContentType,
    Cut,
    ScriptedProvider,
    Stall,
    Step,
    Wait,
    chunk,
    finish,
    say,
    scripted_provider,
    usage,
)
from tests.wire_reader import (
    PAYLOAD,
    answer_to,
    endpoint,
    http_client,
    pieces_of,
    raw_server,
    read,
    silent_server,
)

WAIT_S, STALL_S = 30.0, 90.0


async def test_an_answer_comes_whole_with_its_finish_reason_and_its_usage():
    answer = await answer_to(*say("Bon", "jour"), *finish(10, 2))
    assert (answer.text, answer.error) == ("Bonjour", None)
    end, counted = [item for item in answer.items if isinstance(item, dict)]
    assert end["choices"][0]["finish_reason"] == "stop"
    assert counted["usage"]["completion_tokens"] == 2


async def test_a_finished_answer_is_kept_when_the_done_mark_is_missing():
    answer = await answer_to(*say("Hi"), chunk({}, "stop"), usage(1, 1))
    assert (answer.text, answer.error) == ("Hi", None)


@pytest.mark.parametrize("ending", [[Cut()], [Wait(0.02), Cut()], [Stall()]], ids=["cut", "cut later", "silent"])
async def test_a_finished_answer_is_kept_when_the_connection_breaks_after_it(ending):
    answer = await answer_to(*say("Hi"), chunk({}, "stop"), *ending)
    assert (answer.text, answer.error) == ("Hi", None)


@pytest.mark.parametrize("ending", [[], [usage(1, 1)]], ids=["end", "usage"])
async def test_an_answer_without_a_finish_reason_or_a_done_mark_is_not_an_answer(ending):
    answer = await answer_to(*say("Half"), *ending)
    assert answer.text == "Half"
    assert isinstance(answer.error, ProviderCut)
    assert answer.error.retryable


@pytest.mark.parametrize("said", [(), ("Half",)], ids=["before the first token", "after it"])
async def test_a_cut_connection_is_a_provider_error(said):
    answer = await answer_to(*(say(*said) if said else []), Wait(0.01), Cut())
    assert answer.text == "".join(said)
    assert isinstance(answer.error, ProviderCut)
    assert answer.error.retryable


@pytest.mark.parametrize(
    ("error", "shown"),
    [({"message": "overloaded", "code": 529}, "overloaded"), ("depleted", "depleted"), ({"code": 1}, "no readable")],
)
async def test_an_error_in_mid_stream_ends_the_answer_with_the_providers_words(error, shown):
    answer = await answer_to(*say("Half"), Chunk({"error": error}))
    assert answer.text == "Half"
    assert isinstance(answer.error, ProviderCut)
    assert shown in answer.error.message


async def test_an_error_after_the_finish_reason_is_still_an_error():
    answer = await answer_to(*say("Hi"), chunk({}, "stop"), Chunk({"error": {"message": "late"}}))
    assert isinstance(answer.error, ProviderCut)


async def test_finish_reason_error_is_a_failure():
    answer = await answer_to(*say("Half"), chunk({}, "error"), DONE)
    assert isinstance(answer.error, ProviderCut)


@pytest.mark.parametrize("garbage", [b"data: {oops\n\n", b"data: [1]\n\n", b'data: "text"\n\n', b"data: \xff\xfe\n\n"])
async def test_garbage_is_a_provider_error(garbage):
    answer = await answer_to(*say("Half"), Chunk(garbage))
    assert answer.text == "Half"
    assert isinstance(answer.error, ProviderCut)
    assert answer.error.retryable


@pytest.mark.parametrize("delta", [{}, {"delta": None}], ids=["left out", "null"])
async def test_a_last_choice_without_a_delta_ends_an_answer(delta):
    last = {"index": 0, **delta, "finish_reason": "stop"}
    answer = await answer_to(*say("Hi"), Chunk({"choices": [last], "model": "m"}), DONE)
    assert answer.error is None
    assert answer.items[-1] == {"choices": [{**last, "delta": {}}], "model": "m"}


@pytest.mark.parametrize("label", ["text/plain", "application/octet-stream", "application/json", "text/html"])
async def test_events_are_read_whatever_their_label(label):
    answer = await answer_to(ContentType(label), *say("Hi"), *finish())
    assert (answer.text, answer.error) == ("Hi", None)


async def test_an_error_in_a_body_is_left_alone_for_as_long_as_its_headers_want():
    answer = await answer_to(ContentType("application/json"), Chunk(b'{"error": {"message": "slow", "code": 429}}'))
    assert isinstance(answer.error, RateLimitedByProvider)
    body = b'{"error": {"message": "slow", "code": 429}}'
    head = b"HTTP/1.1 200 OK\r\nRetry-After: 7\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with raw_server(head + body) as base_url, http_client() as http:
        answer = await read(http, base_url)
    assert isinstance(answer.error, RateLimitedByProvider)
    assert answer.error.retry_after_s == 7


async def test_a_page_is_a_provider_error_that_names_its_type():
    answer = await answer_to(ContentType("text/html; charset=utf-8"), Chunk(b"<html>"))
    assert isinstance(answer.error, ProviderCut)
    assert "text/html" in answer.error.message


async def test_a_content_type_is_the_same_in_capitals():
    answer = await answer_to(ContentType("Text/Event-Stream; charset=UTF-8"), *say("Hi"), *finish())
    assert answer.error is None


# Slowness


@pytest.mark.parametrize("comments", [False, True])
@pytest.mark.parametrize("said", [(), ("Half",)], ids=["before the first token", "after it"])
async def test_a_provider_that_says_nothing_new_is_stalled_even_when_it_comments(comments, said):
    started = time.perf_counter()
    answer = await answer_to(*(say(*said) if said else []), Stall(comments=comments), stall_s=0.5)
    assert answer.text == "".join(said)
    assert isinstance(answer.error, ProviderStalled)
    assert answer.error.retryable
    assert 0.49 < time.perf_counter() - started < 20


async def test_a_provider_that_never_answers_the_request_is_stalled():
    async with asyncio.timeout(WAIT_S), silent_server() as base_url, http_client() as http:
        answer = await read(http, base_url, stall_s=0.1)
    assert isinstance(answer.error, ProviderStalled)


async def test_a_slow_provider_that_keeps_talking_is_not_stalled():
    steps = [step for piece in "abcdef" for step in (Wait(0.3), chunk({"content": piece}))]
    answer = await answer_to(*steps, *finish(), stall_s=1.5)
    assert (answer.text, answer.error) == ("abcdef", None)


async def test_empty_events_are_news_for_they_show_a_provider_at_work():
    steps = [step for _ in range(6) for step in (Wait(0.3), chunk({"content": ""}))]
    answer = await answer_to(*steps, *say("Hi"), *finish(), stall_s=1.5)
    assert (answer.text, answer.error) == ("Hi", None)


async def test_a_slow_consumer_is_not_a_stalled_provider():
    steps = [step for piece in "abc" for step in (chunk({"content": piece}), Wait(0.01))]
    answer = await answer_to(*steps, *finish(), stall_s=0.6, pause_s=0.7)
    assert (answer.text, answer.error) == ("abc", None)


# Connections


async def test_a_refused_connection_is_unreachable():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with http_client() as http:
        answer = await read(http, f"http://127.0.0.1:{port}/v1")
    assert isinstance(answer.error, ProviderUnreachable)
    assert answer.error.retryable


async def test_a_connection_that_is_never_accepted_is_unreachable_and_not_stalled():
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        async with http_client(connect_timeout_s=0.3) as http:
            answer = await read(http, f"http://127.0.0.1:{full.getsockname()[1]}/v1")
    assert isinstance(answer.error, ProviderUnreachable)
    assert answer.error.retryable


async def test_complete_answers_share_one_connection():
    async with scripted_provider([*say("Hi"), *finish()], repeat=True) as provider, http_client() as http:
        for _ in range(4):
            assert (await read(http, provider.base_url)).error is None
        assert len(provider.requests) == 4
        assert len(provider.clients) == 1


async def test_a_provider_that_keeps_the_body_open_after_done_does_not_hold_the_answer():
    started = time.perf_counter()
    answer = await answer_to(*say("Hi"), *finish(), Stall(), stall_s=STALL_S)
    assert (answer.text, answer.error) == ("Hi", None)
    assert time.perf_counter() - started < WAIT_S


async def test_a_provider_that_never_ends_after_its_finish_reason_does_not_hold_the_answer_for_the_stall_time(
    monkeypatch,
):
    monkeypatch.setattr(wire, "AFTER_FINISH_S", 0.1)
    started = time.perf_counter()
    answer = await answer_to(*say("Hi"), chunk({}, "stop"), Stall(), stall_s=STALL_S)
    assert (answer.text, answer.error) == ("Hi", None)
    assert time.perf_counter() - started < WAIT_S


@pytest.mark.parametrize("ending", [Stall(), Stall(comments=True), Cut()], ids=["silent", "comments", "cut"])
async def test_after_its_done_mark_an_answer_that_lacks_something_is_told_to_lack_it(ending: Step):
    started = time.perf_counter()
    answer = await answer_to(chunk({"role": "assistant"}), DONE, ending, stall_s=STALL_S)
    assert isinstance(answer.error, ProviderCut)
    assert "without a finish reason" in str(answer.error)
    assert time.perf_counter() - started < WAIT_S


async def test_what_still_comes_after_the_done_mark_does_not_hold_the_answer():
    started = time.perf_counter()
    more = [step for _ in range(40) for step in (Wait(0.1), chunk({"content": "more"}))]
    answer = await answer_to(*say("Hi"), *finish(), *more)
    assert answer.error is None
    assert answer.text.startswith("Hi")
    assert time.perf_counter() - started < 3


def repeating(*pieces: str) -> list[Step]:
    """A finish reason on every event, and a pause after each that is longer than what may follow a true end."""
    return [step for piece in pieces for step in (chunk({"content": piece}, "stop"), Wait(0.3))]


@pytest.mark.parametrize("ending", [[], [DONE], [usage(1, 3)]], ids=["end", "done", "usage"])
async def test_a_finish_reason_on_every_event_does_not_end_the_answer(monkeypatch, ending):
    monkeypatch.setattr(wire, "AFTER_FINISH_S", 0.1)
    answer = await answer_to(*repeating("a", "b", "c"), *ending)
    whole = "".join(item["choices"][0]["delta"]["content"] for item in answer.items if item["choices"])
    assert (whole, answer.error) == ("abc", None)


@pytest.mark.parametrize("late", [{"content": "d"}, {"content": "d", "reasoning": "hm"}], ids=["plain", "rare"])
async def test_what_comes_after_a_finish_reason_shows_that_it_was_none(monkeypatch, late):
    monkeypatch.setattr(wire, "AFTER_FINISH_S", 0.1)
    before = [chunk({"content": piece}) for piece in "abc"]
    answer = await answer_to(*before, chunk({}, "stop"), chunk(late), Wait(0.4), chunk({"content": "e"}), *finish())
    assert answer.text == ("abce" if "reasoning" in late else "abcde")
    assert answer.error is None


async def test_a_finish_reason_beside_text_is_waited_on_longer_and_then_stands(monkeypatch):
    monkeypatch.setattr(wire, "AFTER_FINISH_S", 0.1)
    monkeypatch.setattr(wire, "AFTER_DOUBTFUL_FINISH_S", 0.6)
    answer = await answer_to(*say("a"), chunk({"content": "b"}, "stop"), Wait(0.3), *say("c"), *finish())
    assert (answer.text, answer.error) == ("ac", None)
    kept_open = await answer_to(*say("a"), chunk({"content": "b"}, "stop"), Stall(), stall_s=STALL_S)
    assert kept_open.error is None


async def test_a_repeated_finish_reason_takes_nothing_back_of_what_the_first_left_open(monkeypatch):
    monkeypatch.setattr(wire, "AFTER_FINISH_S", 0.1)
    ended_twice = [*say("a"), chunk({"content": "b"}, "stop"), chunk({"content": ""}, "stop")]
    answer = await answer_to(*ended_twice, Wait(0.4), chunk({"content": "c"}, "stop"), DONE)
    pieces = [item if isinstance(item, str) else item["choices"][0]["delta"].get("content") for item in answer.items]
    assert ("".join(filter(None, pieces)), answer.error) == ("abc", None)


@pytest.mark.parametrize("said", [b"data: %b", b"%b"], ids=["an event", "an object"])
async def test_a_last_event_without_a_blank_line_counts_though_the_connection_breaks(said):
    text, end = (b'{"choices":[{"index":0,"delta":{%b}}]}' % delta for delta in (b'"content":"Hi"', b""))
    body = said % text + b"\n\n" + said % end.replace(b"}}]", b'},"finish_reason":"stop"}]')
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body)
    async with raw_server(head + body + b"\r\n") as base_url, http_client() as http:
        answer = await read(http, base_url)
    assert (len(answer.items), answer.error) == (2, None)


@pytest.mark.parametrize("ending", [Stall(), Cut()], ids=["silent", "cut"])
async def test_an_answer_whose_finish_reasons_mean_nothing_is_never_half_of_one(monkeypatch, ending):
    monkeypatch.setattr(wire, "AFTER_DOUBTFUL_FINISH_S", 0.5)
    answer = await answer_to(*repeating("a", "b"), ending, stall_s=STALL_S)
    assert isinstance(answer.error, ProviderStalled | ProviderCut)


async def test_usage_after_doubtful_finish_reasons_is_the_end_though_the_line_stays_open(monkeypatch):
    monkeypatch.setattr(wire, "AFTER_FINISH_S", 0.1)
    answer = await answer_to(*repeating("a"), usage(1, 1), Stall(), stall_s=STALL_S)
    assert answer.error is None


async def test_the_connection_is_closed_when_the_consumer_stops_early():
    async with scripted_provider([*say("Hi"), Stall()]) as provider, http_client() as http:
        stream = stream_events(http, endpoint(provider.base_url), PAYLOAD)
        assert pieces_of([await anext(stream)]) == ["Hi"]
        await stream.aclose()
        await gone(provider)


async def test_the_connection_is_closed_when_the_consumer_is_cancelled():
    async with scripted_provider([*say("Hi"), Stall()]) as provider, http_client() as http:
        reading = asyncio.create_task(read(http, provider.base_url, stall_s=STALL_S))
        await until(lambda: provider.answering == 1)
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        await gone(provider)


async def gone(provider: ScriptedProvider) -> None:
    async with asyncio.timeout(WAIT_S):
        await provider.left_early.wait()
