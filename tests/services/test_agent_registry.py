"""Agents: a file is enough; what is wrong with one stops the start and is named."""

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import END, START, MessagesState, StateGraph
from typing_extensions import TypedDict

import graphs
import services.agent_registry as registry_module
from domain.errors import AgentUnavailable, ConfigurationError, UnknownAgent
from services.agent_registry import AgentRegistry, agent_registry, load_graph_files

LLM = object()


def create_echo_graph(llm: Any) -> StateGraph[Any]:
    assert llm is LLM
    graph: StateGraph[Any] = StateGraph(MessagesState)
    graph.add_node("answer", lambda state: {"messages": state["messages"][-1:]})
    graph.add_edge(START, "answer")
    graph.add_edge("answer", END)
    return graph


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
    agents = agent_registry.build(llm=LLM)
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


# Factories


def test_a_factory_is_given_what_it_names_and_no_more(registry):
    given: dict[str, Any] = {}

    def create(llm: Any, tools: Any, retrieve: Any = "nothing", unknown: Any = "default") -> Any:
        given.update(llm=llm, tools=tools, retrieve=retrieve, unknown=unknown)
        return create_echo_graph(llm)

    registry.register_agent("a", create, "d")
    registry.build(llm=LLM, tools=["t"], checkpointer="not asked for")
    assert given == {"llm": LLM, "tools": ["t"], "retrieve": "nothing", "unknown": "default"}


def test_a_factory_may_take_anything_else_too(registry):
    def create(llm: Any, *args: Any, **kwargs: Any) -> Any:
        assert (args, kwargs) == ((), {})
        return create_echo_graph(llm)

    registry.register_agent("a", create, "d")
    assert registry.build(llm=LLM, tools=[]).get_or_raise("a").graph_or_raise()


def test_a_factory_that_asks_for_an_unknown_thing_says_what_is_offered(registry):
    registry.register_agent("a", lambda llm, oracle: None, "d")
    with pytest.raises(
        ConfigurationError, match=r"agent 'a' \(services/test_agent_registry\.py\).*'oracle'.*offers 'llm'"
    ):
        registry.build(llm=LLM)


def test_a_factory_may_return_a_compiled_graph(registry):
    registry.register_agent("a", lambda llm: create_echo_graph(llm).compile(), "d")
    assert registry.build(llm=LLM).get_or_raise("a").graph_or_raise()


def test_a_factory_may_be_a_partial(registry):
    registry.register_agent("a", functools.partial(create_echo_graph, llm=LLM), "d")
    assert registry.build(llm=LLM).get_or_raise("a").graph_or_raise()


class _NoMessages(TypedDict):
    question: str


def _without_messages(llm: Any) -> Any:
    graph: StateGraph[Any] = StateGraph(_NoMessages)
    graph.add_node("answer", lambda state: {})
    graph.add_edge(START, "answer")
    return graph


def _not_connected(llm: Any) -> Any:
    graph: StateGraph[Any] = StateGraph(MessagesState)
    graph.add_edge(START, "nowhere")
    return graph


def _raises(llm: Any) -> Any:
    raise ValueError("no luck")


@pytest.mark.parametrize(
    ("factory", "told"),
    [
        (lambda llm: "a string", "returned str, not a graph"),
        (_without_messages, "no 'messages'"),
        (_not_connected, "cannot be built: ValueError"),
        (_raises, "cannot be built: ValueError: no luck"),
        ("not a function", "cannot be built: TypeError"),
    ],
    ids=["no graph", "no messages", "not connected", "raises", "not a function"],
)
def test_an_agent_that_cannot_be_built_stops_the_start_and_is_named(registry, factory, told):
    registry.register_agent("mine", factory, "d")
    with pytest.raises(ConfigurationError, match="agent 'mine'") as caught:
        registry.build(llm=LLM)
    assert told in str(caught.value)


# Names


def test_a_duplicate_name_is_refused_and_the_first_stays(registry):
    registry.register_agent("a", create_echo_graph, "first")
    with pytest.raises(ConfigurationError, match="registered twice"):
        registry.register_agent("a", create_echo_graph, "second")
    assert registry.build(llm=LLM).get_or_raise("a").description == "first"


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb", "\x00"])
def test_a_name_that_cannot_be_shown_is_refused(registry, name):
    with pytest.raises(ConfigurationError, match="1 to 64 printable"):
        registry.register_agent(name, create_echo_graph, "d")


def test_an_unknown_agent_is_told_with_the_known_ones(registry):
    registry.register_agent("b", create_echo_graph, "d")
    registry.announce_agent("a", "d", "soon")
    with pytest.raises(UnknownAgent, match="unknown agent 'c'; known agents: a, b"):
        registry.build(llm=LLM).get_or_raise("c")


def test_an_announced_agent_is_listed_and_says_why_it_cannot_be_called(registry):
    registry.announce_agent("later", "What it will be for", "not written yet")
    agents = registry.build(llm=LLM)
    assert [(agent.name, agent.graph, agent.unavailable_reason) for agent in agents.all()] == [
        ("later", None, "not written yet")
    ]
    with pytest.raises(AgentUnavailable, match="'later' cannot be called yet: not written yet"):
        agents.get_or_raise("later").graph_or_raise()


def test_an_agent_that_is_forgotten_may_be_registered_again_and_what_was_built_stays(registry):
    registry.register_agent("a", create_echo_graph, "first")
    built = registry.build(llm=LLM)
    registry.unregister_agent("a")
    registry.unregister_agent("never there")
    registry.register_agent("a", create_echo_graph, "second")
    assert built.get_or_raise("a").description == "first"
    assert registry.build(llm=LLM).get_or_raise("a").description == "second"
