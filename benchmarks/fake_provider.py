"""An OpenAI-compatible provider with no delay: every chat completion gets N tokens.

`python -m benchmarks.fake_provider PORT TOKENS`. Streams are one write a token; without `"stream": true` the same
answer comes in one piece; for the user `slow` it streams 20 tokens a second. A raw protocol, so that it costs less
than what it measures.
"""

import asyncio
import re
import sys
from typing import cast

import orjson

STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-2024-08-06"}
WORDS = ["Il", " était", " une", " fois", " un", " serveur", " très", " rapide", ",", " et", " honnête", "."]
SLOW_PAUSE_S = 0.05
WANTS_STREAM = re.compile(rb'"stream":\s*true')
IS_SLOW = re.compile(rb'"user":\s*"slow"')


def _event(content: dict[str, object]) -> bytes:
    data = b"data: " + orjson.dumps({**CHUNK, **content}) + b"\n\n"
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _choice(delta: dict[str, str], finish_reason: str | None = None) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}], "usage": None}


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 25, "completion_tokens": tokens, "total_tokens": 25 + tokens}


def stream_script(tokens: int) -> list[bytes]:
    """A stream's writes, one a token."""
    done = b"data: [DONE]\n\n"
    return [
        STREAM_HEAD + _event(_choice({"role": "assistant", "content": ""})),
        *(_event(_choice({"content": WORDS[i % len(WORDS)]})) for i in range(tokens)),
        _event(_choice({}, "stop")) + _event({"choices": [], "usage": _usage(tokens)}),
        f"{len(done):x}\r\n".encode() + done + b"\r\n0\r\n\r\n",
    ]


def whole_answer(tokens: int) -> bytes:
    """The same answer in one piece."""
    message = {"role": "assistant", "content": "".join(WORDS[i % len(WORDS)] for i in range(tokens))}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = orjson.dumps({**CHUNK, "object": "chat.completion", "choices": [choice], "usage": _usage(tokens)})
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


class FakeProvider(asyncio.Protocol):
    """Reads a request up to its Content-Length, then plays the script; the connection stays open for the next."""

    def __init__(self, script: list[bytes], whole: bytes) -> None:
        self._script = script
        self._whole = whole
        self._received = b""
        self._playing: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not asyncio's class, only its shape.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator or self._transport is None:
            return
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:"), 0)
        if len(body) < length:
            return
        self._received = body[length:]
        if not WANTS_STREAM.search(body, 0, length):
            self._transport.write(self._whole)
            return
        pause_s = SLOW_PAUSE_S if IS_SLOW.search(body, 0, length) else 0.0
        self._playing = asyncio.get_running_loop().create_task(self._play(self._transport, pause_s))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._playing is not None:
            self._playing.cancel()

    async def _play(self, transport: asyncio.Transport, pause_s: float) -> None:
        for piece in self._script:
            transport.write(piece)
            await asyncio.sleep(pause_s)


async def _serve(port: int, tokens: int) -> None:
    script, whole = stream_script(tokens), whole_answer(tokens)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: FakeProvider(script, whole), "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
