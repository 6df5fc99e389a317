"""A LangGraph project is served as it is: its `langgraph.json` names its graphs; what does not hold is named."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config import settings as settings_module
from config.settings import lending_ends
from domain.errors import ConfigurationError
from services.agent_registry import Agent, AgentRegistry
from services.langgraph_project import load_project
from tests.house_for_tests import ask, events_of, finish_of, open_house, text_of
from tests.scripted_provider import scripted_provider

AGENT = """
import os
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from my_tools.words import greeting

def answer(state: MessagesState):
    return {"messages": [AIMessage(f"{greeting()} {state['messages'][-1].content}")]}

builder = StateGraph(MessagesState)
builder.add_node("answer", answer)
builder.add_edge(START, "answer")
builder.add_edge("answer", END)
graph = builder.compile()

def make_graph():
    return graph

def make_for(config):
    assert config == {"configurable": {}}
    return builder

def make_with_default(config=None, *, debug=False):
    return builder

async def make_later(config):
    return graph

def make_for_runtime(runtime: "ServerRuntime"):
    return graph

def make_of_two(config, runtime):
    return graph

async def make_context():
    yield graph

def breaks(config):
    raise KeyError("no luck")

value = 3
"""


@pytest.fixture
def registry() -> AgentRegistry:
    return AgentRegistry()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project's folder; nothing of it outlives the test."""
    folder = tmp_path / "my_app"
    (folder / "src" / "my_tools").mkdir(parents=True)
    (folder / "src" / "my_tools" / "words.py").write_text(
        "import os\ndef greeting():\n    return os.environ.get('GREETING', 'Bonjour')\n"
    )
    (folder / "agent.py").write_text(AGENT)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    with lending_ends():
        yield folder
    for name in set(sys.modules) - before:
        if name.startswith(("my_tools", "agents_config_", "agent")):
            del sys.modules[name]


def write(project: Path, graphs: Any, **more: Any) -> Path:
    path = project / "langgraph.json"
    path.write_text(json.dumps({"dependencies": ["."], "graphs": graphs, **more}))
    return path


def load(registry: AgentRegistry, project: Path, graphs: Any, **more: Any) -> Agent:
    """The project's only agent, built."""
    load_project(registry, write(project, graphs, **more))
    (agent,) = registry.build(llm=None).all()
    return agent


async def answer_of(registry: AgentRegistry, name: str) -> str:
    async with scripted_provider() as provider, open_house(provider) as house:
        house.service._agents = registry.build(llm=None)
        return text_of(await events_of(house, ask(name, "Ada")))


# Graphs


@pytest.mark.parametrize("variable", ["graph", "builder", "make_graph", "make_for", "make_with_default", "make_later"])
async def test_a_graph_or_a_function_that_makes_one_answers(registry, project, variable):
    agent = load(registry, project, {"greeter": f"./agent.py:{variable}"})
    assert (agent.name, agent.origin) == ("greeter", f"my_app/agent.py:{variable}")
    assert agent.description == "A graph of my_app/langgraph.json"
    assert agent.options.own_models
    assert await answer_of(registry, "greeter") == "Bonjour Ada"


async def test_a_function_may_be_async_where_a_loop_runs_already(registry, project):
    assert load(registry, project, {"greeter": "agent.py:make_later"}).graph is not None


async def test_a_graph_may_be_named_by_its_module_and_carry_a_description(registry, project):
    agent = load(registry, project, {"greeter": {"path": "agent:graph", "description": "Greets"}})
    assert (agent.description, agent.origin) == ("Greets", "my_app/langgraph.json: agent:graph")
    assert await answer_of(registry, "greeter") == "Bonjour Ada"


def test_two_graphs_of_one_file_share_its_module(registry, project):
    load_project(registry, write(project, {"a": "./agent.py:graph", "b": "./agent.py:make_graph"}))
    a, b = registry.build(llm=None).all()
    assert a.graph is not None
    assert b.graph is not None
    assert a.graph.builder is b.graph.builder


async def test_what_such_a_run_consumed_is_not_known(registry, project):
    load(registry, project, {"greeter": "./agent.py:graph"})
    async with scripted_provider() as provider, open_house(provider) as house:
        house.service._agents = registry.build(llm=None)
        report = finish_of(await events_of(house, ask("greeter"))).report
    assert report.usage.total_tokens is None
    assert report.price.total_eur is None


def test_loading_twice_in_one_process_registers_once(registry, project):
    path = write(project, {"greeter": "./agent.py:graph"})
    load_project(registry, path)
    load_project(registry, path)
    assert [agent.name for agent in registry.build(llm=None).all()] == ["greeter"]


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("./agent.py:nothing", r"my_app/agent\.py:nothing: it defines no 'nothing'; its graphs: .*graph"),
        ("./none.py:graph", r"graph 'greeter' is './none\.py:graph', and there is no such file"),
        ("./agent.ts:graph", "graphs in Python files"),
        ("./agent.py", r"not './file\.py:variable'"),
        ("no.such:graph", r"my_app/langgraph\.json: no\.such:graph cannot be imported: ModuleNotFoundError"),
        ("./agent.py:value", r"agent 'greeter' \(my_app/agent\.py:value\): its factory returned int, not a graph"),
        ("./agent.py:breaks", r"agent 'greeter' \(my_app/agent\.py:breaks\) cannot be built: KeyError: 'no luck'"),
        ("./agent.py:make_for_runtime", "cannot be built: TypeError: it is a function of runtime"),
        ("./agent.py:make_of_two", "cannot be built: TypeError: it is a function of config, runtime"),
        ("./agent.py:make_context", "cannot be built: TypeError: it is a context manager"),
    ],
)
def test_a_graph_that_cannot_be_served_stops_the_start_and_is_named(registry, project, named, told):
    with pytest.raises(ConfigurationError, match=told):
        load(registry, project, {"greeter": named})


def test_a_file_that_cannot_be_imported_is_named(registry, project):
    (project / "agent.py").write_text("raise ValueError('at import')")
    with pytest.raises(ConfigurationError, match=r"my_app/agent\.py:graph cannot be imported: ValueError: at import"):
        load(registry, project, {"greeter": "./agent.py:graph"})


def test_a_package_named_like_one_of_the_servers_is_explained(registry, project):
    (project / "agent.py").write_text("from graphs.mine import graph")
    with pytest.raises(ConfigurationError, match=r"'graphs' is a package of this server's own"):
        load(registry, project, {"greeter": "./agent.py:graph"})


def test_a_name_that_is_taken_names_both(registry, project):
    registry.announce_agent("greeter", "d", "soon")
    with pytest.raises(ConfigurationError, match=r"by .*test_langgraph_project\.py and by my_app/agent\.py:graph"):
        load(registry, project, {"greeter": "./agent.py:graph"})


# The file


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "Invalid JSON"),
        ("{}", "graphs: Field required"),
        ('{"graphs": {"a": {"path": "./a.py:g", "timeout": 3}}}', "timeout: Extra inputs are not permitted"),
        ('{"graphs": {}, "env": 3}', "env"),
    ],
)
def test_a_file_that_does_not_hold_is_named(registry, project, content, told):
    path = project / "langgraph.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"my_app/langgraph\.json: .*" + told):
        load_project(registry, path)


def test_a_file_that_is_not_there_is_named_with_its_setting(registry, project):
    with pytest.raises(ConfigurationError, match=r"AGENTS_CONFIG=.*none\.json.* cannot be read"):
        load_project(registry, project / "none.json")


def test_parts_that_are_not_served_are_named_in_the_log(registry, project, caplog):
    load(registry, project, {"greeter": "./agent.py:graph"}, auth={"path": "./a.py:a"}, python_version="3.12")
    (record,) = [record for record in caplog.records if record.name == "routeur.agents"]
    assert vars(record)["parts"] == ["auth"]


# Dependencies


def test_packages_must_be_installed_and_folders_must_be_there(registry, project):
    graphs = {"greeter": "./agent.py:graph"}
    with pytest.raises(ConfigurationError, match=r"'no-such-package>=2', which is not installed here: .*pip install"):
        load(registry, project, graphs, dependencies=[".", "langchain_core", "no-such-package>=2"])
    with pytest.raises(ConfigurationError, match=r"'\./nowhere', and there is no such folder"):
        load(AgentRegistry(), project, graphs, dependencies=["./nowhere"])


@pytest.mark.parametrize(
    "named", ["langgraph", "langgraph>=0.2", "langgraph [x] ; python_version > '3'", "git+https://x/y"]
)
def test_packages_that_are_installed_or_cannot_be_told_are_taken_as_they_are(registry, project, named):
    assert load(registry, project, {"greeter": "./agent.py:graph"}, dependencies=[".", named]).graph


def test_a_projects_modules_do_not_hide_the_servers(registry, project):
    (project / "services.py").write_text("raise AssertionError('hidden')")
    load(registry, project, {"greeter": "./agent.py:graph"})
    assert sys.path.index(str(project)) > max(index for index, place in enumerate(sys.path) if "site-packages" in place)


# The environment


async def test_variables_of_the_file_are_seen_by_its_graphs(registry, project, monkeypatch):
    monkeypatch.delenv("GREETING", raising=False)
    load(registry, project, {"greeter": "./agent.py:graph"}, env={"GREETING": "Salut"})
    assert await answer_of(registry, "greeter") == "Salut Ada"


async def test_variables_of_a_file_of_its_own_are_too_as_they_are_written(registry, project, monkeypatch):
    monkeypatch.delenv("GREETING", raising=False)
    (project / ".env").write_text('# words\nGREETING="Hé ${HOME}"\nEMPTY\n')
    load(registry, project, {"greeter": "./agent.py:graph"}, env=".env")
    assert await answer_of(registry, "greeter") == "Hé ${HOME} Ada"


async def test_what_is_set_already_wins(registry, project, monkeypatch):
    monkeypatch.setenv("GREETING", "Hello")
    load(registry, project, {"greeter": "./agent.py:graph"}, env={"GREETING": "Salut"})
    assert await answer_of(registry, "greeter") == "Hello Ada"


def test_they_do_not_become_settings_of_the_server(registry, project, monkeypatch):
    monkeypatch.delenv("RUN_TIMEOUT_S", raising=False)
    monkeypatch.chdir(project)
    with lending_ends():
        load(registry, project, {"greeter": "./agent.py:graph"}, env={"RUN_TIMEOUT_S": "7"})
        assert os.environ["RUN_TIMEOUT_S"] == "7"
    assert "RUN_TIMEOUT_S" not in os.environ
    assert settings_module.load_settings().run_timeout_s == 600


def test_a_file_of_variables_that_is_not_there_is_named(registry, project):
    with pytest.raises(ConfigurationError, match=r"env names '\.env', and there is no such file"):
        load(registry, project, {"greeter": "./agent.py:graph"}, env=".env")
