"""Threads over HTTP: a conversation is kept, read, listed, and forgotten."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest

from tests.api_errors import check_error
from tests.live_server import LiveServer
from tests.provider_thread import play
from tests.scripted_provider import ScriptedProvider, finish, say

OUI = [*say("Oui"), *finish()]


@pytest.fixture
async def client(server: LiveServer) -> AsyncIterator[httpx.AsyncClient]:
    async with server.client() as client:
        for _ in range(900):
            if (await client.get("/threads")).status_code == 200:
                break
            await asyncio.sleep(0.1)  # The server answers before its database does.
        yield client


async def turn(client: httpx.AsyncClient, thread_id: str, message: str, **fields: Any) -> httpx.Response:
    body = {"message": message, "model": "gpt-4o", "thread_id": thread_id, **fields}
    return await client.post("/completion", json=body)


async def test_a_conversation_is_kept_read_listed_and_forgotten(
    client: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    name = f"dossier {uuid4()}"
    play(provider, OUI, OUI)
    answer = await turn(client, name, "Je suis Ada.")
    assert answer.json()["metadata"]["thread_id"] == name
    streamed = await turn(client, name, "Qui suis-je ?", stream=True)
    assert b'"done": true' in streamed.content
    assert [message["content"] for message in provider.requests[1]["messages"]][1:] == [
        "Je suis Ada.",
        "Oui",
        "Qui suis-je ?",
    ]
    read = (await client.get(f"/threads/{name}")).json()
    assert (read["thread_id"], read["agent"], read["turns"], read["running"]) == (name, "V2", 2, False)
    assert [(message["role"], message["content"]) for message in read["messages"]] == [
        ("user", "Je suis Ada."),
        ("assistant", "Oui"),
        ("user", "Qui suis-je ?"),
        ("assistant", "Oui"),
    ]
    assert read["interrupt"] is None
    listed = (await client.get("/threads", params={"limit": 200})).json()
    assert name in {thread["thread_id"] for thread in listed["threads"]}
    assert (await client.delete(f"/threads/{name}")).status_code == 204
    check_error(await client.get(f"/threads/{name}"), 404, "not_found")
    check_error(await client.delete(f"/threads/{name}"), 404, "not_found")


async def test_a_list_is_bounded(client: httpx.AsyncClient) -> None:
    check_error(await client.get("/threads", params={"limit": 0}), 400, "invalid_request")
    check_error(await client.get("/threads", params={"offset": -1}), 400, "invalid_request")


@pytest.mark.parametrize("odd", ["a/b", "a//b", "/a/", "a%2Fb", "50 % ?x=1#y", "été 😀", "...", "a/..b"])
async def test_odd_ids_are_read_and_forgotten(client: httpx.AsyncClient, provider: ScriptedProvider, odd: str) -> None:
    name = f"{odd} {uuid4()}/{odd}"
    play(provider, OUI)
    assert (await turn(client, name, "Bonjour")).status_code == 200
    path = f"/threads/{quote(name, safe='')}"
    read = (await client.get(path)).json()
    assert (read["thread_id"], read["last_run"]["status"]) == (name, "succeeded")
    assert (await client.delete(path)).status_code == 204
    check_error(await client.get(path), 404, "not_found")


@pytest.mark.parametrize(
    "odd", ["a\x00b", "..", "a/../b", "./a", "a\tb", "a\n", "a\nb", "\r", "\x7f", "\x85", "a\u2028", "\u2029a"]
)
async def test_ids_that_nothing_is_found_under_are_refused(client: httpx.AsyncClient, odd: str) -> None:
    for fields in ({"message": "Bonjour"}, {"message": "", "resume": True}):
        answer = await client.post("/completion", json={"thread_id": odd, **fields})
        assert "thread_id" in check_error(answer, 400, "invalid_parameter")


@pytest.mark.parametrize("rest", ["%0A", "%0A%0A", "%0D", "%C2%85", "%E2%80%A8", "%0Ab", "%20"])
async def test_an_address_is_read_to_its_last_character(
    client: httpx.AsyncClient, provider: ScriptedProvider, rest: str
) -> None:
    name = f"nl-{uuid4()}"
    play(provider, OUI)
    assert (await turn(client, name, "Bonjour")).status_code == 200
    check_error(await client.get(f"/threads/{name}{rest}"), 404, "not_found")
    check_error(await client.delete(f"/threads/{name}{rest}"), 404, "not_found")
    assert (await client.delete(f"/threads/{name}")).status_code == 204


async def test_values_that_the_database_does_not_know_are_the_callers_matter(client: httpx.AsyncClient) -> None:
    check_error(await client.get("/threads/a%00b"), 400, "bad_request")
    check_error(await client.delete("/threads/a%00b"), 400, "bad_request")
    for path in ("/threads", "/projects", "/projects/p/documents", "/transcription/jobs"):
        answer = await client.get(path, params={"offset": "9999999999999999999"})
        check_error(answer, 400, "invalid_request")
        assert "Retry-After" not in answer.headers
    check_error(await client.get("/projects/a%00b/documents"), 404, "not_found")
