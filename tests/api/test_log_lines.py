"""What the server writes: JSON lines with fields, and nothing of what people asked or of their keys."""

import json

import httpx

from tests.live_server import LiveServer
from tests.provider_thread import play
from tests.scripted_provider import Cut, ScriptedProvider, Status, finish, say


async def test_no_prompt_answer_or_credential_is_logged(
    client: httpx.AsyncClient, server: LiveServer, provider: ScriptedProvider
) -> None:
    play(
        provider,
        [*say("ANSWER-7c1d"), *finish()],
        [*say("ANSWER-7c1d"), Cut()],
        *[[Status(500, {"error": {"message": "no"}})]] * 3,
    )
    for _ in range(3):
        await client.post("/completion", json={"message": "PROMPT-93ab", "model": "gpt-4o", "stream": True})
    await client.post("/completion", json={"message": ["PROMPT-93ab"]})
    log = server.log
    for hidden in ("PROMPT-93ab", "ANSWER-7c1d", provider.api_key, server.token()):
        assert hidden not in log


def test_each_line_after_the_greeting_is_a_json_object(server: LiveServer) -> None:
    lines = [line for line in server.log.splitlines() if line.startswith("{")]
    assert lines
    for line in lines:
        entry = json.loads(line)
        assert {"time", "level", "logger", "event"} <= set(entry)
        assert "color_message" not in entry
