"""The README tells the truth: its calls are made as printed, its agent runs, its routes are the server's."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app import create_app
from config.settings import Settings
from services.agent_registry import AgentRegistry
from tests.live_server import ROOT, LiveServer, live_server
from tests.postgres_for_tests import folder
from tests.tiny_model import TINY_MODEL, link_tiny_model

README = (ROOT / "README.md").read_text(encoding="utf-8")
PRINTED_ADDRESS = "http://127.0.0.1:7860"
CALL_S = 110


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    """A server with the smallest local model: the README's calls need no key."""
    with folder() as data_dir:
        link_tiny_model(data_dir)
        # A small context bounds what the model may say: it does not know when to stop.
        with live_server(data_dir, LOCAL_MODEL=TINY_MODEL, LOCAL_CONTEXT_TOKENS="512") as running:
            yield running


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def run_calls(server: LiveServer) -> list[str]:
    """What each of the README's curl calls prints, run as printed, in one shell."""
    assert shutil.which("curl"), "the README's calls need curl"
    calls = [block for block in blocks("bash") if "curl" in block]
    script = "\necho '<<next>>'\n".join(calls).replace(PRINTED_ADDRESS, server.url)
    ran = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=CALL_S, check=True)
    return ran.stdout.split("<<next>>\n")


def test_the_three_calls_answer_in_the_shapes_that_are_printed_below_them(server: LiveServer) -> None:
    token, whole, streamed = run_calls(server)
    assert token == ""
    printed = json.loads(blocks("json")[0])
    answered = json.loads(whole)
    assert answered.keys() == printed.keys()
    assert answered["metadata"].keys() == printed["metadata"].keys()
    assert answered["response"]
    events = [json.loads(line.removeprefix("data: ")) for line in streamed.splitlines() if line]
    assert [event["done"] for event in events] == [False] * (len(events) - 1) + [True]
    assert len(events) > 1
    printed_events = [line for line in blocks("text")[0].splitlines() if line.startswith("data: ")]
    assert json.loads(printed_events[0].removeprefix("data: ")).keys() == events[0].keys()


def test_the_official_client_gets_its_answer_as_printed(server: LiveServer) -> None:
    program = next(block for block in blocks("python") if "OpenAI(" in block)
    program = program.replace(PRINTED_ADDRESS, server.url).replace("YOUR_TOKEN_OR_API_KEY", server.token())
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=CALL_S, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "'mean'" in ran.stdout


def test_the_agent_of_the_readme_runs_from_one_file() -> None:
    """As its reader would: the file is dropped into `graphs/` of a copy of the project, and called by its name."""
    with folder() as place:
        _call_the_poet(place)


def _call_the_poet(tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(ROOT, project, ignore=shutil.ignore_patterns(".venv", "data", ".git", "tests", "__pycache__", ".*"))
    (project / "graphs" / "poet_graph.py").write_text(next(b for b in blocks("python") if "create_poet_graph" in b))
    data_dir = tmp_path / "data"
    link_tiny_model(data_dir)
    with live_server(data_dir, project=project, LOCAL_MODEL=TINY_MODEL) as server:
        answer = httpx.post(
            f"{server.url}/completion",
            json={"message": "La mer", "agent": "poet", "max_tokens": 16},
            headers={"Authorization": f"Bearer {server.token()}"},
            trust_env=False,
            timeout=CALL_S,
        )
    assert answer.status_code == 200, answer.text
    assert answer.json()["agent"] == "poet"
    assert answer.json()["response"]


def test_the_readme_lists_the_servers_routes_and_no_others(tmp_path: Path) -> None:
    listed = set(re.findall(r"`((?:GET|POST|DELETE) /\S+)`", README.split("## The routes")[1].split("## ")[0]))
    app = create_app(Settings(data_dir=tmp_path, local_model="none"), AgentRegistry())
    paths = app.openapi()["paths"]
    assert listed == {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
