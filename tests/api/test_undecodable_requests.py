"""What cannot be decoded, or not be encoded again, is refused as the caller's fault at every door."""

import gzip
import json
from typing import Any

import httpx
import pytest

from tests.live_server import LiveServer

JSON = {"Content-Type": "application/json"}
UPLOADS = ("/transcription", "/transcription/meeting", "/v1/audio/transcriptions")


def nested(depth: int, around: str = "[") -> str:
    return "[" * depth + "1" + "]" * depth if around == "[" else '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP", "deflate, gzip", "x" * 500])
@pytest.mark.parametrize("path", ["/completion", "/v1/chat/completions", "/v1/embeddings", "/api/ask", "/auth/token"])
async def test_an_encoded_body_is_unsupported_media(client: httpx.AsyncClient, path: str, encoding: str) -> None:
    content = gzip.compress(b'{"message": "a"}')
    answer = await client.post(path, content=content, headers={**JSON, "Content-Encoding": encoding})
    assert answer.status_code == 415, answer.text
    assert f"Content-Encoding: {encoding[:80]!r}" in answer.text
    assert len(answer.content) < 1_000


async def test_an_encoding_that_changes_nothing_is_taken(client: httpx.AsyncClient) -> None:
    headers = {**JSON, "Content-Encoding": "identity"}
    assert (await client.post("/completion", content=b'{"message": ""}', headers=headers)).status_code == 400


@pytest.mark.parametrize("path", UPLOADS)
@pytest.mark.parametrize("length", [257, 300, 60_000])
async def test_a_boundary_that_is_too_long_is_refused(client: httpx.AsyncClient, path: str, length: int) -> None:
    boundary = "x" * length
    content = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\na\r\n--{boundary}--'
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    answer = await client.post(path, content=content.encode(), headers=headers)
    assert answer.status_code == 400, answer.text
    assert "at most 256" in answer.text


@pytest.mark.parametrize("around", ["[", "{"])
@pytest.mark.parametrize("depth", [150, 300, 900])
@pytest.mark.parametrize("field", ["tools", "logit_bias", "tool_choice", "response_format", "messages", "of_tomorrow"])
async def test_a_field_of_a_chat_that_is_nested_too_deep_is_named(
    client: httpx.AsyncClient, field: str, depth: int, around: str
) -> None:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "a"}]}
    body.pop(field, None)
    function = f'{{"type": "function", "function": {{"name": "f", "parameters": {nested(depth, around)}}}}}'
    value = f"[{function}]" if field == "tools" else nested(depth, around)
    content = json.dumps(body)[:-1] + f', "{field}": {value}}}'
    answer = await client.post("/v1/chat/completions", content=content, headers=JSON)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == field


@pytest.mark.parametrize(
    "value", [nested(300), nested(300, "{"), "18446744073709551616", "-9223372036854775809", "9" * 200]
)
async def test_an_answer_that_cannot_be_stored_is_named(client: httpx.AsyncClient, value: str) -> None:
    content = f'{{"thread_id": "t", "resume": {{"answer": {value}}}}}'
    answer = await client.post("/completion", content=content, headers=JSON)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"].startswith("resume: ")


@pytest.mark.parametrize("field", ["seed", "logit_bias", "tools", "max_tokens", "of_tomorrow"])
async def test_an_integer_of_more_than_64_bits_is_named(client: httpx.AsyncClient, field: str) -> None:
    number = 2**64
    values: dict[str, Any] = {
        "logit_bias": {"1": number},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"maximum": number}}}],
    }
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "a"}], field: values.get(field, number)}
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == field


@pytest.mark.parametrize(
    "content_type",
    [
        b"multipart/form-data; boundary=",
        b"multipart/form-data; boundary=\xff",
        b'multipart/form-data; boundary="a b"',
        b"multipart/form-data; boundary*=utf-8''%ff",
        b";",
        b"\xff",
        b"application/json; boundary=x",
    ],
)
@pytest.mark.parametrize("path", UPLOADS)
async def test_a_form_that_is_declared_wrongly_is_refused(server: LiveServer, path: str, content_type: bytes) -> None:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as client:
        headers = [(b"Content-Type", content_type), (b"Authorization", f"Bearer {server.token()}".encode())]
        answer = await client.post(path, content=b"--x\r\n\r\n", headers=headers)
    assert answer.status_code in {400, 415}, answer.text
