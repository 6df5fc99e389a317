"""Agents are found in `graphs/` and in installed packages; what cannot be loaded stops the start and is named."""

import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import graphs
import services.agent_registry as registry_module
from app import create_app
from config.catalogue import load_catalogue
from config.settings import Settings
from domain.errors import ConfigurationError
from services.agent_loading import check_model_names, load_agents, load_entry_points, load_graph_files
from services.agent_registry import Agent, AgentOptions, AgentRegistry, Agents, agent_registry
from tests.house_for_tests import one_node, writes

LLM = object()
OFFERED = {"llm": LLM, "retrieve": None, "tools": [], "small_model": None, "store": None}
"""What the server offers to factories."""


@pytest.fixture
def registry() -> AgentRegistry:
    return AgentRegistry()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: AgentRegistry) -> Iterator[Path]:
    """A folder whose files are modules of `graphs`, and register where no other test looks."""
    monkeypatch.setattr(graphs, "__path__", [str(tmp_path)])
    monkeypatch.setattr(registry_module, "agent_registry", registry)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("graphs."):
            del sys.modules[name]
            vars(graphs).pop(name.removeprefix("graphs."), None)


GRAPH_FILE = """
from langgraph.graph import END, START, MessagesState, StateGraph

from services.agent_registry import agent_registry


def create_graph(llm):
    graph = StateGraph(MessagesState)
    graph.add_node("answer", lambda state: {})
    graph.add_edge(START, "answer")
    graph.add_edge("answer", END)
    return graph


agent_registry.register_agent("mine", create_graph, "What it is for")
"""


# A file is enough


def test_a_file_in_the_folder_is_an_agent(folder, registry):
    (folder / "mine_graph.py").write_text(GRAPH_FILE)
    (folder / "notes.py").write_text("raise RuntimeError('not a graph file')")
    load_graph_files(folder)
    agent = registry.build(llm=LLM).get_or_raise("mine")
    assert (agent.name, agent.description, agent.unavailable_reason) == ("mine", "What it is for", None)
    assert agent.graph is not None


def test_the_shipped_files_are_the_three_agents():
    load_graph_files()
    agents = agent_registry.build(**OFFERED)
    assert {"RAG", "V1", "V2"} <= {agent.name for agent in agents.all()}
    assert agents.get_or_raise("V2").graph_or_raise() is not None


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("def oops(:", "SyntaxError"),
        ("raise ValueError('at import')", "ValueError: at import"),
    ],
)
def test_a_file_that_cannot_be_imported_stops_the_start_and_is_named(folder, content, told):
    (folder / "broken_graph.py").write_text(content)
    with pytest.raises(ConfigurationError, match=r"graphs/broken_graph\.py cannot be imported") as caught:
        load_graph_files(folder)
    assert told in str(caught.value)


def test_two_files_with_one_name_are_both_named(folder):
    (folder / "mine_graph.py").write_text(GRAPH_FILE)
    (folder / "other_graph.py").write_text(GRAPH_FILE)
    with pytest.raises(ConfigurationError, match=r"'mine' is registered twice: by .*/mine_graph\.py and by .*/other_"):
        load_graph_files(folder)


def test_a_name_that_was_announced_is_taken_and_the_file_that_announced_it_is_named(folder):
    announcing = (
        "from services.agent_registry import agent_registry\nagent_registry.announce_agent('mine', 'd', 'soon')"
    )
    (folder / "a_graph.py").write_text(announcing)
    (folder / "mine_graph.py").write_text(GRAPH_FILE)
    with pytest.raises(ConfigurationError, match=r"twice: by .*/a_graph\.py and by .*/mine_graph\.py"):
        load_graph_files(folder)


# Options in a file


@pytest.mark.parametrize("written", ["AgentOptions(step_limits=3)", "AgentOptions(step_limit=0)"])
def test_options_that_do_not_hold_are_reported_with_their_file(folder, written):
    content = GRAPH_FILE.replace("import agent_registry", "import AgentOptions, agent_registry")
    (folder / "mine_graph.py").write_text(content.replace('"What it is for")', f'"d", {written})'))
    with pytest.raises(ConfigurationError, match=r"graphs/mine_graph\.py cannot be imported: .*step_limit"):
        load_graph_files(folder)


# Installed packages


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: AgentRegistry) -> Iterator[Path]:
    """The folder of an installed package `poets`, whose entry point a test writes."""
    monkeypatch.setattr(registry_module, "agent_registry", registry)
    monkeypatch.syspath_prepend(str(tmp_path))
    information = tmp_path / "poets-1.2.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: poets\nVersion: 1.2\n")
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("poets")]:
        del sys.modules[name]


def write_package(folder: Path, value: str, content: str) -> None:
    (folder / "poets-1.2.dist-info" / "entry_points.txt").write_text(f"[routeur.agents]\nverses = {value}\n")
    (folder / "poets_agents.py").write_text(content)
    importlib.invalidate_caches()


def test_a_package_whose_entry_point_is_a_module_registers_by_being_imported(package, registry):
    write_package(package, "poets_agents", GRAPH_FILE)
    load_entry_points(registry)
    assert registry.build(llm=LLM).get_or_raise("mine").origin.endswith("/poets_agents.py")


def test_a_package_whose_entry_point_is_a_function_is_given_the_registry(package, registry):
    content = GRAPH_FILE.split("agent_registry.register_agent(", maxsplit=1)[0]
    content += "def add(registry):\n    registry.register_agent('ode', create_graph, 'd')\n"
    write_package(package, "poets_agents:add", content)
    load_entry_points(registry)
    assert registry.build(llm=LLM).get_or_raise("ode").graph is not None


def test_loading_twice_in_one_process_registers_once(package, registry):
    write_package(package, "poets_agents:add", "def add(registry):\n    registry.announce_agent('ode', 'd', 'soon')\n")
    load_entry_points(registry)
    load_entry_points(registry)
    assert [agent.name for agent in registry.build(llm=LLM).all()] == ["ode"]


@pytest.mark.parametrize(
    ("value", "content", "told"),
    [
        ("poets_agents", "raise ValueError('at import')", "ValueError: at import"),
        ("poets_agents:none", "", "AttributeError"),
        ("poets_agents:add", "def add(registry):\n    raise KeyError('oops')", "KeyError: 'oops'"),
        ("poets_agents:add", "add = 3", "neither a module nor a function, but int"),
    ],
)
def test_a_package_that_cannot_be_loaded_stops_the_start_and_is_named(package, registry, value, content, told):
    write_package(package, value, content)
    with pytest.raises(ConfigurationError, match=r"entry point 'verses' \(poets_agents.*, poets 1\.2\)") as caught:
        load_entry_points(registry)
    assert told in str(caught.value)


def test_a_name_taken_by_a_file_and_a_package_names_both(folder, package, registry):
    (folder / "mine_graph.py").write_text(GRAPH_FILE)
    load_graph_files(folder)
    write_package(package, "poets_agents", GRAPH_FILE)
    with pytest.raises(ConfigurationError, match=r"twice: by .*/mine_graph\.py and by .*/poets_agents\.py"):
        load_entry_points(registry)


# Everything


def test_the_server_loads_its_own_agents_however_often_it_is_asked(registry):
    load_agents(registry, None)
    load_agents(registry, None)
    assert {"RAG", "V1", "V2"} <= {agent.name for agent in agent_registry.build(**OFFERED).all()}


@pytest.mark.parametrize(
    "options", [AgentOptions(default_model="gpt-0"), AgentOptions(allowed_models=("gpt-4o", "gpt-0"))]
)
def test_an_agent_that_names_a_model_which_is_not_there_stops_the_start(options: AgentOptions) -> None:
    catalogue = load_catalogue()
    known = Agent("a", "d", None, None, AgentOptions(allowed_models=("gpt-4o", "default")), origin="graphs/a_graph.py")
    check_model_names(Agents({"a": known}), catalogue)
    unknown = Agent("b", "d", None, None, options, origin="graphs/b_graph.py")
    with pytest.raises(ConfigurationError, match=r"agent 'b' \(graphs/b_graph.py\).*'gpt-0'.*models list"):
        check_model_names(Agents({"a": known, "b": unknown}), catalogue)


def test_the_server_does_not_start_with_such_an_agent(registry: AgentRegistry, tmp_path: Path) -> None:
    registry.register_agent("mine", one_node(writes("x")), "d", AgentOptions(default_model="gpt-0"))
    with pytest.raises(ConfigurationError, match=r"agent 'mine' .*'gpt-0'"):
        create_app(Settings(_env_file=None, data_dir=tmp_path, local_model="none"), registry)
