"""A body is read by its bytes: whatever form an answer comes in, cut wherever it is, the caller gets the same."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import ContextOverflow, ProviderCut, RouteurError
from services.llm.providers.chunk_reader import read_chunk
from services.llm.providers.sse_decoder import Decoder
from tests.wire_reader import flat


def event(delta: dict[str, Any] | None = None, reason: Any = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [choice], "model": "m", **more}).encode()


def whole(text: str = "Bonjour", reason: str | None = "stop", **message: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, **message}
    return {"choices": [{"index": 0, "message": message, "finish_reason": reason}], "model": "m"}


class Read:
    """What a body says: its text, its reasoning, its last finish reason, and its failure."""

    def __init__(self, body: bytes, cuts: list[int] | None = None) -> None:
        self.text = self.reasoning = ""
        self.reason: str | None = None
        self.error: RouteurError | None = None
        self.events: list[Any] = []
        self.decoder = decoder = Decoder("fake")
        for part in _parts(body, cuts or [len(body) or 1]):
            self._take(decoder.feed(part))
            if decoder.failure is not None:
                break
        else:
            self._take(decoder.end())
        self.error = decoder.failure

    def _take(self, deltas: list[Any]) -> None:
        orjson.dumps(deltas)
        for item in flat(deltas):
            self.events.append(item)
            if isinstance(item, str):
                self.text += item
                continue
            chunk = read_chunk(item)
            self.text += str(chunk.message.text)
            self.reasoning += chunk.message.additional_kwargs.get("reasoning_content", "")
            self.reason = (chunk.generation_info or {}).get("finish_reason") or self.reason


def _parts(body: bytes, cuts: list[int]) -> list[bytes]:
    parts, turn = [], 0
    while body:
        size = cuts[turn % len(cuts)]
        parts.append(body[:size])
        body, turn = body[size:], turn + 1
    return parts


BON, JOUR, STOP = event({"content": "Bon"}), event({"content": "jour"}), event({}, "stop")
DONE = b"data: [DONE]"
EVENTS = [BON, JOUR, STOP, DONE]
INDENTED = json.dumps(whole(), indent=2).encode()
FORMS: dict[str, bytes] = {
    "events": b"\n\n".join(EVENTS) + b"\n\n",
    "no blank line at the end": b"\n\n".join(EVENTS[:3]) + b"\n",
    "no line end at the end": b"\n\n".join(EVENTS[:3]),
    "done without a line end": b"\n\n".join(EVENTS),
    "carriage returns and line feeds": b"\r\n\r\n".join(EVENTS) + b"\r\n\r\n",
    "carriage returns": b"\r\r".join(EVENTS) + b"\r\r",
    "no blank lines at all": b"\n".join(EVENTS) + b"\n",
    "no space": b"\n\n".join(event.replace(b"data: ", b"data:") for event in EVENTS) + b"\n\n",
    "a byte order mark": b"\xef\xbb\xbf" + b"\n\n".join(EVENTS) + b"\n\n",
    "blank lines and comments before": b"\n\r\n: waiting\n\n:\n\n" + b"\n\n".join(EVENTS) + b"\n\n",
    "fields between": b"".join(b"event: message\nid: 7\nretry: 10\n" + event + b"\n\n" for event in EVENTS),
    "fields after": b"".join(event + b"\nid: 7\n: done\n\n" for event in EVENTS),
    "indented events": b"".join(
        b"\n".join(b"data: " + line for line in json.dumps(orjson.loads(event[6:]), indent=1).encode().split(b"\n"))
        + b"\n\n"
        for event in EVENTS[:3]
    ),
    "one object": json.dumps(whole()).encode(),
    "an indented object": b"\n \n" + INDENTED + b"\n",
    "an object, then done": json.dumps(whole()).encode() + b"\n\ndata: [DONE]\n\n",
    "an indented object, then done": INDENTED + b"data: [DONE]",
    "an object as an event": b"data: " + json.dumps(whole()).encode() + b"\n\n" + DONE + b"\n\n",
    "a list of one object": json.dumps([whole()]).encode(),
    "a list of chunks": b"[" + b",\n".join(event[6:] for event in EVENTS[:3]) + b"]",
    "each event a list": b"".join(b"data: [" + event[6:] + b"]\n\n" for event in EVENTS[:3]),
    "a chunk a line": b"\n".join(event[6:] for event in EVENTS[:3]),
    "texts of an old completion": b'data: {"choices":[{"text":"Bonjour","finish_reason":"stop"}]}\n\n',
    "blocks": event({"content": [{"type": "text", "text": "Bon"}, {"type": "text", "text": "jour"}]}, "stop"),
    "a finish reason on every event": event({"content": "Bon"}, "stop") + b"\n\n" + event({"content": "jour"}, "stop"),
    "text after the finish reason": BON + b"\n\n" + STOP + b"\n\n" + JOUR + b"\n\n" + DONE,
    "half an event after the end": b"\n\n".join(EVENTS[:3]) + b'\n\ndata: {"choi',
    "null choices in between": BON + b'\n\ndata: {"choices": null}\n\ndata: {}\n\n' + JOUR + b"\n\n" + STOP,
    "messages for deltas": b"".join(
        b"data: " + json.dumps(whole(*p)).encode() + b"\n\n" for p in [("Bon", None), ("jour",)]
    ),
    "a message that sums up": BON + b"\n\n" + JOUR + b"\n\ndata: " + json.dumps(whole()).encode(),
    "a ping of its own type": b'event: ping\ndata: {"type": "ping"}\n\n' + b"\n\n".join(EVENTS) + b"\n\n",
}


@pytest.mark.parametrize("body", FORMS.values(), ids=FORMS.keys())
@given(cuts=st.lists(st.integers(1, 60), min_size=1, max_size=4))
def test_an_answer_is_the_same_in_every_form_and_however_it_is_cut(body: bytes, cuts: list[int]) -> None:
    for read in (Read(body), Read(body, cuts), Read(body, [1])):
        assert (read.text, read.reason, read.error) == ("Bonjour", "stop", None)


def test_events_without_blank_lines_come_as_they_arrive() -> None:
    decoder = Decoder("fake")
    assert flat(decoder.feed(BON + b"\n" + JOUR[:20])) == ["Bon"]
    assert flat(decoder.feed(JOUR[20:] + b"\n" + STOP[:9])) == ["jour"]


def test_a_whole_object_ends_the_answer_though_the_line_stays_open() -> None:
    decoder = Decoder("fake")
    assert len(decoder.feed(INDENTED[:50])) == 0
    assert not decoder.done
    assert len(decoder.feed(INDENTED[50:])) == 1
    assert decoder.done
    assert decoder.is_settled


@pytest.mark.parametrize(
    "needs_no_repair",
    [
        {"choices": [{"index": 0, "delta": {"content": "a", "x": 1}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {"reasoning": "hm"}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1}},
        {"choices": [], "usage": {"prompt_tokens": 1}},
    ],
    ids=lambda parsed: str(parsed)[13:60],
)
def test_an_event_that_needs_no_repair_comes_out_as_the_same_object(needs_no_repair: dict[str, Any]) -> None:
    normaliser = Decoder("fake").normaliser
    assert normaliser.event(needs_no_repair) is needs_no_repair


# Halves of characters

HALVES: dict[str, tuple[list[str], str]] = {
    "in two events": (['"\\ud83d"', '"\\ude00"'], "😀"),
    "between text": (['"a\\ud83d"', '"\\ude00b"'], "a😀b"),
    "with an empty piece between": (['"\\ud83d"', '""', '"\\ude00"'], "😀"),
    "a first half alone": (['"a\\ud83d"', '"b"'], "a\ufffdb"),
    "a first half at the end": (['"a"', '"\\ud83d"'], "a\ufffd"),
    "a second half alone": (['"a"', '"\\ude00b"'], "a\ufffdb"),
    "the wrong way round": (['"\\ude00\\ud83d"'], "\ufffd\ufffd"),
    "many": (['"\\ud83d"', '"\\ude00\\ud83d"', '"\\ude01"', '"c"', '"d"', '"e"'], "😀😁cde"),
    "alone after the shortcut is learnt": (['"a"', '"b"', '"c"', '"d\\ud83d"', '"e"', '"f"'], "abcd\ufffdef"),
    "after the shortcut is learnt": (['"a"', '"b"', '"c"', '"d\\ud83d"', '"\\ude00"', '"e"'], "abcd😀e"),
}


@pytest.mark.parametrize("name", ["content", "reasoning_content", "reasoning"])
@pytest.mark.parametrize(("pieces", "text"), HALVES.values(), ids=HALVES.keys())
def test_halves_of_characters_are_joined_across_events(pieces: list[str], text: str, name: str) -> None:
    spelt = b"".join(b'data: {"choices":[{"delta":{"%b":%b}}]}\n\n' % (name.encode(), p.encode()) for p in pieces)
    for read in (Read(spelt + STOP + b"\n\n"), Read(spelt + STOP + b"\n\n", [1])):
        assert (read.text if name == "content" else read.reasoning, read.error) == (text, None)


@pytest.mark.parametrize("half", ["\\ud83d", "\\ude00"])
def test_half_a_character_anywhere_reaches_no_encoder(half: str) -> None:
    message = f'{{"content":"a{half}","x{half}":["{half}"],"tool_calls":[{{"id":"{half}","function":{{"name":"{half}"'
    body = f'{{"choices":[{{"message":{message},"arguments":"{half}"}}}}]}},"finish_reason":"stop"}}],"id":"{half}"}}'
    read = Read(body.encode())
    assert (read.text, read.error) == ("a\ufffd", None)
    error = Read(f'data: {{"error":{{"message":"no {half}","code":400}}}}\n\n'.encode()).error
    assert error is not None
    assert orjson.dumps(error.message)


def test_numbers_that_no_encoder_takes_are_left_out() -> None:
    read = Read(b'{"choices":[{"message":{"content":"a","x":NaN,"y":1' + b"0" * 40 + b'},"finish_reason":"stop"}]}')
    assert (read.text, read.error) == ("a", None)


# Finish reasons

REASONS: dict[Any, str] = {
    **dict.fromkeys(("stop", "STOP", "eos", "eos_token", "end_turn", "COMPLETE", "whatever", 1, True), "stop"),
    **dict.fromkeys(("stop_sequence", "done", "FINISH_REASON_STOP", "completed", "normal"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "MAX_TOKENS", "model_length", "token_limit"), "length"),
    **dict.fromkeys(("content_filter", "SAFETY", "sensitive", "refusal", "ERROR_TOXIC"), "content_filter"),
}
CALL = {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}


@pytest.mark.parametrize(("given_reason", "reason"), REASONS.items(), ids=str)
def test_every_vendors_reason_is_one_of_openais(given_reason: Any, reason: str) -> None:
    assert Read(BON + b"\n\n" + event({}, given_reason)).reason == reason


@pytest.mark.parametrize("given_reason", ["stop", "eos", "STOP", "end_turn", "tool_calls", "function_call", "tool_use"])
@pytest.mark.parametrize("together", [True, False])
def test_tool_calls_are_to_be_made_whatever_word_ends_the_answer(given_reason: str, together: bool) -> None:
    body = event(CALL, given_reason) if together else event(CALL) + b"\n\n" + event({}, given_reason)
    assert Read(body).reason == "tool_calls"
    assert Read(event({}, "stop") + b"\n\n" + event(CALL)).reason == "tool_calls"
    assert Read(event(CALL) + b"\n\n" + event({}, "length")).reason == "length"


def test_a_function_call_of_old_is_a_tool_call() -> None:
    name, rest = {"name": "f", "arguments": '{"a"'}, {"arguments": ": 1}"}
    body = b"\n\n".join([event({"function_call": name}), event({"function_call": rest}), event({}, "function_call")])
    read = Read(body)
    calls = [item["choices"][0]["delta"]["tool_calls"][0] for item in read.events[:2]]
    assert [call["function"]["arguments"] for call in calls] == ['{"a"', ": 1}"]
    assert (calls[0]["type"], read.reason) == ("function", "tool_calls")


@pytest.mark.parametrize("nothing", [None, "", "null"])
def test_a_reason_that_says_nothing_is_none(nothing: Any) -> None:
    read = Read(event({"content": "Half"}, nothing))
    assert isinstance(read.error, ProviderCut)


FAILURES = ["error", "ERROR", "insufficient_system_resource", "network_error", "abort", "cancelled", "CANCELED"]
FAILURES += [
    "timeout",
    "time_limit",
    "TIMED_OUT",
    "MALFORMED_FUNCTION_CALL",
    "MalformedResponse",
    "UNEXPECTED_TOOL_CALL",
]
FAILURES += ["failed", "model_failure", "server_overloaded", "interrupted", "service_unavailable", "internalException"]
FAILURES += ["invalid_output", "not_finished", "unknown_error", "TOO_MANY_TOOL_CALLS", "disconnected", "out_of_memory"]


@pytest.mark.parametrize("reason", FAILURES)
@pytest.mark.parametrize("has_calls", [True, False])
def test_a_reason_of_failure_is_a_failure(reason: str, has_calls: bool) -> None:
    read = Read(event({"content": "Half", **(CALL if has_calls else {})}) + b"\n\n" + event({}, reason))
    assert (read.text, type(read.error)) == ("Half", ProviderCut)
    assert read.error is not None
    assert reason in read.error.message


# Errors under status 200

WORDS = "the prompt is not allowed here"
ERRORS: dict[str, Any] = {
    "an object": {"error": {"message": WORDS, "code": 400}},
    "words": {"error": WORDS},
    "an object that says it is one": {"object": "error", "message": WORDS, "code": 400},
    "of a type": {"type": "error", "error": {"type": "invalid_request_error", "message": WORDS}},
    "beside choices": {"error": {"message": WORDS, "code": 400}, "choices": [{"delta": {"content": ""}}]},
    "in a choice": {"choices": [{"delta": {"content": ""}, "finish_reason": "error", "error": {"message": WORDS}}]},
    "a message alone": {"message": WORDS, "code": "InvalidParameter"},
    "a detail alone": {"detail": WORDS},
    "of MiniMax": {"base_resp": {"status_code": 1004, "status_msg": WORDS}, "choices": None},
    "in a list": {"errors": [{"message": WORDS}], "success": False},
    "in a list, as words": {"errors": [WORDS]},
    "the first of a list": {"errors": [{"message": WORDS, "code": 400}, {"message": "another"}], "error": None},
    "as the object of errors": {"errors": {"message": WORDS, "code": 400}},
}


@pytest.mark.parametrize("place", ["body", "first", "middle", "last", "unended"])
@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
def test_an_error_under_status_200_reaches_the_caller_in_the_providers_words(error: Any, place: str) -> None:
    spelt = json.dumps(error).encode()
    bodies = {
        "body": spelt,
        "first": b"data: " + spelt + b"\n\n",
        "middle": BON + b"\n\ndata: " + spelt + b"\n\n" + STOP + b"\n\n",
        "last": BON + b"\n\n" + STOP + b"\n\ndata: " + spelt + b"\n\n",
        "unended": BON + b"\n\ndata: " + spelt,
    }
    for label in (b"error: ", b"event: error\ndata: "):
        assert WORDS in getattr(Read(label + spelt).error, "message", "")
    read = Read(bodies[place])
    assert read.text == ("" if place in {"body", "first"} else "Bon")
    assert read.error is not None
    assert WORDS in read.error.message


@pytest.mark.parametrize(
    "spelt",
    [
        f'error: {{"message": "{WORDS}", "code": 400}}\n\n',
        f"error: {WORDS}\n\n",
        f'event: error\ndata: {{"message": "{WORDS}"}}\n\n',
        f'event: error\ndata: {{"error": {{"message": "{WORDS}"}}}}\n\n',
        f"event: error\ndata: {WORDS}\n\n",
        f'{{"error": {{"message": "{WORDS}"}}}}',
        f'{{"detail": "{WORDS}"}}\n\n',
        f"event:error\r\ndata:{WORDS}",
        f'[{{"error": {{"message": "{WORDS}"}}}}]',
        WORDS,
        f"data: {WORDS}\n\n",
    ],
)
def test_an_error_by_its_label_or_as_bare_words_is_an_error_too(spelt: str) -> None:
    for before in (b"", BON + b"\n\n"):
        error = Read(before + spelt.encode()).error
        assert error is not None
        assert WORDS in error.message


@pytest.mark.parametrize(
    ("code", "kind", "retryable"),
    [
        (400, "BadRequest", None),
        ("400", "BadRequest", None),
        (401, "ProviderRefused", False),
        (402, "InsufficientQuota", False),
        (404, "ModelNotServed", False),
        (408, "ProviderRefused", True),
        (409, "ProviderRefused", False),
        (418, "ProviderRefused", False),
        (422, "BadRequest", None),
        (429, "RateLimitedByProvider", True),
        (500, "ProviderCut", True),
        (529, "ProviderCut", True),
        (1234, "ProviderCut", True),
        ("rate_limit_exceeded", "RateLimitedByProvider", True),
        ("insufficient_quota", "InsufficientQuota", False),
        ("invalid_request_error", "BadRequest", None),
        ("context_length_exceeded", "ContextOverflow", None),
        ("server_error", "ProviderCut", True),
    ],
)
def test_the_code_of_an_error_under_200_decides_whether_it_is_tried_again(
    code: Any, kind: str, retryable: bool | None
) -> None:
    given_error = {"message": "no", "code": code}
    for error in (
        {"error": given_error},
        {"object": "error", **given_error},
        {"errors": [given_error]},
        {"errors": [given_error], "choices": []},
        {"error": {"error": given_error}},
        [{"error": given_error}],
    ):
        for label in (b"data: ", b"event: error\ndata: ", b"error: "):
            failure = Read(label + json.dumps(error).encode() + b"\n\n").error
            assert type(failure).__name__ == kind
            assert getattr(failure, "retryable", None) == retryable


def test_an_event_of_errors_that_gives_no_reason_is_an_error_all_the_same() -> None:
    assert isinstance(Read(BON + b"\n\nevent: error\n\n" + STOP).error, ProviderCut)


OVERFLOWS = [
    "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
    "prompt is too long: 210000 tokens > 200000 maximum",
    "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
    "The decoder prompt (length 9000) is longer than the maximum model length of 8192.",
    "You passed 9000 input tokens. However, the model's context length is only 8192 tokens",
    "the request exceeds the available context size. try increasing the context size or enable context shift",
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000",
    "Please reduce the length of the messages or completion.",
    "Input is too long for requested model.",
    "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
    "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
    "Your input exceeds the context window of this model. Please adjust your input and try again.",
    "Invalid request: Your request exceeded model token limit: 8192",
    "Range of input length should be [1, 30720]",
    "This model's maximum prompt length is 131072 but the request contains 140000 tokens.",
    "Prompt exceeds max length",
    "prompt token count (9000) cannot exceed 4096",
    "too many tokens",
]


@pytest.mark.parametrize("words", OVERFLOWS, ids=lambda words: words[:30])
@pytest.mark.parametrize("code", [400, None])
def test_a_conversation_that_is_too_long_is_recognised_in_every_vendors_words(words: str, code: int | None) -> None:
    failure = Read(json.dumps({"error": {"message": words, "code": code}}).encode()).error
    assert isinstance(failure, ContextOverflow)


@pytest.mark.parametrize("words", ["Request too large for gpt-4o on tokens per min (TPM)", "max_tokens is too large"])
def test_other_limits_are_no_overflow_of_the_context(words: str) -> None:
    assert not isinstance(Read(json.dumps({"error": words}).encode()).error, ContextOverflow)


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><html>busy</html>", b"\n  <html>", b"\xef\xbb\xbf<?xml?>"])
def test_a_page_is_an_error_that_shows_what_it_was(page: bytes) -> None:
    decoder = Decoder("fake")
    decoder.content_type = "text/html"
    decoder.feed(page)
    assert isinstance(decoder.failure, ProviderCut)
    assert "text/html" in decoder.failure.message
    assert "<" not in decoder.failure.message
    assert ("busy" in decoder.failure.message) == (b"busy" in page)
