"""A strict iFlytek Spark under a real WebSocket: signatures, dates and frames are checked, answers are scripted.

    async with spark_server([*say("Bon", "jour")]) as server:
        Spark(credentials=CREDENTIALS, text_base_url=server.base_url, vision_base_url=server.base_url, ...)

What a client got wrong is kept in `server.complaints`, and leaving the block fails when there is one, or when a
script was not asked for.
"""

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from services.llm.providers.spark_auth import SparkCredentials

APP_ID, API_SECRET, API_KEY = "5f3a1b2c", "MjlmNzkzNmZkMDQ2OTc0ZDdmNGE2ZTZi", "addd2272b6d8b7c8abdd79531420ca3b"
CREDENTIALS = SparkCredentials(APP_ID, SecretStr(API_SECRET), SecretStr(API_KEY))
DOMAINS = {
    "/v1.1/chat": {"lite"},
    "/v2.1/chat": {"generalv2"},
    "/v3.1/chat": {"generalv3"},
    "/v3.5/chat": {"generalv3.5"},
    "/v4.0/chat": {"4.0Ultra"},
    "/chat/pro-128k": {"pro-128k"},
    "/chat/max-32k": {"max-32k"},
    "/v2.1/image": {"general", "imagev3"},
}
TAKES_SYSTEM = {"/v3.5/chat", "/v4.0/chat", "/chat/max-32k"}
AUTHORIZATION = re.compile(
    r'api_key="([^"]*)", algorithm="hmac-sha256", headers="host date request-line", signature="([^"]*)"'
)
MAX_SKEW_S = 300


@dataclass(frozen=True, slots=True)
class Frame:
    """One text frame: this object, or these words; a binary one when they are bytes."""

    content: dict[str, Any] | str | bytes


@dataclass(frozen=True, slots=True)
class Cut:
    """Break the connection."""


@dataclass(frozen=True, slots=True)
class Goodbye:
    """Close in good order, whatever is still missing."""


@dataclass(frozen=True, slots=True)
class Stall:
    """Say nothing more until the client goes."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Say nothing for a while."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Deaf:
    """Hear nothing until this is set, not even that the client goes."""

    hears: asyncio.Event


Step = Frame | Cut | Deaf | Goodbye | Stall | Wait
Answer = Callable[[dict[str, Any]], Sequence[Step]]


def frame(status: int, text: dict[str, Any], usage: dict[str, int] | None = None, seq: int = 0) -> Frame:
    """A frame of an answer."""
    choices = {"status": status, "seq": seq, "text": [{"role": "assistant", "index": 0, **text}]}
    counted = {"usage": {"text": usage}} if usage else {}
    header = {"code": 0, "message": "Success", "sid": "cht000cb087@dx18793cd421fb894542", "status": status}
    return Frame({"header": header, "payload": {"choices": choices, **counted}})


def counted(question: int = 4, prompt: int = 5, completion: int = 9) -> dict[str, int]:
    """What the last frame says was consumed."""
    total = prompt + completion
    return {
        "question_tokens": question,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": total,
    }


def say(*pieces: str, usage: dict[str, int] | None = None) -> list[Step]:
    """An answer in as many frames as pieces; the last one carries usage."""
    last = len(pieces) - 1
    statuses = [2 if n == last else min(n, 1) for n in range(len(pieces))]
    counts = usage or counted()
    return [
        frame(status, {"content": piece}, counts if status == 2 else None, seq)
        for seq, (status, piece) in enumerate(zip(statuses, pieces, strict=True))
    ]


def begin(*pieces: str) -> list[Step]:
    """The frames of an answer that is not over."""
    return [frame(min(n, 1), {"content": piece}, None, n) for n, piece in enumerate(pieces)]


def refuse(code: int, message: str = "refused") -> Frame:
    """An error frame."""
    return Frame({"header": {"code": code, "message": message, "sid": "cht000704fa", "status": 2}})


@dataclass(slots=True)
class SparkServer:
    """What was asked, where, what was wrong with it, and whether clients left before the end."""

    base_url: str
    paths: list[str] = field(default_factory=list)
    questions: list[dict[str, Any]] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    left_early: asyncio.Event = field(default_factory=asyncio.Event)
    closed_with: list[int | None] = field(default_factory=list)
    answering: int = 0
    most_answering: int = 0
    now_s: Callable[[], float] = time.time
    _scripts: list[Sequence[Step]] = field(default_factory=list)
    _answer: Answer | None = None
    _users: set[str] = field(default_factory=set)

    @property
    def asked(self) -> dict[str, Any]:
        """The last question."""
        return self.questions[-1]

    def script_for(self, question: dict[str, Any]) -> Sequence[Step]:
        if self._answer is not None:
            return self._answer(question)
        if not self._scripts:
            self.complaints.append("a question that no script was written for")
            return [refuse(10012, "no script")]
        return self._scripts.pop(0)


@asynccontextmanager
async def spark_server(
    *scripts: Sequence[Step],
    answer: Answer | None = None,
    handshake: Response | None = None,
    tls: ssl.SSLContext | None = None,
    may_be_refused: bool = False,
    deaf_until: asyncio.Event | None = None,
) -> AsyncIterator[SparkServer]:
    """Serve the scripts in order, or an `answer` for each question; `handshake` is answered instead of a WebSocket.

    `may_be_refused`: the test sends a wrong signature on purpose, which is then refused and not complained of.
    `deaf_until`: until when the server reads nothing once it is connected to, from a small buffer.
    """
    server = SparkServer("", _scripts=list(scripts), _answer=answer)

    def check_handshake(connection: ServerConnection, request: Request) -> Response | None:
        if handshake is not None:
            return handshake
        refused = _signature_refusal(request, server.now_s())
        if refused is not None and not may_be_refused:
            server.complaints.append(f"handshake refused: {refused.body!r}")
        if "Sec-WebSocket-Extensions" in request.headers:
            server.complaints.append("compression was offered")
        return refused

    async def serve_question(connection: ServerConnection) -> None:
        await _play(connection, [Deaf(deaf_until)] if deaf_until else [])
        await _serve(server, connection)

    options: dict[str, Any] = {"compression": None, "ping_interval": None, "close_timeout": 5.0, "max_size": 8_000_000}
    listening = socket.create_server(("127.0.0.1", 0), backlog=128)
    if deaf_until:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    server.base_url = f"{'wss' if tls else 'ws'}://127.0.0.1:{listening.getsockname()[1]}"
    async with serve(serve_question, sock=listening, ssl=tls, process_request=check_handshake, **options):
        yield server
    assert not server.complaints, server.complaints
    assert not server._scripts, f"{len(server._scripts)} scripts were never asked for"


async def _serve(server: SparkServer, connection: ServerConnection) -> None:
    server.answering += 1
    server.most_answering = max(server.most_answering, server.answering)
    user = ""
    try:
        received = await connection.recv()
        path = urlsplit(connection.request.path if connection.request else "").path
        question, wrong = _checked_question(path, received)
        server.paths.append(path)
        server.questions.append(question)
        if wrong:
            server.complaints += wrong
            await connection.send(json.dumps(refuse(10004, "; ".join(wrong)).content))
            return
        user = question["header"]["uid"]
        if user in server._users:
            server.complaints.append(f"the user {user!r} is already connected (10006)")
        server._users.add(user)
        await _play(connection, server.script_for(question))
        # One question a connection: whatever else the client says is wrong.
        async for more in connection:
            server.complaints.append(f"a second question on one connection: {more!r:.80}")
    except ConnectionClosed:
        server.left_early.set()
    finally:
        server._users.discard(user)
        server.answering -= 1
        server.closed_with.append(connection.close_code)


async def _play(connection: ServerConnection, script: Sequence[Step]) -> None:
    for step in script:
        match step:
            case Frame(content=dict() as content):
                await connection.send(json.dumps(content))
                if content.get("header", {}).get("status") == 2:
                    await connection.close()
            case Frame(content=str() | bytes() as raw):
                await connection.send(raw)
            case Wait(seconds=seconds):
                await asyncio.sleep(seconds)
            case Deaf(hears=hears):
                connection.transport.pause_reading()
                await hears.wait()
                connection.transport.resume_reading()
            case Cut():
                connection.transport.abort()
            case Goodbye():
                await connection.close()
            case Stall():
                await connection.wait_closed()
                raise connection.protocol.close_exc


def _signature_refusal(request: Request, now_s: float) -> Response | None:
    """What the vendor's gateway answers to a handshake that is not signed as it should be."""
    parts = urlsplit(request.path)
    query = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    if set(query) != {"authorization", "date", "host"} or any(len(values) != 1 for values in query.values()):
        return refusal_of_handshake(401, "Unauthorized")
    host, date = query["host"][0], query["date"][0]
    unverifiable = "HMAC signature cannot be verified"
    try:
        skew_s = abs(parsedate_to_datetime(date).timestamp() - now_s)
        found = AUTHORIZATION.fullmatch(base64.b64decode(query["authorization"][0], validate=True).decode())
    except ValueError:
        return refusal_of_handshake(401, unverifiable)
    if not date.endswith(" GMT") or skew_s > MAX_SKEW_S:
        problem = f"{unverifiable}, a valid date or x-date header is required for HMAC Authentication"
        return refusal_of_handshake(403, problem)
    if found is None or found[1] != API_KEY or host != request.headers["Host"]:
        return refusal_of_handshake(401, unverifiable)
    signed = "\n".join([f"host: {host}", f"date: {date}", f"GET {parts.path} HTTP/1.1"])
    signature = base64.b64encode(hmac.new(API_SECRET.encode(), signed.encode(), hashlib.sha256).digest())
    return None if found[2] == signature.decode() else refusal_of_handshake(401, "HMAC signature does not match")


def refusal_of_handshake(status: int, message: str, **headers: str) -> Response:
    """A plain HTTP answer in the gateway's shape."""
    body = json.dumps({"message": message}).encode()
    fields = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close", **headers}
    return Response(status, "Refused", Headers(fields), body)


def _checked_question(path: str, received: str | bytes) -> tuple[dict[str, Any], list[str]]:
    """The frame, and what is wrong with it."""
    if not isinstance(received, str):
        return {}, ["a binary frame"]
    question: dict[str, Any] = json.loads(received)
    try:
        wrong = [*_wrong_shape(question), *_wrong_chat(path, question), *_wrong_messages(path, question)]
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        wrong = [f"a malformed question: {error!r}"]
    return question, wrong


def _wrong_shape(question: dict[str, Any]) -> list[str]:
    header = question["header"]
    expected = {"": {"header", "parameter", "payload"}, "header": {"app_id", "uid"}, "parameter": {"chat"}}
    found = {"": set(question), "header": set(header), "parameter": set(question["parameter"])}
    wrong = [f"{where or 'frame'} has {sorted(found[where])}" for where in expected if found[where] != expected[where]]
    if set(question["payload"]) != {"message"} or set(question["payload"]["message"]) != {"text"}:
        wrong.append("the payload is not one message of text")
    if header["app_id"] != APP_ID or not 0 < len(header["uid"]) <= 32:
        wrong.append(f"header {header}")
    return wrong


def _wrong_chat(path: str, question: dict[str, Any]) -> list[str]:
    chat = dict(question["parameter"]["chat"])
    wrong = [] if chat.pop("domain") in DOMAINS.get(path, set()) else [f"not the domain of {path}"]
    max_tokens = chat.pop("max_tokens")
    temperature, top_k = chat.pop("temperature", 0.5), chat.pop("top_k", 4)
    if not isinstance(max_tokens, int) or not 1 <= max_tokens <= 8192:
        wrong.append(f"max_tokens {max_tokens!r}")
    if not isinstance(temperature, int | float) or not 0 < temperature <= 1:
        wrong.append(f"temperature {temperature!r}")
    if not isinstance(top_k, int) or not 1 <= top_k <= 6:
        wrong.append(f"top_k {top_k!r}")
    return wrong + [f"unknown parameter {key!r}" for key in chat]


def _wrong_messages(path: str, question: dict[str, Any]) -> list[str]:
    turns: list[dict[str, Any]] = question["payload"]["message"]["text"]
    if path == "/v2.1/image":
        return _wrong_vision(turns)
    roles = [turn["role"] for turn in turns]
    wrong = [f"bad turn {turn}" for turn in turns if set(turn) != {"role", "content"} or not _is_text(turn["content"])]
    if roles[-1] != "user":
        wrong.append("the last message is not the user's")
    if not set(roles) <= {"system", "user", "assistant"} or ("system" in roles and path not in TAKES_SYSTEM):
        wrong.append(f"roles {roles}")
    return wrong


def _wrong_vision(turns: list[dict[str, Any]]) -> list[str]:
    image, *rest = turns
    wrong = [] if image["role"] == "user" and image["content_type"] == "image" else ["the image is not first"]
    if len(base64.b64decode(image["content"], validate=True)) > 4 * 1024 * 1024:
        wrong.append("the image is too large")
    expected = itertools.cycle(["user", "assistant"])
    for turn, role in zip(rest, expected, strict=False):
        if turn["role"] != role or turn["content_type"] != "text" or not _is_text(turn["content"]):
            wrong.append(f"bad turn {turn}")
    return wrong if rest and rest[-1]["role"] == "user" else [*wrong, "the last message is not the user's"]


def _is_text(content: Any) -> bool:
    return isinstance(content, str) and bool(content)
