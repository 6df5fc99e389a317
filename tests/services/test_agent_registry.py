"""The registry: what is wrong with an agent stops the start and is named."""

import functools
from typing import Any

import pytest
from langgraph.graph import END, START, MessagesState, StateGraph
from typing_extensions import TypedDict

from domain.errors import AgentUnavailable, ConfigurationError, UnknownAgent
from services.agent_registry import AgentOptions, AgentRegistry
from services.tools.calculator import create_calculator
from services.tools.clock import create_clock

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


# Options


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"step_limits": 3}, "step_limits"),
        ({"tools": "calculator"}, "tools is a tuple"),
        ({"allowed_models": "gpt-4o"}, "allowed_models is a tuple"),
        ({"allowed_models": ()}, "names no model"),
        ({"allowed_models": ("a", "b"), "default_model": "c"}, "'c' is not among"),
        ({"step_limit": 0}, "more than 0"),
        ({"timeout_s": 0}, "more than 0"),
    ],
)
def test_options_that_do_not_hold_are_errors(options, told):
    with pytest.raises((TypeError, ValueError), match=told):
        AgentOptions(**options)


def test_options_of_another_kind_are_refused_by_name(registry):
    with pytest.raises(ConfigurationError, match=r"agent 'a' .*AgentOptions\(\.\.\.\), not dict"):
        registry.register_agent("a", create_echo_graph, "d", {"timeout_s": 3})


@pytest.mark.parametrize(
    ("options", "model"),
    [
        (AgentOptions(), None),
        (AgentOptions(default_model="a"), "a"),
        (AgentOptions(allowed_models=("b", "a")), "b"),
        (AgentOptions(allowed_models=("b", "a"), default_model="a"), "a"),
    ],
)
def test_the_usual_model_is_the_default_or_the_first_allowed(options, model):
    assert options.usual_model == model


def test_a_built_agent_says_where_it_comes_from_and_what_it_uses(registry):
    registry.register_agent("a", lambda llm, retrieve, tools: create_echo_graph(llm), "d")
    registry.announce_agent("b", "d", "soon")
    agents = registry.build(llm=LLM, retrieve=None, tools=[create_calculator()])
    a, b = agents.get_or_raise("a"), agents.get_or_raise("b")
    assert (a.origin, a.uses_project, a.uses_tools) == ("services/test_agent_registry.py", True, True)
    assert (b.origin, b.uses_project, b.uses_tools) == ("services/test_agent_registry.py", False, False)


def test_an_agent_is_given_the_tools_it_names_unless_the_operator_names_others(registry):
    given = {}

    def factory(llm, tools):
        given["names"] = [tool.name for tool in tools]
        return create_echo_graph(llm)

    registry.register_agent("a", factory, "d", AgentOptions(tools=("clock", "web_search")))
    tools = [create_calculator(), create_clock("UTC")]
    assert registry.build(llm=LLM, tools=tools).get_or_raise("a").uses_tools
    assert given["names"] == ["clock"]
    registry.build(llm=LLM, tools=tools, agent_tools={"a": ("calculator",)})
    assert given["names"] == ["calculator"]
    assert not registry.build(llm=LLM, tools=tools, agent_tools={"a": ()}).get_or_raise("a").uses_tools
    with pytest.raises(ConfigurationError, match="AGENT_TOOLS: no agent is called 'b'"):
        registry.build(llm=LLM, tools=tools, agent_tools={"b": ()})
