"""POST /api/ask: its own shapes, its own keys, and the one run path behind it."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live_server import LiveServer, live_server, wait_until
from tests.provider_thread import play
from tests.scripted_provider import ScriptedProvider, Stall, Status, finish, say

DEMO_KEY = "cgn_live_stable_demo_api_key_012345"


def check_ask_error(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    content = answer.json()
    assert set(content) == {"error"}
    return str(content["error"])


async def ask(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post("/api/ask", json={"question": "Quelle heure est-il ?", "model": "gpt-4o", **body})


async def test_a_question_is_answered_with_the_model_that_did(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, [*say("Mi", "di."), *finish()])
    answer = await ask(client, system_prompt="Sois bref.")
    assert answer.json() == {"answer": "Midi.", "model_used": "gpt-4o", "sources": []}
    assert [(m["role"], m["content"]) for m in provider.requests[0]["messages"]] == [
        ("system", "Sois bref."),
        ("user", "Quelle heure est-il ?"),
    ]


async def test_without_a_model_the_default_route_is_asked(client: httpx.AsyncClient) -> None:
    # Neither Hugging Face nor a local model is set up here: the route says so by its name.
    assert "'default'" in check_ask_error(await client.post("/api/ask", json={"question": "Hi", "model": None}), 503)


@pytest.mark.parametrize("body", [{}, {"question": ""}, {"question": " \n"}, {"question": None}, {"question": 4}, []])
async def test_a_question_is_required(client: httpx.AsyncClient, body: Any) -> None:
    check_ask_error(await client.post("/api/ask", json=body), 400)


async def test_every_refusal_is_one_line_of_text(client: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    assert "gpt-9" in check_ask_error(await ask(client, model="gpt-9"), 400)
    check_ask_error(await client.post("/api/ask", content=b"{", headers={"Content-Type": "application/json"}), 400)
    check_ask_error(await client.get("/api/ask"), 405)
    play(provider, [Status(401)])
    check_ask_error(await ask(client), 502)


async def test_the_demonstration_key_opens_it_in_development(
    server: LiveServer, client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    play(provider, [*say("Midi."), *finish()])
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as anybody:
        anybody.headers["Authorization"] = f"Bearer {DEMO_KEY}"
        assert (await ask(anybody)).status_code == 200
        # This door only.
        assert (await anybody.get("/v1/models")).status_code == 401
        anybody.headers["Authorization"] = "Bearer cgn_live_wrong"
        check_ask_error(await ask(anybody), 401)
        del anybody.headers["Authorization"]
        check_ask_error(await ask(anybody), 401)


def test_outside_development_the_doors_own_key_opens_it_and_the_demonstration_key_does_not(tmp_path: Path) -> None:
    key = "k" * 40
    environment = {"ENVIRONMENT": "production", "JWT_SECRET_KEY": "s" * 40, "API_KEYS": f"backend:{key}"}
    environment["CYGNIS_API_KEY"] = "cgn_live_own"
    with live_server(tmp_path, database=False, **environment) as server:

        def post(credential: str) -> httpx.Response:
            headers = {"Authorization": f"Bearer {credential}"}
            return httpx.post(
                f"{server.url}/api/ask", json={"question": "Hi"}, headers=headers, trust_env=False, timeout=30
            )

        assert "development" in check_ask_error(post(DEMO_KEY), 403)
        check_ask_error(post("wrong"), 401)
        # Known here, and then no model is set up.
        check_ask_error(post(key), 503)
        check_ask_error(post("cgn_live_own"), 503)


async def test_leaving_ends_the_providers_call(server: LiveServer, provider: ScriptedProvider) -> None:
    play(provider, [*say("Mi"), Stall()])
    async with server.client() as client:
        going = asyncio.create_task(ask(client))
        await asyncio.to_thread(wait_until, lambda: provider.answering == 1, 30, "the provider answers")
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)
    await asyncio.to_thread(wait_until, lambda: provider.answering == 0, 30, "the call is ended")
