"""The lists, the drawings, and the two questions a load balancer asks."""

import contextlib
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree

import httpx
import pytest

from api import lists
from config.catalogue import load_catalogue
from services.agent_registry import Agent, AgentOptions
from tests.api_errors import check_error
from tests.live_server import LiveServer, live_server, wait_until
from tests.postgres_for_tests import folder

MODEL_FIELDS = {"name", "provider", "description", "supports_streaming", "context_window", "available"} | {
    "unavailable_reason",
    "aliases",
    "type",
    "capabilities",
    "prices",
}


@pytest.fixture(scope="module")
def keyless() -> Iterator[LiveServer]:
    """A server that no model can serve."""
    with folder() as data_dir, live_server(data_dir, database=False, API_TITLE="Essai") as server:
        yield server


async def test_every_model_of_the_catalogue_is_listed(client: httpx.AsyncClient) -> None:
    content = (await client.get("/models")).json()
    assert content["total"] == len(content["models"]) == len(load_catalogue().models)
    for model in content["models"]:
        assert set(model) >= MODEL_FIELDS
        assert set(model["capabilities"]) >= {"vision", "tools", "json_schema"}
        assert model["available"] is (model["unavailable_reason"] is None)
        # A model that only transcribes may have no window: it is told how much it hears by its pieces.
        assert isinstance(model["context_window"], int) or model["type"] == "transcription"


async def test_a_model_that_cannot_serve_names_its_setting(client: httpx.AsyncClient) -> None:
    models = {model["name"]: model for model in (await client.get("/models")).json()["models"]}
    # Another test may have it cool down at this moment.
    assert "cooling down" in (models["gpt-4o"]["unavailable_reason"] or "cooling down")
    assert models["mistral-small-latest"]["available"] is False
    assert "MISTRALAI_API_KEY" in models["mistral-small-latest"]["unavailable_reason"]
    assert "LOCAL_MODEL" in models["smollm2-135m-instruct"]["unavailable_reason"]


async def test_every_alias_of_the_list_is_accepted_as_a_model(client: httpx.AsyncClient) -> None:
    for model in (await client.get("/models")).json()["models"]:
        for alias in model["aliases"]:
            answer = await client.post("/completion", json={"message": " ", "model": alias})
            check_error(answer, 400, "bad_request")


async def test_the_agents_are_listed_with_those_that_cannot_be_called(client: httpx.AsyncClient) -> None:
    content = (await client.get("/agents")).json()
    assert content["total"] == len(content["agents"])
    agents = {agent["name"]: agent for agent in content["agents"]}
    assert all(agent["type"] == name for name, agent in agents.items())
    assert (agents["V2"]["available"], agents["V2"]["unavailable_reason"]) == (True, None)
    assert agents["V1"]["available"] is (agents["V1"]["unavailable_reason"] is None)


async def test_an_agent_says_what_it_does_with_a_request(client: httpx.AsyncClient) -> None:
    agents = {agent["name"]: agent for agent in (await client.get("/agents")).json()["agents"]}
    for agent in agents.values():
        assert agent["input"].keys() == {"project", "tools"}
        assert agent["input"]["project"] in {"required", "optional", "none"}
        assert agent["timeout_s"] <= 600
    v2 = agents["V2"]
    assert (v2["default_model"], v2["allowed_models"], v2["step_limit"]) == (None, None, 50)


def test_what_an_agent_declares_is_listed() -> None:
    options = AgentOptions(allowed_models=("gpt-4o", "gpt-4o-mini"), needs_project=True, timeout_s=30, step_limit=7)
    agent = Agent("a", "d", None, "soon", options, uses_tools=True)
    listed = lists._agent(agent, run_timeout_s=600)
    assert listed["input"] == {"project": "required", "tools": True}
    assert (listed["default_model"], listed["allowed_models"]) == ("gpt-4o", ["gpt-4o", "gpt-4o-mini"])
    assert (listed["timeout_s"], listed["step_limit"]) == (30, 7)
    assert lists._agent(Agent("a", "d", None, "soon", options), run_timeout_s=20)["timeout_s"] == 20
    assert lists._agent(Agent("a", "d", None, "soon", uses_project=True), 20)["input"]["project"] == "optional"


async def test_an_agents_graph_is_drawn_as_mermaid(client: httpx.AsyncClient) -> None:
    answer = await client.get("/agents/V2/graph")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/vnd.mermaid")
    assert "graph TD" in answer.text
    assert "__start__" in answer.text


async def test_an_agents_graph_is_drawn_as_svg_for_who_accepts_it(client: httpx.AsyncClient) -> None:
    answer = await client.get("/agents/V2/graph", headers={"Accept": "image/svg+xml"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/svg+xml"
    assert answer.headers["vary"] == "Accept"
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    svg = ElementTree.fromstring(answer.text)  # noqa: S314 - our own server's
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    assert svg.findtext("{*}title") == "V2"


async def test_a_drawing_that_cannot_be_made_says_why(client: httpx.AsyncClient) -> None:
    assert "V2" in check_error(await client.get("/agents/V9/graph"), 404, "not_found")
    pdf = await client.get("/agents/V2/graph", headers={"Accept": "application/pdf, image/svg+xml;q=0"})
    assert "image/svg+xml" in check_error(pdf, 406, "not_acceptable")


@pytest.mark.parametrize("path", ["/models", "/agents", "/agents/V2/graph", "/auth/verify"])
def test_the_lists_want_a_credential(server: LiveServer, path: str) -> None:
    answer = httpx.get(f"{server.url}{path}", trust_env=False, timeout=30)
    check_error(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_health_says_who_answers(keyless: LiveServer) -> None:
    content = httpx.get(f"{keyless.url}/health", trust_env=False, timeout=30).json()
    assert list(content) == ["status", "version", "title", "environment", "timestamp"]
    assert (content["status"], content["title"], content["environment"]) == ("healthy", "Essai", "development")
    assert datetime.fromisoformat(content["timestamp"]).tzinfo is not None


def test_readiness_fails_with_the_reason_when_no_model_can_serve(keyless: LiveServer) -> None:
    headers = {"Authorization": f"Bearer {keyless.token()}"}
    answer = httpx.get(f"{keyless.url}/ready", headers=headers, trust_env=False, timeout=30)
    assert answer.status_code == 503
    assert answer.json()["status"] == "not ready"
    models = answer.json()["dependencies"]["models"]
    assert models["state"] == "down"
    assert "OPENAI_API_KEY" in models["reason"]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
def test_to_strangers_readiness_names_no_path_and_no_key(keyless: LiveServer, headers: dict[str, str]) -> None:
    answer = httpx.get(f"{keyless.url}/ready", headers=headers, trust_env=False, timeout=30)
    assert answer.status_code == 503
    for dependency in answer.json()["dependencies"].values():
        assert dependency["reason"] in {None, "send a credential to read why"}
    assert answer.json()["dependencies"]["models"]["reason"]
    assert "KEY" not in answer.text
    assert "/" not in answer.text


def test_readiness_holds_while_the_database_is_down_and_says_so(server: LiveServer) -> None:
    def ask() -> httpx.Response:
        return httpx.get(f"{server.url}/ready", trust_env=False, timeout=30)

    wait_until(lambda: ask().json()["dependencies"]["database"]["state"] == "down", 30, "the database is seen down")
    answer = ask()
    assert answer.status_code == 200
    dependencies = answer.json()["dependencies"]
    assert set(dependencies) == {"server", "database", "ledger", "models"}
    assert dependencies["models"] == {"state": "ready", "reason": None}
    assert dependencies["database"]["reason"]
    assert "nobody" not in answer.text


def test_a_database_without_a_model_does_not_make_it_ready(tmp_path: Path) -> None:
    with live_server(tmp_path) as server:

        def dependencies() -> dict[str, dict[str, object]]:
            content = httpx.get(f"{server.url}/ready", trust_env=False, timeout=30).json()
            return dict(content["dependencies"])

        wait_until(lambda: dependencies()["database"]["state"] == "ready", 60, "the database is ready")
        assert httpx.get(f"{server.url}/ready", trust_env=False, timeout=30).status_code == 503


def test_a_port_that_is_taken_stops_the_start(keyless: LiveServer, tmp_path: Path) -> None:
    started = time.monotonic()
    second = LiveServer(tmp_path / "second", keyless.environment)
    with contextlib.closing(second), pytest.raises(AssertionError, match=r"ended with [13]:"):
        second.start(port=keyless.port)
    assert "address already in use" in second.log
    assert time.monotonic() - started < 90
