"""A strict iFlytek Spark X1 under real HTTP: bearer, fields and messages are checked, answers are scripted.

    async with spark_http_server([*say("Ni", " hao")]) as server:
        SparkHttp(http, CREDENTIALS, server.base_url)

Events are written as the vendor's: `data:` without a space, the role in each, no finish reason, usage with the last
choice, `data:[DONE]`. Asked without `stream`, it says the same in one body. What a request got wrong is kept in
`server.complaints`, and leaving the block fails when there is one, or when a script was not asked for.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.spark_server import API_KEY, API_SECRET

SID = "cha000b0003@dx1905cd86d6bb86d552"
DOCUMENTED = frozenset(
    {
        "model",
        "messages",
        "stream",
        "temperature",
        "top_k",
        "max_tokens",
        "presence_penalty",
        "frequency_penalty",
        "tools",
        "tool_choice",
        "response_format",
        "thinking",
        "user",
    }
)
FIELDS_OF_ROLES = {
    "system": {"role", "content"},
    "user": {"role", "content"},
    "assistant": {"role", "content", "tool_calls"},
    "tool": {"role", "content", "tool_call_id"},
}
DONE = b"data:[DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer with this body instead, as JSON unless it is text."""

    status: int
    body: Any
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Cut:
    """Break the connection; with `politely`, end the body as if all had been said."""

    politely: bool = False


@dataclass(frozen=True, slots=True)
class Stall:
    """Say nothing more until the client goes."""


Step = dict[str, Any] | bytes | Refuse | Cut | Stall
Answer = Callable[[dict[str, Any]], Sequence[Step]]
USAGE = {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}


def event(usage: dict[str, int] | None = None, **delta: Any) -> dict[str, Any]:
    """One event: the role in each, and no finish reason in any."""
    choice = {"delta": {"role": "assistant", "content": "", **delta}, "index": 0}
    head = {"code": 0, "message": "Success", "sid": SID, "id": SID, "created": 1719546385}
    return {**head, "choices": [choice], **({"usage": usage} if usage else {})}


def begin(*pieces: str) -> list[Step]:
    """The events of an answer that is not over."""
    return [event(content=piece) for piece in pieces]


def say(*pieces: str, usage: dict[str, int] | None = None) -> list[Step]:
    """A whole answer, its last piece with usage."""
    *first, last = pieces
    return [*begin(*first), event(usage or USAGE, content=last), DONE]


def coded(code: int, message: str = "refused") -> dict[str, Any]:
    """A refusal in the vendor's own shape."""
    return {"code": code, "message": message, "sid": SID}


def in_openais_shape(code: int | str | None, message: str = "refused") -> dict[str, Any]:
    """A refusal in OpenAI's shape."""
    return {"error": {"message": message, "type": "api_error", "param": None, "code": code}}


@dataclass(slots=True)
class SparkHttpServer:
    """What was asked, with which bearer, and what was wrong with it."""

    base_url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    bearers: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    left_early: asyncio.Event = field(default_factory=asyncio.Event)
    _scripts: list[Sequence[Step]] = field(default_factory=list)
    _answer: Answer | None = None

    @property
    def asked(self) -> dict[str, Any]:
        """The last body."""
        return self.requests[-1]

    def script(self) -> Sequence[Step]:
        if self._answer is not None:
            return self._answer(self.asked)
        if not self._scripts:
            self.complaints.append("a request that no script was written for")
            return [Refuse(500, in_openais_shape(None, "no script"))]
        return self._scripts.pop(0)


@asynccontextmanager
async def spark_http_server(
    *scripts: Sequence[Step], answer: Answer | None = None, may_be_refused: bool = False
) -> AsyncIterator[SparkHttpServer]:
    """Serve the scripts in order, or an `answer` for each body. `may_be_refused`: a wrong bearer is sent on purpose."""
    server = SparkHttpServer("", _scripts=list(scripts), _answer=answer)

    async def serve(request: web.Request) -> web.StreamResponse:
        return await _serve(server, request, may_be_refused=may_be_refused)

    app = web.Application()
    app.router.add_post("/v2/chat/completions", serve)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v2"
    try:
        yield server
    finally:
        await runner.cleanup()
    assert not server.complaints, server.complaints
    assert not server._scripts, f"{len(server._scripts)} scripts were never asked for"


async def _serve(server: SparkHttpServer, request: web.Request, *, may_be_refused: bool) -> web.StreamResponse:
    server.bearers.append(request.headers.get("Authorization", ""))
    if server.bearers[-1] != f"Bearer {API_KEY}:{API_SECRET}":
        if not may_be_refused:
            server.complaints.append("the bearer is missing or wrong")
        words = f"HMAC secret key does not match: {server.bearers[-1]}"
        return await _refuse(request, Refuse(401, in_openais_shape(None, words)))
    body = await request.json()
    server.requests.append(body)
    if wrong := _wrong(request, body):
        server.complaints += wrong
        return await _refuse(request, Refuse(400, coded(10004, "; ".join(wrong))))
    script = server.script()
    if script and isinstance(script[0], Refuse):
        return await _refuse(request, script[0])
    try:
        return await (_stream(request, script) if body["stream"] else _whole(request, script))
    except (asyncio.CancelledError, ConnectionError):
        server.left_early.set()
        raise


async def _stream(request: web.Request, script: Sequence[Step]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for step in script:
        match step:
            case dict():
                await response.write(b"data:" + json.dumps(step, ensure_ascii=False).encode() + b"\n\n")
            case bytes():
                await response.write(step)
            case Cut(politely=False):
                assert request.transport is not None
                request.transport.abort()
                return response
            case Stall():
                await asyncio.Event().wait()
            case _:
                pass
    await response.write_eof()
    return response


async def _whole(request: web.Request, script: Sequence[Step]) -> web.StreamResponse:
    said = [step for step in script if isinstance(step, dict)]
    refused = next((step for step in said if step.get("error") or step.get("code")), None)
    body = json.dumps(refused or whole_body(said)).encode()
    if not any(isinstance(step, Cut) for step in script):
        return web.Response(body=body, content_type="application/json")
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    await asyncio.sleep(0.01)
    assert request.transport is not None
    request.transport.abort()
    return response


def whole_body(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the events say together: no id, no model, no finish reason."""
    message: dict[str, Any] = {}
    usage: dict[str, Any] = {}
    for said in events:
        usage = said.get("usage") or usage
        for key, value in said["choices"][0]["delta"].items():
            message[key] = value if key not in message or key == "role" else message[key] + value
    choices = [{"message": message, "index": 0}]
    return {"code": 0, "message": "Success", "sid": SID, "choices": choices, "usage": usage}


async def _refuse(request: web.Request, refusal: Refuse) -> web.StreamResponse:
    body = refusal.body if isinstance(refusal.body, str) else json.dumps(refusal.body)
    headers = dict(refusal.headers)
    return web.Response(status=refusal.status, text=body, content_type=refusal.content_type, headers=headers)


def _wrong(request: web.Request, body: dict[str, Any]) -> list[str]:
    wrong = [f"unknown field {key!r}" for key in body if key not in DOCUMENTED]
    if request.content_type != "application/json" or body.get("model") != "x1":
        wrong.append(f"model {body.get('model')!r} as {request.content_type}")
    if not isinstance(body.get("stream"), bool):
        wrong.append(f"stream {body.get('stream')!r}")
    if not 0 < body.get("temperature", 0.5) <= 1:
        wrong.append(f"temperature {body['temperature']!r}")
    if not 1 <= body.get("max_tokens", 1) <= 65536 or not 1 <= body.get("top_k", 1) <= 6:
        wrong.append(f"max_tokens {body.get('max_tokens')!r}, top_k {body.get('top_k')!r}")
    if body.get("response_format", {"type": "text"})["type"] not in {"text", "json_object"}:
        wrong.append(f"response_format {body['response_format']!r}")
    wrong += [f"bad tool {tool!r}" for tool in body.get("tools", []) if tool.get("type") != "function"]
    return wrong + [f"bad message {message!r}" for message in body["messages"] if not _is_message(message)]


def _is_message(message: dict[str, Any]) -> bool:
    if not set(message) <= FIELDS_OF_ROLES.get(message.get("role", ""), set()):
        return False
    return isinstance(message.get("content"), str) or bool(message.get("tool_calls"))
