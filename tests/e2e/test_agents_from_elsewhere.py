"""Agents from a LangGraph project, and agents that change while their author writes them, in the real server."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live_server import ROOT, LiveServer, live_server, run_until_it_ends, wait_until
from tests.postgres_for_tests import folder
from tests.scripted_provider import API_KEY

AGENT = """
import os
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph

builder = StateGraph(MessagesState)
builder.add_node("answer", lambda state: {"messages": [AIMessage(os.environ["GREETING"] + " WORD")]})
builder.add_edge(START, "answer")
graph = builder.compile()
"""
RELOAD_S = 110


def write_project(place: Path, word: str = "Ada") -> Path:
    place.mkdir(exist_ok=True)
    (place / "agent.py").write_text(AGENT.replace("WORD", word))
    config = place / "langgraph.json"
    variables = {"GREETING": "Bonjour", "API_TITLE": "not the server's", "RUN_TIMEOUT_S": "7"}
    config.write_text(json.dumps({"dependencies": ["."], "graphs": {"greeter": "./agent.py:graph"}, "env": variables}))
    return config


def ask(server: LiveServer, agent: str) -> Any:
    answer = httpx.post(
        f"{server.url}/completion",
        json={"message": "Hi", "agent": agent},
        headers={"Authorization": f"Bearer {server.token()}"},
        trust_env=False,
        timeout=60,
    )
    return answer.json()


def listed(server: LiveServer) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {server.token()}"}
    try:
        answer = httpx.get(f"{server.url}/agents", headers=headers, trust_env=False, timeout=30)
    except httpx.TransportError:
        return {}
    return {agent["name"]: agent for agent in answer.json()["agents"]}


@pytest.fixture
def place() -> Iterator[Path]:
    with folder() as path:
        yield path


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_langgraph_project_is_served_and_its_variables_are_its_own(place: Path, workers: str) -> None:
    config = write_project(place / "my_app")
    with live_server(
        place / "data", database=False, AGENTS_CONFIG=str(config), WORKERS=workers, OPENAI_API_KEY=API_KEY
    ) as server:
        answer = ask(server, "greeter")
        assert answer["response"] == "Bonjour Ada"
        assert answer["usage"] == {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}
        assert answer["metadata"]["pricing"]["total_cost"] is None
        assert answer["metadata"]["impact"]["unaccounted_models"] == ["unknown"]
        assert answer["model"] == "unknown"
        health = httpx.get(f"{server.url}/health", trust_env=False, timeout=30).json()
        assert health["title"] == "Routeur IA"
        assert listed(server)["greeter"]["timeout_s"] == 600


def test_reload_serves_what_an_author_adds_changes_and_breaks(place: Path) -> None:
    project = place / "project"
    shutil.copytree(ROOT, project, ignore=shutil.ignore_patterns(".venv", "data", ".git", "tests", "__pycache__", ".*"))
    config = write_project(place / "my_app")
    server = LiveServer(
        place / "data",
        {
            "LOCAL_MODEL": "none",
            "SHUTDOWN_NOTICE_S": "0",
            "OPENAI_API_KEY": API_KEY,
            "AGENTS_CONFIG": str(config),
        },
        project,
        arguments=("--reload",),
    )
    try:
        server.start()
        assert ask(server, "greeter")["response"] == "Bonjour Ada"
        # A new file.
        soon = (
            'from services.agent_registry import agent_registry\nagent_registry.announce_agent("poet", "d", "soon")\n'
        )
        poet = project / "graphs" / "poet_graph.py"
        poet.write_text(soon)
        wait_until(lambda: "poet" in listed(server), RELOAD_S, "the new agent is listed")
        # One that breaks the start leaves a server that waits for the next change.
        poet.write_text("def oops(:")
        wait_until(lambda: "graphs/poet_graph.py cannot be imported" in server.log, RELOAD_S, "the log names the file")
        poet.write_text(soon.replace("poet", "bard"))
        wait_until(lambda: "bard" in listed(server), RELOAD_S, "the mended agent is listed")
        # A file of the other project.
        write_project(place / "my_app", word="Bob")
        wait_until(lambda: ask_or_none(server) == "Bonjour Bob", RELOAD_S, "the changed graph answers")
        headers = {"Authorization": f"Bearer {server.token()}"}
        wait_until(
            lambda: httpx.get(f"{server.url}/ready", headers=headers, trust_env=False, timeout=30).status_code == 200,
            RELOAD_S,
            "its database is back",
        )
    finally:
        server.close()


def ask_or_none(server: LiveServer) -> str | None:
    try:
        return str(ask(server, "greeter").get("response"))
    except httpx.TransportError:
        return None


def test_reload_is_refused_outside_development_and_with_several_workers(place: Path) -> None:
    for environment in ({"WORKERS": "2"}, {"ENVIRONMENT": "production"}):
        status, told = run_until_it_ends(place, "serve", "--reload", **environment)
        assert status == 1
        assert "--reload is for development with one worker" in told
