"""Reads OpenAI's wire strictly: chunks and errors that its clients would stumble over fail the test."""

import json
from typing import Any

import httpx

JSON = {"Content-Type": "application/json"}
ERROR_FIELDS = {"message", "type", "param", "code"}
FINISH_REASONS = {"stop", "length", "tool_calls", "content_filter"}


def hello(model: str = "gpt-4o", **fields: Any) -> dict[str, Any]:
    """A body that asks something."""
    return {"model": model, "messages": [{"role": "user", "content": "Raconte."}], **fields}


def objects_of(body: bytes) -> list[dict[str, Any]]:
    """The objects of a stream that ends well; comments are passed over."""
    blocks = _blocks(body)
    assert blocks.pop() == "data: [DONE]"
    return [_object(block) for block in blocks]


def objects_of_a_failed_stream(body: bytes) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The chunks, and the error event that ends them: nothing that looks like an end may stand there."""
    assert b"[DONE]" not in body
    *chunks, last = [_object(block) for block in _blocks(body)]
    assert set(last["error"]) == ERROR_FIELDS
    assert all(choice["finish_reason"] is None for chunk in chunks for choice in chunk["choices"])
    return chunks, last


def _blocks(body: bytes) -> list[str]:
    text = body.decode("utf-8")
    assert text.endswith("\n\n")
    return [block for block in text[:-2].split("\n\n") if block != ": ping"]


def _object(block: str) -> dict[str, Any]:
    assert "\n" not in block, block
    assert block.startswith("data: {"), block
    return dict(json.loads(block[6:]))


def check_chunks(chunks: list[dict[str, Any]], *, include_usage: bool = False, choices: int = 1) -> None:
    """What every stream owes its reader."""
    for name in ("id", "created", "model"):
        assert len({chunk[name] for chunk in chunks}) == 1, name
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[0]["id"].startswith("chatcmpl-")
    assert isinstance(chunks[0]["created"], int)
    if include_usage:
        last = chunks.pop()
        assert last["choices"] == []
        assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + last["usage"]["completion_tokens"]
        assert all(chunk["usage"] is None for chunk in chunks)
    else:
        assert not any("usage" in chunk for chunk in chunks)
    for index in range(choices):
        check_choice([part for chunk in chunks for part in chunk["choices"] if part["index"] == index])


def check_choice(parts: list[dict[str, Any]]) -> None:
    assert all(set(part) == {"index", "delta", "logprobs", "finish_reason"} for part in parts)
    first, *rest = parts
    assert first["delta"]["role"] == "assistant"
    assert not any("role" in part["delta"] for part in rest)
    assert [part["finish_reason"] for part in parts[:-1]] == [None] * (len(parts) - 1)
    assert parts[-1]["finish_reason"] in FINISH_REASONS
    assert parts[-1]["delta"] == {}


def text_of(chunks: list[dict[str, Any]], index: int = 0) -> str:
    parts = [part for chunk in chunks for part in chunk["choices"] if part["index"] == index]
    return "".join(part["delta"].get("content") or "" for part in parts)


def check_openai_error(answer: httpx.Response, status: int, code: str, param: str | None = None) -> str:
    """The message of an error answer, once its shape is checked."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    content = answer.json()
    assert set(content) == {"error"}
    error = content["error"]
    assert set(error) == ERROR_FIELDS
    assert error["code"] == code
    assert error["param"] == param
    assert error["type"]
    return str(error["message"])
