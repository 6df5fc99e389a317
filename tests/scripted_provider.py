"""A strict OpenAI-compatible provider under real HTTP: each request plays the next script, and must be well formed.

    async with scripted_provider([*say("Bon", "jour"), *finish()]) as provider:
        settings = Settings(openai_base_url=provider.base_url, openai_api_key=provider.api_key, ...)

Asked without `stream`, it answers with what the chunks say together, in one JSON object, so that a script serves both.
What a request got wrong is kept in `provider.complaints`, and leaving the block fails when there is one, or when a
script was not asked for.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

API_KEY = "sk-scripted-0123456789"
TAKEN = frozenset(
    {
        "model",
        "messages",
        "stream",
        "stream_options",
        "temperature",
        "max_tokens",
        "max_completion_tokens",
        "stop",
        "tools",
        "tool_choice",
        "response_format",
        "seed",
        "top_p",
        "random_seed",
        "parallel_tool_calls",
        "logprobs",
        "top_logprobs",
    }
)
ROLES = frozenset({"system", "user", "assistant", "tool", "developer"})


@dataclass(frozen=True, slots=True)
class Status:
    """Answer with this status and body instead of a stream; the body in two writes when `in_halves`."""

    status: int
    body: Any = None
    headers: tuple[tuple[str, str], ...] = ()
    in_halves: bool = False


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event with this object, or these raw bytes."""

    content: dict[str, Any] | bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """Say nothing for a while."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Meet:
    """Say nothing until this many requests are being answered; only as the first step."""

    count: int


@dataclass(frozen=True, slots=True)
class Cut:
    """Break the connection."""


@dataclass(frozen=True, slots=True)
class Stall:
    """Say nothing more until the client goes; a comment now and then when `comments`."""

    comments: bool = False


@dataclass(frozen=True, slots=True)
class ContentType:
    """Answer under another content type; only as the first step."""

    value: str


Step = Status | Chunk | Wait | Meet | Cut | Stall | ContentType


def chunk(delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> Chunk:
    """An event of OpenAI's shape."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "scripted-2026"}
    return Chunk({**head, "choices": [choice], "usage": None, **more})


def say(*pieces: str) -> list[Step]:
    """The role, then a chunk a piece."""
    return [chunk({"role": "assistant", "content": ""}), *(chunk({"content": piece}) for piece in pieces)]


def usage(prompt: int, completion: int, *, cached: int = 0) -> Chunk:
    """The usage chunk, with no choices."""
    counted = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return Chunk({"choices": [], "usage": {**counted, "prompt_tokens_details": {"cached_tokens": cached}}})


DONE = Chunk(b"data: [DONE]\n\n")


def finish(prompt: int = 10, completion: int = 2, reason: str = "stop") -> list[Step]:
    """Finish reason, usage, end."""
    return [chunk({}, reason), usage(prompt, completion), DONE]


def call_tool(name: str, *fragments: str, call_id: str = "call_1") -> list[Step]:
    """A tool call: name and id in the first fragment, the arguments in pieces."""
    first = {"index": 0, "id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
    rest = ({"index": 0, "function": {"arguments": fragment}} for fragment in fragments)
    return [
        chunk({"role": "assistant", "content": None, "tool_calls": [first]}),
        *(chunk({"tool_calls": [f]}) for f in rest),
    ]


Compose = Callable[[dict[str, Any]], list[Step]]


@dataclass(slots=True)
class ScriptedProvider:
    """What was asked, what was wrong with it, and whether clients left before the end."""

    base_url: str
    api_key: str = API_KEY
    requests: list[dict[str, Any]] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    left_early: asyncio.Event = field(default_factory=asyncio.Event)
    answering: int = 0
    scripts: list[list[Step]] = field(default_factory=list)
    repeat: bool = False
    clients: set[Any] = field(default_factory=set)
    """The addresses that requests came from: one a TCP connection."""
    compose: Compose | None = None

    def next_script(self) -> list[Step] | None:
        if self.compose:
            return self.compose(self.requests[-1])
        if self.repeat:
            return self.scripts[0]
        return self.scripts.pop(0) if self.scripts else None


@asynccontextmanager
async def scripted_provider(
    *scripts: Sequence[Step], repeat: bool = False, compose: Compose | None = None
) -> AsyncIterator[ScriptedProvider]:
    """Serve the scripts in order, one a request; `repeat` plays the first one for ever.

    `compose` makes each script from the body of its request instead.
    """
    provider = ScriptedProvider("", scripts=[list(script) for script in scripts], repeat=repeat, compose=compose)

    async def answer(request: web.Request) -> web.StreamResponse:
        return await _answer(provider, request)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    provider.base_url = f"http://127.0.0.1:{port}/v1"
    try:
        yield provider
    finally:
        await runner.cleanup()
    assert not provider.complaints, provider.complaints
    assert repeat or not provider.scripts, f"{len(provider.scripts)} scripts were never asked for"


async def _answer(provider: ScriptedProvider, request: web.Request) -> web.StreamResponse:
    body = await request.json()
    provider.requests.append(body)
    provider.clients.add(request.transport and request.transport.get_extra_info("peername"))
    if wrong := _complaints(request, body):
        provider.complaints += wrong
        return web.json_response({"error": {"message": "; ".join(wrong), "type": "invalid_request_error"}}, status=400)
    script = provider.next_script()
    if script is None:
        provider.complaints.append("a request that no script was written for")
        return web.json_response({"error": {"message": "no script"}}, status=500)
    provider.answering += 1
    try:
        if isinstance(script[0], Meet):
            await _meet(provider, script.pop(0))
        play = _play if body["stream"] else _play_whole
        return await play(request, script)
    except (asyncio.CancelledError, ConnectionError):
        provider.left_early.set()
        raise
    finally:
        provider.answering -= 1


async def _meet(provider: ScriptedProvider, step: Any) -> None:
    while provider.answering < step.count:  # noqa: ASYNC110 - the count has no event of its own
        await asyncio.sleep(0.005)


async def _play(request: web.Request, script: list[Step]) -> web.StreamResponse:
    first = script[0] if script else None
    if isinstance(first, Status):
        return await _refuse(request, first)
    content_type = first.value if isinstance(first, ContentType) else "text/event-stream"
    response = web.StreamResponse(headers={"Content-Type": content_type})
    await response.prepare(request)
    for step in script:
        match step:
            case Chunk(content=bytes() as raw):
                await response.write(raw)
            case Chunk(content=content):
                await response.write(b"data: " + json.dumps(content).encode() + b"\n\n")
            case Wait(seconds=seconds):
                await asyncio.sleep(seconds)
            case Cut():
                assert request.transport is not None
                request.transport.abort()
                return response
            case Stall(comments=comments):
                while True:
                    await asyncio.sleep(0.05)
                    if comments:
                        await response.write(b": still here\n\n")
            case _:
                pass
    await response.write_eof()
    return response


async def _play_whole(request: web.Request, script: list[Step]) -> web.StreamResponse:
    """The same script in one piece: nothing is said before its end, and a cut leaves half of it."""
    first = script[0] if script else None
    if isinstance(first, Status):
        return await _refuse(request, first)
    content_type = first.value if isinstance(first, ContentType) else "application/json"
    said = [step.content for step in script if isinstance(step, Chunk) and step is not DONE]
    raw = b"".join(content for content in said if isinstance(content, bytes))
    objects = [content for content in said if isinstance(content, dict)]
    body = raw or json.dumps(whole_object(objects)).encode()
    for step in script:
        match step:
            case Wait(seconds=seconds):
                await asyncio.sleep(seconds)
            case Stall():
                await asyncio.Event().wait()
            case _:
                pass
    response = web.StreamResponse(headers={"Content-Type": content_type})
    assert request.transport is not None
    if any(isinstance(step, Cut) for step in script):
        if said:
            await response.prepare(request)
            await response.write(body[: len(body) // 2])
            await asyncio.sleep(0.01)
        request.transport.abort()
        return response
    await response.prepare(request)
    await response.write(body)
    await response.write_eof()
    return response


def whole_object(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """What the chunks say together, in the shape of an answer that was not streamed."""
    message: dict[str, Any] = {"role": "assistant", "content": None}
    choice: dict[str, Any] = {"index": 0, "message": message, "logprobs": None, "finish_reason": None}
    whole: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "scripted-2026"}
    for content in chunks:
        whole |= {key: content[key] for key in ("usage", "error") if content.get(key)}
        for part in content.get("choices") or ():
            _add_delta(message, part.get("delta") or {})
            choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]
            if logprobs := part.get("logprobs"):
                choice["logprobs"] = {
                    "content": [*((choice["logprobs"] or {}).get("content", [])), *logprobs["content"]]
                }
    return whole if "error" in whole else {**whole, "choices": [choice]}


def _add_delta(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for key, value in delta.items():
        if key == "tool_calls":
            calls = message.setdefault("tool_calls", [])
            for fragment in value:
                if fragment["index"] == len(calls):
                    calls.append({"id": fragment["id"], "type": "function", "function": dict(fragment["function"])})
                else:
                    calls[fragment["index"]]["function"]["arguments"] += fragment["function"]["arguments"]
        elif key != "role" and value is not None:
            message[key] = (message.get(key) or type(value)()) + value


async def _refuse(request: web.Request, refusal: Status) -> web.StreamResponse:
    body = (refusal.body if isinstance(refusal.body, str) else json.dumps(refusal.body)).encode()
    response = web.StreamResponse(status=refusal.status, headers=dict(refusal.headers))
    response.content_type = "application/json"
    await response.prepare(request)
    if refusal.in_halves:
        half = len(body) // 2
        await response.write(body[:half])
        await asyncio.sleep(0.02)
        body = body[half:]
    await response.write(body)
    await response.write_eof()
    return response


def _complaints(request: web.Request, body: dict[str, Any]) -> list[str]:
    wrong = [f"unknown parameter {key!r}" for key in body if key not in TAKEN]
    if request.headers.get("Authorization") != f"Bearer {API_KEY}":
        wrong.append("the key is missing or wrong")
    if request.content_type != "application/json":
        wrong.append(f"content type {request.content_type!r}")
    if not isinstance(body.get("stream"), bool):
        wrong.append("stream must be true or false")
    elif not body["stream"] and "stream_options" in body:
        wrong.append("stream_options is for streams")
    if not isinstance(body.get("model"), str) or not body.get("messages"):
        wrong.append("model and messages are required")
    wrong += [f"bad message {message!r}" for message in body.get("messages", []) if not _is_message(message)]
    return wrong


def _is_message(message: Any) -> bool:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        return False
    content = message.get("content")
    return isinstance(content, str | list) or (content is None and bool(message.get("tool_calls")))
