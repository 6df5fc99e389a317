"""What an agent's answer cites is named by every door, in the same shape."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.agents_for_tests import answers_with, fills
from tests.live_server import LiveServer, wait_until
from tests.openai_wire import objects_of
from tests.provider_thread import play
from tests.scripted_provider import ScriptedProvider
from tests.server_sent_events import parse_stream

WAIT_S = 90
LEAVE = "Le congé parental dure trente jours ouvrables."
QUESTION = "Combien de jours dure le congé parental ?"
ANSWER = "Trente jours [1]."
TO_THE_AGENT = {"message": QUESTION, "agent": "RAG", "model": "gpt-4o"}
OPENAIS = {"model": "RAG@gpt-4o", "messages": [{"role": "user", "content": QUESTION}]}


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {server.token()}"}
    with httpx.Client(base_url=server.url, headers=headers, trust_env=False, timeout=WAIT_S) as client:
        yield client


@pytest.fixture(scope="module")
def document_id(client: httpx.Client) -> str:
    """Of the only document of the project `leave`."""
    path = "/projects/leave/documents"
    wait_until(lambda: client.get(path).status_code != 503, WAIT_S, "the database is ready")
    accepted = client.post(path, files={"file": ("conges.md", f"# Congés\n\n{LEAVE}\n")})
    found = str(accepted.json()["document_id"])
    wait_until(lambda: client.get(f"{path}/{found}").json()["status"] == "succeeded", WAIT_S, "it is taken in")
    return found


def asked(client: httpx.Client, provider: ScriptedProvider, path: str, **body: Any) -> httpx.Response:
    play(provider, fills(quotation=LEAVE, passage=1), answers_with(ANSWER))
    answer = client.post(path, json={"project_id": "leave", **body})
    assert answer.status_code == 200, answer.text
    return answer


def check_sources(sources: list[dict[str, Any]], document_id: str) -> None:
    (source,) = sources
    assert source.keys() == {"source_id", "title", "page", "score", "excerpt"}
    assert (source["source_id"], source["title"]) == (document_id, "conges.md")
    assert LEAVE in source["excerpt"]


def test_the_native_door_names_what_is_cited(
    client: httpx.Client, provider: ScriptedProvider, document_id: str
) -> None:
    whole = asked(client, provider, "/completion", **TO_THE_AGENT).json()
    assert whole["response"] == ANSWER
    check_sources(whole["metadata"]["sources"], document_id)
    streamed = parse_stream(asked(client, provider, "/completion", **TO_THE_AGENT, stream=True).content)
    check_sources(streamed[-1]["metadata"]["sources"], document_id)


def test_the_openai_door_names_what_is_cited(
    client: httpx.Client, provider: ScriptedProvider, document_id: str
) -> None:
    whole = asked(client, provider, "/v1/chat/completions", **OPENAIS).json()
    assert whole["choices"][0]["message"]["content"] == ANSWER
    check_sources(whole["impact"]["sources"], document_id)
    streamed = objects_of(asked(client, provider, "/v1/chat/completions", **OPENAIS, stream=True).content)
    check_sources(streamed[-1]["impact"]["sources"], document_id)


def test_the_ask_door_names_what_is_cited(client: httpx.Client, provider: ScriptedProvider, document_id: str) -> None:
    answer = asked(client, provider, "/api/ask", question=QUESTION, model="RAG@gpt-4o").json()
    assert (answer["answer"], answer["model_used"]) == (ANSWER, "gpt-4o")
    check_sources(answer["sources"], document_id)
