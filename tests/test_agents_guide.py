"""The guide to agents holds: its files are saved as it says, run as it says, and do what it says."""

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID
from xml.etree import ElementTree

import pytest

import graphs
import services.agent_registry as registry_module
from api.schemas import CompletionBody
from config.settings import Settings, lending_ends
from core.http_client import HttpClient
from domain.documents import Passage, SearchFilter
from services.agent_loading import load_entry_points, load_graph_files
from services.agent_registry import AgentRegistry
from services.langgraph_project import load_project
from services.run_context import current_run
from services.tools.offered import create_tools
from tests.house_for_tests import House, ask, events_of, finish_of, open_house, text_of
from tests.live_server import ROOT, LiveServer, clean_environment
from tests.postgres_for_tests import _made_cluster, database_url, folder, postgres, tmp_path
from tests.provider_thread import play, provider_in_thread
from tests.scripted_provider import API_KEY, Step, call_tool, finish, say, scripted_provider
from tests.services.test_threads import keeping

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.

GUIDE = (ROOT / "docs" / "agents.md").read_text(encoding="utf-8")
PRINTED_ADDRESS, PRINTED_PYTHON = "http://127.0.0.1:7860", ".venv/bin/python"
OUI: list[Step] = [*say("Oui"), *finish()]
PASSAGES = [
    Passage(UUID(int=number), f"doc {number}", 0, text, (), 1, 0, len(text), 0.9)
    for number, text in enumerate(["The sea is blue.", "The sky too."], 1)
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


def files() -> dict[str, str]:
    """The guide's Python files by their names, which their first lines tell."""
    return {block.split("\n", 1)[0].removeprefix("# "): block for block in blocks("python")}


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AgentRegistry]:
    """The guide's agents, loaded from a folder as they are from `graphs/`."""
    registry = AgentRegistry()
    monkeypatch.setattr(registry_module, "agent_registry", registry)
    monkeypatch.setattr(graphs, "__path__", [str(tmp_path)])
    before = set(sys.modules)
    for name, content in files().items():
        if name.startswith("graphs/"):
            (tmp_path / Path(name).name).write_text(content)
    load_graph_files(tmp_path)
    yield registry
    for name in [name for name in set(sys.modules) - before if name.startswith("graphs.")]:
        del sys.modules[name]
        vars(graphs).pop(name.removeprefix("graphs."), None)


@asynccontextmanager
async def guides_house(registry: AgentRegistry, *scripts: Sequence[Step], **more: Any) -> AsyncIterator[House]:
    """A house with the guide's agents, the server's tools, and two passages in every project."""

    async def retrieve(question: str, k: int = 5) -> list[Passage]:
        run = current_run.get()
        assert run is not None
        found = PASSAGES[:k] if run.project else []
        run.passages += found
        return found

    class Projects:
        async def open_filter(self, principal: Any, project_id: str, sources: Any) -> SearchFilter:
            return SearchFilter(project_id)

    tools = create_tools(Settings(_env_file=None), HttpClient(1.0))
    async with (
        scripted_provider(*scripts) as provider,
        open_house(provider, projects=Projects(), **more) as house,
    ):
        saver = {"checkpointer": more["threads"].saver} if "threads" in more else {}
        house.service._agents = registry.build(llm=house.llm, tools=tools, retrieve=retrieve, **saver)
        yield house


def test_every_file_of_the_guide_is_one_that_is_run_here() -> None:
    assert set(files()) == {
        "graphs/helper_graph.py",
        "graphs/editor_graph.py",
        "graphs/librarian_graph.py",
        "graphs/clerk_graph.py",
        "graphs/counter_graph.py",
        "tests/graphs/test_helper_graph.py",
        "greeter.py",
        "our_agents.py",
    }


async def test_the_helper_is_offered_its_tools_and_those_of_the_server_that_it_names(registry: AgentRegistry) -> None:
    looks_up = [*call_tool("calculator", '{"expression": "6*7"}'), *finish(reason="tool_calls")]
    async with guides_house(registry, looks_up, OUI) as house:
        assert text_of(await events_of(house, ask("helper"))) == "Oui"


async def test_the_editor_streams_its_text_and_neither_its_plan_nor_its_verdict(registry: AgentRegistry) -> None:
    plan, verdict = [*say("a b c"), *finish()], [*say('{"quality": "good"}'), *finish()]
    async with guides_house(registry, plan, OUI, verdict) as house:
        events = await events_of(house, ask("editor"))
    assert text_of(events) == "Oui"
    assert [call.model for call in finish_of(events).report.calls] == ["gpt-4o", "gpt-4o", "gpt-4o-mini"]


async def test_the_editor_adds_what_it_thinks_of_a_poor_text(registry: AgentRegistry) -> None:
    plan, verdict = [*say("a b c"), *finish()], [*say('{"quality": "poor"}'), *finish()]
    async with guides_house(registry, plan, OUI, verdict) as house:
        assert text_of(await events_of(house, ask("editor"))) == "OuiI would not rely on this."


async def test_the_librarian_cites_what_its_answer_names(registry: AgentRegistry) -> None:
    async with guides_house(registry, [*say("Blue [1]."), *finish()]) as house:
        events = await events_of(house, ask("librarian", "What colour?", project_id="p"))
    assert [passage.title for passage in finish_of(events).sources] == ["doc 1"]


async def test_the_clerk_asks_and_goes_on(registry: AgentRegistry, database_url: str, tmp_path: Path) -> None:
    first, second = (CompletionBody.model_validate(json.loads(block)) for block in blocks("json")[:2])
    async with (
        keeping(database_url, tmp_path) as threads,
        guides_house(registry, [*say("Dear Ada"), *finish()], threads=threads) as house,
    ):
        asked = await events_of(house, ask(first.agent, first.message, thread_id=first.thread_id))
        (question,) = finish_of(asked).interrupts
        assert question.value == {"question": "Send this?", "draft": "Dear Ada"}
        told = await events_of(house, ask(second.agent, "", thread_id=second.thread_id, resume=second.resume))
        assert text_of(told) == "Sent."


async def test_the_counter_has_a_state_of_its_own(registry: AgentRegistry) -> None:
    async with guides_house(registry) as house:
        assert text_of(await events_of(house, ask("counter", "un deux trois"))) == "3 words"


async def test_the_guides_test_passes(registry: AgentRegistry) -> None:
    module: dict[str, Any] = {}
    exec(compile(files()["tests/graphs/test_helper_graph.py"], "guide", "exec"), module)  # noqa: S102 - the guide's own
    await module["test_it_looks_up_the_hours_before_it_answers"]()


async def test_the_langgraph_project_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("GREETING", raising=False)
    (tmp_path / "greeter.py").write_text(files()["greeter.py"])
    config = next(block for block in blocks("json") if '"graphs"' in block)
    (tmp_path / "langgraph.json").write_text(config)
    registry = AgentRegistry()
    with lending_ends():
        load_project(registry, tmp_path / "langgraph.json")
        async with guides_house(registry) as house:
            assert text_of(await events_of(house, ask("greeter", "Ada"))) == "Bonjour Ada"
            assert text_of(await events_of(house, ask("late", "Bob"))) == "Bonjour Bob"


async def test_the_package_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads(blocks("toml")[0])["project"]
    monkeypatch.syspath_prepend(str(tmp_path))
    information = tmp_path / "our_agents-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1.0\n")
    ((group, points),) = project["entry-points"].items()
    lines = [f"{name} = {value}" for name, value in points.items()]
    (information / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))
    (tmp_path / "our_agents.py").write_text(files()["our_agents.py"])
    assert importlib.metadata.entry_points(group="routeur.agents")
    registry = AgentRegistry()
    load_entry_points(registry)
    agent = registry.build(llm=None).get_or_raise("our-echo")
    assert agent.description == "Says it again"
    sys.modules.pop("our_agents", None)


@pytest.fixture
def project() -> Iterator[Path]:
    with folder() as place:
        copy = place / "project"
        ignored = shutil.ignore_patterns(
            ".venv", "data", ".git", "__pycache__", "node_modules", ".hypothesis", ".*_cache"
        )
        shutil.copytree(ROOT, copy, ignore=ignored)
        yield copy


def shell(project: Path, script: str) -> str:
    ran = subprocess.run(
        ["bash", "-euc", script],
        cwd=project,
        env=clean_environment(LOCAL_MODEL="none"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    return ran.stdout


def test_ten_minutes_lead_from_nothing_to_an_agent_that_streams_with_a_tool(project: Path) -> None:
    """The commands as they are printed, in a copy of the project; only the provider is scripted."""
    begin, calls, look = blocks("bash")
    assert f"{PRINTED_PYTHON} app.py serve --reload\n" in blocks("text")
    written = shell(project, begin.replace(PRINTED_PYTHON, sys.executable))
    assert [Path(line).relative_to(project) for line in written.splitlines()] == [
        Path("graphs/helper_graph.py"),
        Path("tests/graphs/test_helper_graph.py"),
    ]
    (project / "graphs" / "helper_graph.py").write_text(files()["graphs/helper_graph.py"])
    with provider_in_thread() as provider:
        looks_up = [*call_tool("opening_hours", '{"day": "Sunday"}'), *finish(reason="tool_calls")]
        play(provider, looks_up, [*say("No, ", "closed."), *finish()])
        environment = {"LOCAL_MODEL": "none", "OPENAI_API_KEY": API_KEY, "OPENAI_BASE_URL": provider.base_url}
        server = LiveServer(project.parent / "data", {**environment, "SHUTDOWN_NOTICE_S": "0"}, project)
        try:
            server.start()
            streamed = shell(project, (calls + look).replace(PRINTED_ADDRESS, server.url))
        finally:
            server.close()
    events = [json.loads(line.removeprefix("data: ")) for line in streamed.splitlines() if line]
    assert "".join(event["content"] for event in events) == "No, closed."
    assert events[-1]["done"]
    drawing = ElementTree.fromstring((project / "helper.svg").read_text())  # noqa: S314 - our own server's
    assert {"think", "tools"} <= {element.text for element in drawing.iter("{http://www.w3.org/2000/svg}text")}
