"""How an answer ends when its connection breaks, stays open, or carries what is no answer any more."""

import asyncio
import json
from typing import Any

import pytest

from domain.errors import BadRequest, ContextOverflow, InsufficientQuota, ProviderCut, RateLimitedByProvider
from services.llm.providers import wire
from services.llm.providers.sse_decoder import Decoder
from services.llm.providers.wire import ask_whole
from tests.scripted_provider import Chunk, ContentType, Cut, Stall, Step, Wait, chunk, say
from tests.wire_reader import PAYLOAD, answer_to, endpoint, http_client, raw_server, read

STALL_S = 90.0
OPEN_S = 5.0
"""What an answer may take whose end is known, though its connection stays open; more than the wait for usage."""
ENDINGS = pytest.mark.parametrize("ending", [[Cut()], [Wait(0.02), Cut()], [Stall()]], ids=["cut", "cut later", "open"])


@pytest.fixture(autouse=True)
def short_wait_for_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "AFTER_FINISH_S", 0.1)


def event(content: Any) -> bytes:
    return b"data: " + json.dumps(content).encode()


def call(first: str, *more: str) -> list[Step]:
    begin = {"index": 0, "id": "a", "type": "function", "function": {"name": "now", "arguments": first}}
    rest = ({"index": 0, "function": {"arguments": arguments}} for arguments in more)
    return [chunk({"tool_calls": [one]}) for one in (begin, *rest)]


@ENDINGS
@pytest.mark.parametrize("arguments", [["{}"], ["{}", ""], ["", "{}"], [""], ['{"a": 1}']], ids=str)
async def test_a_call_is_whole_when_its_finish_reason_has_come(arguments: list[str], ending: list[Step]) -> None:
    """Arguments that are `{}` wait for others: that they are passed on with the reason is no news."""
    async with asyncio.timeout(OPEN_S):
        answer = await answer_to(*call(*arguments), chunk({}, "tool_calls"), *ending, stall_s=STALL_S)
    assert answer.error is None
    deltas = [item["choices"][0]["delta"] for item in answer.items if isinstance(item, dict)]
    fragments = [fragment for delta in deltas for fragment in delta.get("tool_calls", ())]
    assert [fragment["id"] for fragment in fragments if "id" in fragment] == ["a"]
    assert "".join(fragment["function"]["arguments"] for fragment in fragments) == "".join(arguments)


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("as_event", [True, False], ids=["event", "object"])
@pytest.mark.parametrize("line_end", [b"", b"\n"], ids=["bare", "a line"])
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "no money", "code": "insufficient_quota"}, InsufficientQuota),
        ({"message": "zorgblat", "code": 400}, BadRequest),
        ({"message": "slow down", "code": 429}, RateLimitedByProvider),
        ({"message": "maximum context length is 10 tokens", "code": 400}, ContextOverflow),
    ],
    ids=str,
)
async def test_an_error_that_came_whole_is_not_lost_with_the_connection(
    error: dict[str, Any], kind: type[Exception], line_end: bytes, as_event: bool, later: bool
) -> None:
    body = event({"error": error}) if as_event else json.dumps({"error": error}).encode()
    steps: list[Step] = [Chunk(body + line_end), *([Wait(0.02)] if later else []), Cut()]
    answer = await answer_to(ContentType("text/event-stream" if as_event else "application/json"), *steps)
    assert type(answer.error) is kind


@pytest.mark.parametrize("half", [b'data: {"error": {"mess', b'data: {"choices": [{"delta": {"cont', b"data:"])
async def test_half_an_event_is_explained_by_the_broken_connection(half: bytes) -> None:
    answer = await answer_to(*say("Half"), Chunk(half), Cut())
    assert isinstance(answer.error, ProviderCut)
    assert "broke the connection" in answer.error.message


@ENDINGS
async def test_a_message_with_its_reason_and_its_usage_ends_an_answer(ending: list[Step]) -> None:
    whole = {
        "choices": [{"message": {"content": "Bonjour"}, "finish_reason": "stop"}],
        "usage": {"completion_tokens": 2},
    }
    async with asyncio.timeout(OPEN_S):
        answer = await answer_to(Chunk(event(whole) + b"\n\n"), *ending, stall_s=STALL_S)
    assert answer.error is None
    (end,) = answer.items
    assert isinstance(end, dict)
    assert end["choices"] == [{"delta": {"content": "Bonjour"}, "finish_reason": "stop"}]


def test_objects_in_lines_may_end_with_the_done_mark() -> None:
    lines = [
        {"choices": [{"delta": {"content": "Bonjour"}, "finish_reason": None}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    ]
    decoder = Decoder("fake")
    text, end = decoder.whole(b"\n".join(json.dumps(line).encode() for line in lines) + b"\n[DONE]\n")
    assert isinstance(text, dict)
    assert isinstance(end, dict)
    assert text["choices"][0]["delta"]["content"] == "Bonjour"
    assert end["choices"][0]["finish_reason"] == "stop"
    assert decoder.is_settled


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
PAGE = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\n\r\n<html>bad</html>"
NO_CHUNKS = pytest.mark.parametrize("rest", [PAGE, b"zz\r\n", b"f" * 20 + b"\r\nabc", b"5\r\nhelloXX"], ids=str)


def framed(*contents: Any) -> bytes:
    body = b"".join(event(content) + b"\n\n" for content in contents)
    return b"%x\r\n%b\r\n" % (len(body), body)


PIECE = {"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]}
END = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


@NO_CHUNKS
@pytest.mark.parametrize("before", [[], [framed(PIECE)]], ids=["nothing", "a piece"])
async def test_bytes_that_are_no_chunk_break_the_connection(rest: bytes, before: list[bytes]) -> None:
    """A proxy writes a page of its own into the body when what is behind it dies."""
    async with raw_server(HEAD, *before, rest) as url, http_client() as http, asyncio.timeout(OPEN_S):
        answer = await read(http, url, stall_s=STALL_S)
        assert isinstance(answer.error, ProviderCut)
        assert answer.error.retryable
        with pytest.raises(ProviderCut):
            await ask_whole(http, endpoint(url), PAYLOAD)


@NO_CHUNKS
async def test_what_follows_a_finished_answer_does_not_harm_it(rest: bytes) -> None:
    async with raw_server(HEAD, framed(PIECE, END), rest) as url, http_client() as http, asyncio.timeout(OPEN_S):
        answer = await read(http, url, stall_s=STALL_S)
    assert (answer.text, answer.error) == ("Hello", None)
