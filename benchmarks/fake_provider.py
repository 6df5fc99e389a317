"""An OpenAI-compatible provider with no delay: it answers every chat completion with N tokens, one write each.

`python -m benchmarks.fake_provider PORT TOKENS`. A raw protocol, so that it costs less than what it measures.
"""

import asyncio
import sys
from typing import cast

import orjson

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-2024-08-06"}
WORDS = ["Il", " était", " une", " fois", " un", " serveur", " très", " rapide", ",", " et", " honnête", "."]


def _event(content: dict[str, object]) -> bytes:
    data = b"data: " + orjson.dumps({**CHUNK, **content}) + b"\n\n"
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _choice(delta: dict[str, str], finish_reason: str | None = None) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}], "usage": None}


def _script(tokens: int) -> list[bytes]:
    usage = {"prompt_tokens": 25, "completion_tokens": tokens, "total_tokens": 25 + tokens}
    done = b"data: [DONE]\n\n"
    return [
        HEAD + _event(_choice({"role": "assistant", "content": ""})),
        *(_event(_choice({"content": WORDS[i % len(WORDS)]})) for i in range(tokens)),
        _event(_choice({}, "stop")) + _event({"choices": [], "usage": usage}),
        f"{len(done):x}\r\n".encode() + done + b"\r\n0\r\n\r\n",
    ]


class FakeProvider(asyncio.Protocol):
    """Reads a request up to its Content-Length, then plays the script; the connection stays open for the next."""

    def __init__(self, script: list[bytes]) -> None:
        self._script = script
        self._received = b""
        self._playing: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not asyncio's class, only its shape.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:"), 0)
        if len(body) >= length:
            self._received = body[length:]
            self._playing = asyncio.get_running_loop().create_task(self._play())

    def connection_lost(self, exc: Exception | None) -> None:
        if self._playing is not None:
            self._playing.cancel()

    async def _play(self) -> None:
        for piece in self._script:
            if self._transport is not None:
                self._transport.write(piece)
            await asyncio.sleep(0)


async def _serve(port: int, tokens: int) -> None:
    script = _script(tokens)
    server = await asyncio.get_running_loop().create_server(lambda: FakeProvider(script), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
