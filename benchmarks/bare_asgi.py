"""The cheapest honest comparison: an ASGI endpoint that emits the same bytes, one send a token, and nothing else."""

from typing import Any

TOKENS = 200
PIECE = b'data: {"content": " rapide", "done": false, "metadata": {"model": "gpt-4o-mini", "agent": "V2"}}\n\n'
HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8")]


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Streams `TOKENS` events to any request."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    for _ in range(TOKENS):
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
