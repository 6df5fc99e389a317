"""A JSON body is bounded in its structure, its depth and its integers before it costs others anything."""

import json
import time
import tracemalloc
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from api.errors import MAX_PROBLEMS
from api.json_body import MAX_DEPTH, TooMuchStructure, parse_json, short_text
from app import create_app
from config.settings import Settings
from domain.errors import BadRequest, InvalidParameter
from services.agent_registry import AgentRegistry
from tests.live_server import LiveServer

SIZE = 4_000_000
JSON = {"Content-Type": "application/json"}
DOORS = ("/completion", "/v1/chat/completions", "/v1/embeddings", "/api/ask")


def repeated(part: bytes) -> bytes:
    return part * (SIZE // len(part))


def keys(value: bytes) -> bytes:
    return b",".join(b'"%x":%s' % (number, value) for number in range(SIZE // 10))


MANY_VALUES = {
    "numbers": b'{"a":[' + repeated(b"0,") + b"0]}",
    "long numbers": b'{"a":[' + repeated(b"12345678901234567,") + b"0]}",
    "empty strings": b'{"a":[' + repeated(b'"",') + b'""]}',
    "short strings": b'{"a":[' + repeated(b'"\\"",') + b'""]}',
    "lists": b'{"a":[' + repeated(b"[],") + b"[]]}",
    "objects": b'{"a":[' + repeated(b"{},") + b"{}]}",
    "objects with a field": b'{"a":[' + repeated(b'{"a":0},') + b"{}]}",
    "fields": b"{" + keys(b"0") + b"}",
    "fields of lists": b"{" + keys(b"[]") + b"}",
    "a repeated field": b"{" + repeated(b'"a":0,') + b'"a":0}',
    "lists that are not closed": repeated(b"["),
    "objects that are not closed": repeated(b'{"a":'),
    "spaced out": b'{"a":[' + repeated(b"[],   \n") + b"[]]}",
}


@pytest.mark.parametrize("kind", MANY_VALUES)
def test_many_small_values_are_counted_and_refused_before_they_are_built(kind: str) -> None:
    content = MANY_VALUES[kind]
    begun = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(TooMuchStructure, match="too many values"):
            parse_json(content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(content)
    assert time.process_time() - begun < 2  # Parsing and validating it took 9 s.


@pytest.mark.parametrize(
    "text",
    ["x" * SIZE, ',:[{"\\' * (SIZE // 12), "é☃😀" * (SIZE // 9), "\u0000" * (SIZE // 6)],
    ids=lambda text: text[:6],
)
def test_a_long_text_may_hold_anything(text: str) -> None:
    body = {"message": text, "history": [{"role": "user", "content": "[1,2,3]"}] * 1000}
    assert parse_json(json.dumps(body).encode()) == body


def test_what_programs_really_send_is_admitted() -> None:
    properties = {f"field_{number}": {"type": "string", "description": "a field"} for number in range(20)}
    function = {"name": "f", "parameters": {"type": "object", "properties": properties}}
    tools = [{"type": "function", "function": function}] * 128
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 500
    texts = ["a passage, of some length: it has [marks] and {more}"] * 2048
    for body in (
        {"tools": tools, "messages": history},
        {"input": texts},
        {"rows": [[n, n / 7] for n in range(10_000)]},
    ):
        assert parse_json(json.dumps(body).encode()) == body


@pytest.mark.parametrize("opening", [("[", "]"), ('{"a":', "}")], ids=["lists", "objects"])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 300, 900])
def test_what_is_nested_too_deep_is_refused_by_its_field(opening: tuple[str, str], depth: int) -> None:
    content = '{"message": "a", "resume": ' + opening[0] * depth + "1" + opening[1] * depth + "}"
    with pytest.raises(InvalidParameter, match=f"^resume: it is nested more than {MAX_DEPTH} deep"):
        parse_json(content.encode())


def test_the_depth_that_is_allowed_is_allowed() -> None:
    content = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_json(content.encode()) is not None
    wide = '{"a": [' + "[]," * 500 + "[]]}"
    assert len(parse_json(wide.encode())["a"]) == 501


@pytest.mark.parametrize("depth", [2_000, 20_000, SIZE])
def test_any_depth_is_refused(depth: int) -> None:
    with pytest.raises(BadRequest):
        parse_json(b'{"a":' + b"[" * depth + b"]" * depth + b"}")


@pytest.mark.parametrize(
    "number",
    [2**64, -(2**63) - 1, 10**30, int("9" * 300), -(10**400), 10**5000],
    ids=lambda number: f"2^{len(bin(abs(number)))}",
)
@pytest.mark.parametrize("inside", ['{"a": %s}', '{"a": [{"b": [1, %s]}]}'])
def test_an_integer_of_more_than_64_bits_is_refused(inside: str, number: int) -> None:
    """The parser would make a float of it: another number than was sent."""
    digits = ("-" if number < 0 else "") + _digits(abs(number))
    with pytest.raises(BadRequest) as refused:
        parse_json((inside % digits).encode())
    if len(digits) < 300:
        assert isinstance(refused.value, InvalidParameter)
        assert refused.value.param == "a"


def _digits(number: int) -> str:
    """Without Python's own limit on the digits that it writes."""
    parts = []
    while number:
        number, part = divmod(number, 10**1000)
        parts.append(f"{part:01000}")
    return "".join(reversed(parts)).lstrip("0")


@pytest.mark.parametrize(
    "number", [2**64 - 1, -(2**63), 0, 1e300, 3.14159265358979323846, 0.1234567890123456789012, 12345678901234567890.5]
)
def test_other_numbers_are_what_was_sent(number: float) -> None:
    assert parse_json(f'{{"a": {number!r}, "text": "{"1" * 40}"}}'.encode())["a"] == number


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b'"\\ud800"', b"NaN", b"1e999", b"{} {}", b"[1,]", b"{}\xef\xbb\xbf"]
)
def test_what_is_no_json_is_refused(content: bytes) -> None:
    with pytest.raises(BadRequest, match="not valid JSON"):
        parse_json(content)


def test_a_byte_order_mark_is_passed_over() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": 12345678901234567890}') == {"a": 12345678901234567890}


@pytest.mark.parametrize(
    "value", [["a"], {"b": 1, "a": [1, {}]}, "a", None, True, 1.5, [], {}, {"type": "x", "text": ["y", "z"]}]
)
def test_a_short_value_is_quoted_as_it_is(value: Any) -> None:
    assert short_text(value) == repr(value)


def test_a_large_value_is_quoted_by_its_beginning() -> None:
    """Without writing out all of it first."""
    for value in ([0] * SIZE, "x" * SIZE, {str(n): n for n in range(300_000)}, [[["x" * SIZE] * 9] * 9] * 9):
        tracemalloc.start()
        try:
            assert len(short_text(value)) <= 80
            assert tracemalloc.get_traced_memory()[1] < 500_000
        finally:
            tracemalloc.stop()


def test_no_route_lets_the_framework_parse_a_body(tmp_path: Any) -> None:
    """It would parse it before the credential is checked, and without a bound."""
    app = create_app(Settings(_env_file=None, data_dir=tmp_path, local_model="none"), AgentRegistry())
    assert [route.path for route in app.routes if isinstance(route, APIRoute) and route.body_field] == []


@pytest.mark.parametrize("path", DOORS)
async def test_without_a_credential_a_body_is_not_even_parsed(server: LiveServer, path: str) -> None:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as stranger:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            answer = await stranger.post(path, content=b"{", headers={**JSON, **headers})
            assert answer.status_code == 401, answer.text


@pytest.mark.parametrize("path", DOORS)
@pytest.mark.parametrize("part", [b"0,", b'"",', b"{},", b"[],"])
async def test_a_large_hostile_body_gets_a_small_refusal(client: httpx.AsyncClient, path: str, part: bytes) -> None:
    content = b'{"message":"a","conversation_history":[' + part * (150_000 // len(part)) + b"0]}"
    answer = await client.post(path, content=content, headers=JSON)
    assert answer.status_code == 400
    assert len(answer.content) < 2_000


@pytest.mark.parametrize(
    "fields",
    [
        {"conversation_history": [{"role": "user", "content": 1, "x" * 5_000: 2}] * 20},
        {"conversation_history": ["x" * 1_000] * 20},
        {"conversation_history": [{str(n): n for n in range(5_000)}]},
        {str(n): n for n in range(10_000)},
        {str(n): "x" * 2_000 for n in range(60)},
        {"x" * 100_000: 1},
        {"metadata": {str(n): n for n in range(10_000)}},
        {"sources": ["a"] * 10_000},
        {"sources": [1] * 900},
        {"stream": {"a": ["x" * 1_000] * 100}},
    ],
    ids=lambda fields: str(fields)[:30],
)
async def test_a_refusal_names_a_few_fields_and_stays_small(client: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    answer = await client.post("/completion", json={"message": "a", **fields})
    assert answer.status_code == 400, answer.text
    assert len(answer.content) < 64_000
    detail = answer.json()["detail"]
    assert isinstance(detail, str) or len(detail) <= MAX_PROBLEMS


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}] * 1_001),
        ("stop", ["a"] * 65),
        ("logit_bias", {str(n): 1 for n in range(5_000)}),
        ("sources", ["a"] * 1_001),
        ("messages", [{"role": "user", "content": "a"}] * 25),
        ("messages.0.content", [{"role": "user", "content": [{"type": "text", "text": "a"}] * 1_001}]),
        ("messages.0.tool_calls", [{"role": "assistant", "tool_calls": [{}] * 1_001}]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_every_list_of_a_chat_is_bounded(client: httpx.AsyncClient, field: str, value: Any) -> None:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "a"}], field.partition(".")[0]: value}
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == field


@pytest.mark.parametrize("count", [3, 90_000])
async def test_arrays_of_tokens_are_answered_alike_however_many(client: httpx.AsyncClient, count: int) -> None:
    body = b'{"model":"use-multilingual-v3","input":[[' + b"1," * count + b"1]]}"
    answer = await client.post("/v1/embeddings", content=body, headers=JSON)
    assert answer.status_code == 400
    assert "tokens are not taken" in answer.json()["error"]["message"]


async def test_a_request_for_a_token_is_small(server: LiveServer) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as stranger:
        assert (await stranger.post("/auth/token", content=b"a" * 70_000)).status_code == 413
        many = await stranger.post("/auth/token", content=b"a=b&" * 10_000, headers=form)
        assert many.status_code == 200  # In development clients may post anything.
