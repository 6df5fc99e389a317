"""A tool call without a result in a graph that another one runs, and that keeps its own state from turn to turn."""

import asyncio
import operator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.channels import DeltaChannel
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import _messages_delta_reducer, add_messages
from langgraph.prebuilt import InjectedState, ToolNode, create_react_agent
from langgraph.types import Command, interrupt

from domain.errors import ThreadWaits
from services.agent_registry import AgentOptions
from services.orphan_calls import NO_RESULT
from tests.house_for_tests import failure_of, finish_of, text_of
from tests.postgres_for_tests import _made_cluster, database_url, postgres, tmp_path
from tests.scripted_provider import Step, call_tool, chunk, finish
from tests.services.test_orphan_calls import CALL, look_up, shape
from tests.services.test_threads import OUI, refusal, server, turn

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.

OLD_NAME = pytest.mark.filterwarnings("ignore:create_react_agent has been moved")
SECOND_CALL = {"index": 1, "id": "call_2", "type": "function"}
TWO_CALLS: list[Step] = [
    *call_tool("works", "{}"),
    chunk({"tool_calls": [{**SECOND_CALL, "function": {"name": "look_up", "arguments": '{"word": "x"}'}}]}),
    *finish(reason="tool_calls"),
]
ANSWERED = ["user", "assistant", "tool call_1", "user"]


TABLE: dict[str, Any] = {}


class Outer(TypedDict):
    question: str
    answer: str


OPTIONS = AgentOptions(enter=lambda sent: {"question": sent[-1].text}, answer=lambda state: state.get("answer", ""))


def inner(llm: Any, reducer: Any = add_messages, tools: Any = (look_up,)) -> Any:
    """A graph that remembers a conversation which its caller does not see."""

    class Inside(Outer):
        chat: Annotated[list[Any], reducer]

    model = llm.bind_tools(list(tools))

    async def think(state: Inside) -> dict[str, Any]:
        spoken = await model.ainvoke(state["chat"])
        return {"chat": [spoken], "answer": spoken.text}

    def think_at_once(state: Inside) -> dict[str, Any]:
        spoken = model.invoke(state["chat"])
        return {"chat": [spoken], "answer": spoken.text}

    graph: StateGraph[Any] = StateGraph(Inside, input_schema=Outer, output_schema=Outer)
    graph.add_node("listen", lambda state: {"chat": [HumanMessage(state["question"])]})
    graph.add_node("think", RunnableLambda(think_at_once, think))
    graph.add_node("tools", ToolNode(list(tools), messages_key="chat", handle_tool_errors=False))
    graph.add_edge(START, "listen")
    graph.add_edge("listen", "think")
    graph.add_conditional_edges("think", lambda state: "tools" if state["chat"][-1].tool_calls else END)
    graph.add_edge("tools", "think")
    return graph.compile(checkpointer=True)


def one_node(node: Any, state: Any = Outer) -> StateGraph[Any]:
    graph: StateGraph[Any] = StateGraph(state)
    graph.add_node("outer", node)
    graph.add_edge(START, "outer")
    graph.add_edge("outer", END)
    return graph


def as_a_node(llm: Any) -> StateGraph[Any]:
    return one_node(inner(llm))


def within_another(llm: Any) -> StateGraph[Any]:
    return one_node(one_node(inner(llm)).compile(checkpointer=True))


def within_one_that_forgets(llm: Any) -> StateGraph[Any]:
    return one_node(one_node(inner(llm)).compile())


def called_by_a_node(llm: Any) -> StateGraph[Any]:
    graphs = {"inner": inner(llm)}

    async def ask(state: Outer) -> Any:
        return await graphs["inner"].ainvoke(state)

    async def outer(state: Outer) -> Any:
        return {"answer": (await ask(state))["answer"]}

    return one_node(outer)


def called_by_a_method(llm: Any) -> StateGraph[Any]:
    class Outside:
        def __init__(self) -> None:
            self.graph = inner(llm).with_config(tags=["x"])

        async def run(self, state: Outer) -> Any:
            return await self.graph.ainvoke(state)

    return one_node(Outside().run)


def called_without_waiting(llm: Any) -> StateGraph[Any]:
    TABLE["inner"] = inner(llm)

    def outer(state: Outer) -> Any:
        return TABLE["inner"].invoke(state)

    return one_node(outer)


def called_by_a_tool(llm: Any) -> StateGraph[Any]:
    graph = inner(llm)

    @tool
    async def colleague(question: str) -> str:
        """Knows."""
        return str((await graph.ainvoke({"question": question}))["answer"])

    class State(Outer):
        messages: Annotated[list[Any], add_messages]

    def call(state: State) -> dict[str, Any]:
        calls = [{"name": "colleague", "args": {"question": state["question"]}, "id": "outside"}]
        return {"messages": [AIMessage("", tool_calls=calls)]}

    whole: StateGraph[Any] = StateGraph(State)
    whole.add_node("call", call)
    whole.add_node("tools", ToolNode([colleague], handle_tool_errors=False))
    whole.add_node("last", lambda state: {"answer": state["messages"][-1].text})
    whole.add_edge(START, "call")
    whole.add_edge("call", "tools")
    whole.add_edge("tools", "last")
    return whole


def of_an_object_that_is_called(llm: Any) -> StateGraph[Any]:
    class Node:
        graph = inner(llm)

        async def __call__(self, state: Outer) -> Any:
            return await self.graph.ainvoke(state)

    return one_node(Node())


def compiled_while_it_runs(llm: Any) -> StateGraph[Any]:
    async def outer(state: Outer) -> Any:
        return await inner(llm).ainvoke(state)

    return one_node(outer)


def chooses_the_way(llm: Any) -> StateGraph[Any]:
    class State(Outer):
        said: str

    graph = inner(llm)
    said: dict[str, str] = {}

    async def route(state: State) -> str:
        said["it"] = (await graph.ainvoke({"question": state["question"]}))["answer"]
        return "last"

    whole: StateGraph[Any] = StateGraph(State)
    whole.add_node("first", lambda state: {"said": ""})
    whole.add_node("last", lambda state: {"answer": said["it"]})
    whole.add_edge(START, "first")
    whole.add_conditional_edges("first", route, ["last"])
    return whole


@pytest.mark.parametrize(
    "create",
    [
        of_an_object_that_is_called,
        compiled_while_it_runs,
        chooses_the_way,
        as_a_node,
        within_another,
        within_one_that_forgets,
        called_by_a_node,
        called_by_a_method,
        called_without_waiting,
        called_by_a_tool,
    ],
)
async def test_a_graph_within_goes_on_after_a_tool_that_raised(database_url: str, tmp_path: Path, create: Any) -> None:
    scripts = [CALL, *[OUI] * 5]
    async with server(database_url, tmp_path, *scripts, agents={"mine": create}, options=OPTIONS) as (
        house,
        provider,
        _,
    ):
        assert failure_of(await turn(house, "un", agent="mine")) is not None
        for text in ("deux", "trois", "quatre", "cinq", "six"):
            assert text_of(await turn(house, text, agent="mine")) == "Oui"
    assert shape(provider.requests[1]) == ANSWERED
    assert provider.requests[1]["messages"][2]["content"] == NO_RESULT
    assert shape(provider.requests[5]) == [*ANSWERED, *["assistant", "user"] * 4], "the answer is kept, once"


@pytest.mark.parametrize("reducer", [operator.add, DeltaChannel(_messages_delta_reducer)])
async def test_whatever_adds_the_messages(database_url: str, tmp_path: Path, reducer: Any) -> None:
    agents = {"mine": lambda llm: one_node(inner(llm, reducer))}
    async with server(database_url, tmp_path, CALL, OUI, OUI, agents=agents, options=OPTIONS) as (house, provider, _):
        assert failure_of(await turn(house, "un", agent="mine")) is not None
        assert text_of(await turn(house, "deux", agent="mine")) == "Oui"
        assert text_of(await turn(house, "trois", agent="mine")) == "Oui"
    assert shape(provider.requests[2]) == [*ANSWERED, "assistant", "user"]


async def test_a_caller_who_leaves_while_a_tool_within_runs(database_url: str, tmp_path: Path) -> None:
    at_work = asyncio.Event()

    @tool
    async def look_up(word: str) -> str:
        """Looks a word up."""
        at_work.set()
        await asyncio.sleep(60)
        return word

    agents = {"mine": lambda llm: one_node(inner(llm, tools=[look_up]))}
    async with server(database_url, tmp_path, CALL, OUI, agents=agents, options=OPTIONS) as (house, provider, _):
        running = asyncio.create_task(turn(house, "un", agent="mine"))
        await at_work.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert text_of(await turn(house, "deux", agent="mine")) == "Oui"
    assert shape(provider.requests[1]) == ANSWERED


async def test_two_graphs_within_one(database_url: str, tmp_path: Path) -> None:
    def two(llm: Any) -> StateGraph[Any]:
        graph: StateGraph[Any] = StateGraph(Outer)
        graph.add_node("first", inner(llm))
        graph.add_node("second", inner(llm))
        graph.add_edge(START, "first")
        graph.add_edge("first", "second")
        return graph

    scripts = [OUI, CALL, OUI, OUI, CALL, OUI, OUI]
    async with server(database_url, tmp_path, *scripts, agents={"mine": two}, options=OPTIONS) as (house, provider, _):
        assert failure_of(await turn(house, "un", agent="mine")) is not None
        assert failure_of(await turn(house, "deux", agent="mine")) is None
        assert failure_of(await turn(house, "trois", agent="mine")) is not None
        assert failure_of(await turn(house, "quatre", agent="mine")) is None
    assert shape(provider.requests[3]) == ANSWERED
    assert shape(provider.requests[5]) == [
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
        "assistant",
        "tool call_1",
        "user",
    ]


async def test_a_failure_that_the_caller_of_the_graph_catches(database_url: str, tmp_path: Path) -> None:
    """No run has failed: nothing outside of the graph within says that a call is open there."""

    def catches(llm: Any) -> StateGraph[Any]:
        graph = inner(llm)

        async def outer(state: Outer) -> Any:
            try:
                return await graph.ainvoke(state)
            except RuntimeError:
                return {"answer": "Pardon"}

        return one_node(outer)

    async with server(database_url, tmp_path, CALL, OUI, agents={"mine": catches}, options=OPTIONS) as (
        house,
        provider,
        _,
    ):
        assert text_of(await turn(house, "un", agent="mine")) == "Pardon"
        assert text_of(await turn(house, "deux", agent="mine")) == "Oui"
    assert shape(provider.requests[1]) == ANSWERED


async def test_a_caller_of_the_graph_that_answers_the_call_itself(database_url: str, tmp_path: Path) -> None:
    def answers(llm: Any) -> StateGraph[Any]:
        model = llm.bind_tools([look_up])

        async def think(state: MessagesState) -> dict[str, Any]:
            return {"messages": [await model.ainvoke(state["messages"])]}

        def does(state: MessagesState) -> dict[str, Any]:
            return {"messages": [ToolMessage("42", tool_call_id=state["messages"][-1].tool_calls[0]["id"])]}

        graph: StateGraph[Any] = StateGraph(MessagesState)
        graph.add_node("proposes", one_node(think, MessagesState).compile(checkpointer=True))
        graph.add_node("does", does)
        graph.add_edge(START, "proposes")
        graph.add_conditional_edges("proposes", lambda state: "does" if state["messages"][-1].tool_calls else END)
        graph.add_edge("does", "proposes")
        return graph

    async with server(database_url, tmp_path, CALL, OUI, agents={"mine": answers}) as (house, provider, _):
        assert text_of(await turn(house, "un", agent="mine")) == "Oui"
    assert shape(provider.requests[1]) == ["user", "assistant", "tool call_1"]
    assert provider.requests[1]["messages"][2]["content"] == "42"


@OLD_NAME
async def test_a_tool_that_hands_over_to_another_agent(database_url: str, tmp_path: Path) -> None:
    """It leaves its graph in the middle of a step, and its result comes back with the messages of the caller."""

    @tool("look_up")
    def hand_over(word: str, state: Annotated[dict[str, Any], InjectedState]) -> Any:
        """Hands over."""
        result = ToolMessage("handed over", tool_call_id="call_1")
        return Command(graph=Command.PARENT, goto="other", update={"messages": [*state["messages"], result]})

    def create(llm: Any) -> StateGraph[Any]:
        graph: StateGraph[Any] = StateGraph(MessagesState)
        graph.add_node("outer", create_react_agent(llm, [hand_over], checkpointer=True))
        graph.add_node("other", lambda _: {"messages": [AIMessage("Bon")]})
        graph.add_edge(START, "outer")
        return graph

    async with server(database_url, tmp_path, CALL, OUI, agents={"mine": create}) as (house, provider, _):
        assert text_of(await turn(house, "un", agent="mine")) == "Bon"
        assert text_of(await turn(house, "deux", agent="mine")) == "Oui"
    assert shape(provider.requests[1]) == ["user", "assistant", "tool call_1", "assistant", "user"]
    assert provider.requests[1]["messages"][2]["content"] == "handed over"


@OLD_NAME
async def test_an_agent_of_langgraphs_own_that_remembers(database_url: str, tmp_path: Path) -> None:
    done: list[str] = []

    @tool
    async def works() -> str:
        """Works."""
        done.append("x")
        return "worked"

    def create(llm: Any) -> StateGraph[Any]:
        agent = create_react_agent(llm, [works, look_up], checkpointer=True)

        async def outer(state: Outer) -> Any:
            found = await agent.ainvoke({"messages": [HumanMessage(state["question"])]})
            return {"answer": found["messages"][-1].text}

        return one_node(outer)

    async with server(database_url, tmp_path, TWO_CALLS, OUI, OUI, agents={"mine": create}, options=OPTIONS) as (
        house,
        provider,
        _,
    ):
        assert failure_of(await turn(house, "un", agent="mine")) is not None
        assert text_of(await turn(house, "deux", agent="mine")) == "Oui"
        assert text_of(await turn(house, "trois", agent="mine")) == "Oui"
    assert done == ["x"]
    assert sorted(shape(provider.requests[1])) == ["assistant", "tool call_1", "tool call_2", "user", "user"]
    assert shape(provider.requests[2])[:5] == shape(provider.requests[1])


async def test_a_question_within_is_answered_and_its_call_goes_on(database_url: str, tmp_path: Path) -> None:
    @tool
    def look_up(word: str) -> str:
        """Looks a word up."""
        return str(interrupt("Sure?"))

    agents = {"mine": lambda llm: one_node(inner(llm, tools=[look_up]))}
    async with server(database_url, tmp_path, CALL, OUI, OUI, agents=agents, options=OPTIONS) as (house, provider, _):
        assert finish_of(await turn(house, "un", agent="mine")).interrupts
        await refusal(house, ThreadWaits, "deux", agent="mine")
        assert text_of(await turn(house, "", agent="mine", resume="yes")) == "Oui"
        assert text_of(await turn(house, "trois", agent="mine")) == "Oui"
    assert shape(provider.requests[0]) == ["user"]
    assert provider.requests[1]["messages"][2]["content"] == "yes"
    assert shape(provider.requests[2]) == ["user", "assistant", "tool call_1", "assistant", "user"]
