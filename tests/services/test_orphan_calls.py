"""A tool call without a result never reaches a provider: a thread whose run was cut off goes on."""

import asyncio
import operator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    ToolMessage,
    convert_to_openai_messages,
)
from langchain_core.tools import tool
from langgraph.channels import BinaryOperatorAggregate
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES, add_messages
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Overwrite

from services.agent_registry import AgentOptions
from services.orphan_calls import NO_RESULT, answer_orphans, with_orphans_answered
from services.thread_saver import ThreadSaver
from tests.house_for_tests import failure_of, text_of
from tests.postgres_for_tests import _made_cluster, database_url, postgres, tmp_path
from tests.scripted_provider import Status, Step, call_tool, finish
from tests.services.test_threads import OUI, count, server, turn

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.

CALL: list[Step] = [*call_tool("look_up", '{"word": "x"}'), *finish(reason="tool_calls")]
REFUSED: list[Step] = [Status(400, {"error": {"message": "no"}})]


def with_tools(*tools: Any, state: Any = MessagesState) -> Any:
    def create(llm: Any) -> StateGraph[Any]:
        model = llm.bind_tools(list(tools))

        async def think(state: Any) -> dict[str, Any]:
            return {"messages": [await model.ainvoke(state["messages"])]}

        graph: StateGraph[Any] = StateGraph(state)
        graph.add_node("think", think)
        graph.add_node("tools", ToolNode(list(tools), handle_tool_errors=False))
        graph.add_edge(START, "think")
        graph.add_conditional_edges("think", tools_condition)
        graph.add_edge("tools", "think")
        return graph

    return create


@tool
def look_up(word: str) -> str:
    """Looks a word up."""
    raise RuntimeError("broken")


class Added(TypedDict):
    messages: Annotated[list[Any], operator.add]


def shape(request: dict[str, Any]) -> list[str]:
    """Roles, and the ids that results are of."""
    return [f"tool {one['tool_call_id']}" if one["role"] == "tool" else one["role"] for one in request["messages"]]


@pytest.mark.parametrize("state", [MessagesState, Added])
async def test_a_tool_that_raises_leaves_a_thread_that_goes_on(database_url: str, tmp_path: Path, state: Any) -> None:
    agents = {"mine": with_tools(look_up, state=state)}
    async with server(database_url, tmp_path, CALL, OUI, OUI, agents=agents) as (house, provider, _):
        assert failure_of(await turn(house, "un", agent="mine")) is not None
        assert text_of(await turn(house, "deux", agent="mine")) == "Oui"
        assert text_of(await turn(house, "trois", agent="mine")) == "Oui"
    assert shape(provider.requests[1]) == ["user", "assistant", "tool call_1", "user"]
    assert provider.requests[1]["messages"][2]["content"] == NO_RESULT
    assert shape(provider.requests[2])[3:] == ["user", "assistant", "user"], "the answer is kept"


class Chat(TypedDict):
    chat: Annotated[list[Any], add_messages]


async def test_a_conversation_may_have_another_key(database_url: str, tmp_path: Path) -> None:
    def create(llm: Any) -> StateGraph[Any]:
        model = llm.bind_tools([look_up])

        async def think(state: Chat) -> dict[str, Any]:
            return {"chat": [await model.ainvoke(state["chat"])]}

        graph: StateGraph[Any] = StateGraph(Chat)
        graph.add_node("think", think)
        graph.add_node("tools", ToolNode([look_up], messages_key="chat", handle_tool_errors=False))
        graph.add_edge(START, "think")
        graph.add_conditional_edges("think", lambda state: "tools" if state["chat"][-1].tool_calls else END)
        graph.add_edge("tools", "think")
        return graph

    options = AgentOptions(enter=lambda sent: {"chat": sent}, answer=lambda state: state["chat"][-1].text)
    agents = {"mine": create}
    async with server(database_url, tmp_path, CALL, OUI, OUI, agents=agents, options=options) as (house, provider, _):
        assert failure_of(await turn(house, "un", agent="mine")) is not None
        assert text_of(await turn(house, "deux", agent="mine")) == "Oui"
        assert text_of(await turn(house, "trois", agent="mine")) == "Oui"
    assert shape(provider.requests[1]) == ["user", "assistant", "tool call_1", "user"]
    assert shape(provider.requests[2])[3:] == ["user", "assistant", "user"]


async def test_a_caller_who_leaves_while_a_tool_runs(database_url: str, tmp_path: Path) -> None:
    at_work = asyncio.Event()

    @tool
    async def look_up(word: str) -> str:
        """Looks a word up."""
        at_work.set()
        await asyncio.sleep(60)
        return word

    agents = {"mine": with_tools(look_up)}
    async with server(database_url, tmp_path, CALL, OUI, agents=agents) as (house, provider, _):
        running = asyncio.create_task(turn(house, "un", agent="mine"))
        await at_work.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert text_of(await turn(house, "deux", agent="mine")) == "Oui"
    assert shape(provider.requests[1]) == ["user", "assistant", "tool call_1", "user"]


async def test_a_result_is_put_behind_its_call_also_when_messages_have_followed(
    database_url: str, tmp_path: Path
) -> None:
    """As a thread looks whose turns failed before orphans were answered."""

    def strays(llm: Any) -> StateGraph[Any]:
        async def think(state: MessagesState) -> dict[str, Any]:
            if state["messages"][-1].text == "un":
                calls = [{"name": "look_up", "args": {}, "id": name} for name in ("a", "b")]
                return {"messages": [AIMessage("", tool_calls=calls), ToolMessage("x", tool_call_id="a"), "Et ?"]}
            return {"messages": [await llm.ainvoke(state["messages"])]}

        graph: StateGraph[Any] = StateGraph(MessagesState)
        graph.add_node("think", think)
        graph.add_edge(START, "think")
        graph.add_edge("think", END)
        return graph

    async with server(database_url, tmp_path, OUI, OUI, agents={"mine": strays}) as (house, provider, _):
        await turn(house, "un", agent="mine")
        await turn(house, "deux", agent="mine")
        await turn(house, "trois", agent="mine")
    assert shape(provider.requests[0]) == ["user", "assistant", "tool a", "tool b", "user", "user"]
    assert shape(provider.requests[1])[:6] == shape(provider.requests[0])


async def test_arguments_that_cannot_be_read_are_a_call_too(database_url: str, tmp_path: Path) -> None:
    broken: list[Step] = [*call_tool("look_up", '{"word": '), *finish(reason="tool_calls")]
    agents = {"mine": with_tools(look_up)}
    async with server(database_url, tmp_path, broken, OUI, agents=agents) as (house, provider, _):
        await turn(house, "un", agent="mine")
        assert text_of(await turn(house, "deux", agent="mine")) == "Oui"
    assert shape(provider.requests[1]) == ["user", "assistant", "tool call_1", "user"]


async def test_a_new_message_begins_a_new_turn_after_a_half_step(database_url: str, tmp_path: Path) -> None:
    """What a node did that had ended stays; the one that failed beside it is not begun again."""
    calls: list[str] = []
    ended = asyncio.Event()

    def halves(llm: Any) -> StateGraph[Any]:
        def ends(_: MessagesState) -> dict[str, Any]:
            calls.append("ends")
            return {"messages": [AIMessage("done")]}

        async def fails(state: MessagesState) -> dict[str, Any]:
            calls.append("fails")
            await ended.wait()
            await llm.ainvoke("x")
            return {"messages": [AIMessage("never")]}

        graph: StateGraph[Any] = StateGraph(MessagesState)
        graph.add_node("ends", ends)
        graph.add_node("fails", fails)
        graph.add_node("last", lambda state: {"messages": [AIMessage(str([one.text for one in state["messages"]]))]})
        graph.add_conditional_edges(
            START, lambda state: ["ends", "fails"] if state["messages"][-1].text == "un" else ["last"]
        )
        for node in ("ends", "fails"):
            graph.add_edge(node, "last")
        graph.add_edge("last", END)
        return graph

    async with server(database_url, tmp_path, REFUSED, agents={"mine": halves}) as (house, _, threads):
        running = asyncio.create_task(turn(house, "un", agent="mine"))
        while not await count(threads, "checkpoint_writes WHERE channel = 'messages'"):  # noqa: ASYNC110 - the database has no event
            await asyncio.sleep(0.01)
        ended.set()
        assert failure_of(await running) is not None
        assert text_of(await turn(house, "deux", agent="mine")) == "['un', 'done', 'deux']"
    assert sorted(calls) == ["ends", "fails"]


def call(*ids: str) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": "x", "args": {}, "id": one} for one in ids])


def result(call_id: str) -> ToolMessage:
    return ToolMessage("x", tool_call_id=call_id)


call_0 = AIMessage("", tool_calls=[{"name": "x", "args": {}, "id": "0"}], id="call")
result_0 = ToolMessage("x", tool_call_id="0", id="result")


@pytest.mark.parametrize(
    ("kept", "new", "whole"),
    [
        ([HumanMessage("a")], [HumanMessage("b")], None),
        ([call("1"), result("1")], [HumanMessage("b")], None),
        ([call("1")], [result("1")], None),
        ([call("0"), result("0"), call("0")], [HumanMessage("b")], ["ai", "tool 0", "ai", "tool 0", "human"]),
        ([call("1"), HumanMessage("a")], [HumanMessage("b")], ["ai", "tool 1", "human", "human"]),
        ([call("1")], [RemoveMessage(id=REMOVE_ALL_MESSAGES), HumanMessage("b")], None),
        ([call("1", "2"), result("1")], [result("2")], None),
        ([call("1", "1")], [HumanMessage("b")], ["ai", "tool 1", "human"]),
        ([call_0, result_0, call("0", "1")], [call_0, result_0], ["ai", "tool 0", "ai", "tool 0", "tool 1"]),
        ([call_0], [AIMessage("none", id="call"), HumanMessage("b")], None),
        ([call_0], [call_0, HumanMessage("b")], ["ai", "tool 0", "human"]),
    ],
)
def test_only_orphans_are_answered(kept: list[BaseMessage], new: list[BaseMessage], whole: list[str] | None) -> None:
    channels = {"messages": BinaryOperatorAggregate(list, add_messages)}
    sent = with_orphans_answered(channels, {"messages": kept}, writes := [("messages", new)])
    if whole is None:
        assert sent is writes
        return
    channel = channels["messages"].from_checkpoint(kept)
    channel.update([value for _, value in sent])
    found = channel.get()
    assert [f"tool {m.tool_call_id}" if isinstance(m, ToolMessage) else m.type for m in found] == whole


def test_what_stands_for_a_conversation_has_its_results_too() -> None:
    kept = {"messages": [HumanMessage("a"), call("1")]}
    sent = [("messages", Overwrite([call("1"), HumanMessage("b")]))]
    ((_, value),) = with_orphans_answered({"messages": BinaryOperatorAggregate(list, add_messages)}, kept, sent)
    assert [one.type for one in value.value] == ["ai", "tool", "human"]
    whole = [("messages", Overwrite([call("1"), result("1")]))]
    assert with_orphans_answered({}, kept, whole) == whole


def test_a_reducer_that_takes_one_message_is_given_no_list() -> None:
    channel = BinaryOperatorAggregate(list, lambda one, other: [*one, other])
    (write,) = with_orphans_answered({"log": channel}, {"log": [call("1")]}, [("log", HumanMessage("b"))])
    kept = channel.from_checkpoint([call("1")])
    kept.update([write[1]])
    assert [one.type for one in kept.get()] == ["ai", "tool", "human"]


class Kept(TypedDict):
    question: str
    history: list[Any]
    answer: str


async def test_an_input_that_takes_the_place_of_a_conversation_has_no_orphans_of_it() -> None:
    graph: StateGraph[Any] = StateGraph(Kept)
    graph.add_node("a", lambda state: state)
    graph.add_edge(START, "a")
    kept = graph.compile(checkpointer=InMemorySaver())
    answer_orphans(kept)
    config: Any = {"configurable": {"thread_id": "x"}}
    await kept.ainvoke({"history": [call("1")]}, config)
    found = await kept.ainvoke({"history": [HumanMessage("b")]}, config)
    assert [one.type for one in found["history"]] == ["human"]


class Gathered(Kept):
    history: Annotated[list[Any], operator.add]


@pytest.mark.parametrize("keep", [convert_to_openai_messages, lambda spoken: spoken], ids=["dictionaries", "messages"])
@pytest.mark.parametrize("first", [{"role": "user", "content": "?"}, HumanMessage("?"), ("user", "?"), "?"])
@pytest.mark.parametrize("state_type", [Kept, Gathered], ids=["whole", "added"])
async def test_a_conversation_in_any_form_of_messages(
    database_url: str, tmp_path: Path, state_type: Any, first: Any, keep: Any
) -> None:
    """Its nodes give the whole of it, or what is new."""

    def create(llm: Any) -> StateGraph[Any]:
        model = llm.bind_tools([look_up])

        async def think(state: Any) -> dict[str, Any]:
            before = state.get("history", [])
            spoken = await model.ainvoke([*before, first])
            new = [first, keep(spoken)]
            return {"history": new if state_type is Gathered else [*before, *new], "answer": spoken.text}

        def work(state: Any) -> None:
            if not state["answer"]:
                raise RuntimeError("broken")

        graph: StateGraph[Any] = StateGraph(state_type)
        graph.add_node("think", think)
        graph.add_node("work", work)
        graph.add_edge(START, "think")
        graph.add_edge("think", "work")
        return graph

    options = AgentOptions(enter=lambda sent: {"question": sent[-1].text}, answer=lambda state: state["answer"])
    agents = {"mine": create}
    async with server(database_url, tmp_path, CALL, OUI, OUI, agents=agents, options=options) as (house, provider, _):
        assert failure_of(await turn(house, "un", agent="mine")) is not None
        assert text_of(await turn(house, "deux", agent="mine")) == "Oui"
        assert text_of(await turn(house, "trois", agent="mine")) == "Oui"
    assert shape(provider.requests[1]) == ["user", "assistant", "tool call_1", "user"]
    assert provider.requests[1]["messages"][2]["content"] == NO_RESULT
    assert shape(provider.requests[2])[3:] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    "kept",
    [
        ["a", "b"],
        [{"role": "assistant", "tool_calls": [{"id": "1"}]}, 3],
        [{"role": "user", "tool_calls": [{"id": "1"}]}],
        [{"role": "assistant", "tool_calls": "x"}, {"role": "assistant", "tool_calls": [None, {"id": 5}]}, {}],
        [{"role": "assistant", "tool_calls": [{"id": "1"}]}, {"role": "tool", "tool_call_id": "1", "content": "x"}],
        [call("1"), {"role": "tool", "tool_call_id": "1", "content": "x"}],
    ],
)
def test_lists_of_other_things_are_left_as_they_are(kept: list[Any]) -> None:
    channels = {"messages": BinaryOperatorAggregate(list, operator.add)}
    assert with_orphans_answered(channels, {"messages": kept}, writes := [("messages", ["b"])]) is writes


class Seen(TypedDict):
    messages: Annotated[list[Any], add_messages]


class Whole(Seen):
    hidden: Annotated[list[Any], add_messages]


@pytest.mark.parametrize("call_is_last", [True, False])
async def test_a_conversation_that_neither_enters_nor_leaves_the_graph(
    database_url: str, tmp_path: Path, *, call_is_last: bool
) -> None:
    def create(llm: Any) -> StateGraph[Any]:
        async def think(state: Whole) -> dict[str, Any]:
            sent = HumanMessage(state["messages"][-1].text)
            if sent.text == "un":
                return {"hidden": [sent, call("1"), *([] if call_is_last else [HumanMessage("Et ?")])]}
            spoken = await llm.ainvoke([*state["hidden"], sent])
            return {"hidden": [sent, spoken], "messages": [spoken]}

        graph: StateGraph[Any] = StateGraph(Whole, input_schema=Seen, output_schema=Seen)
        graph.add_node("think", think)
        graph.add_edge(START, "think")
        return graph

    async with server(database_url, tmp_path, OUI, OUI, agents={"mine": create}) as (house, provider, _):
        assert failure_of(await turn(house, "un", agent="mine")) is None
        assert text_of(await turn(house, "deux", agent="mine")) == "Oui"
        assert text_of(await turn(house, "trois", agent="mine")) == "Oui"
    between = [] if call_is_last else ["user"]
    assert shape(provider.requests[0]) == ["user", "assistant", "tool 1", *between, "user"]
    assert shape(provider.requests[1])[:-2] == shape(provider.requests[0])


async def test_a_thread_is_read_once_a_turn(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a turn that ended with an open call: whoever writes the next one's input has the state before him."""
    readings: list[str] = []

    def create(llm: Any) -> StateGraph[Any]:
        async def think(state: MessagesState) -> dict[str, Any]:
            return {"messages": [call("1") if state["messages"][-1].text == "deux" else AIMessage("Oui")]}

        graph: StateGraph[Any] = StateGraph(MessagesState)
        graph.add_node("think", think)
        graph.add_edge(START, "think")
        return graph

    load = ThreadSaver._load_checkpoint_tuple

    async def counted(saver: Any, row: Any) -> Any:
        readings.append(row["checkpoint_id"])
        return await load(saver, row)

    async with server(database_url, tmp_path, agents={"mine": create}) as (house, _, _):
        await turn(house, "un", agent="mine")
        monkeypatch.setattr(ThreadSaver, "_load_checkpoint_tuple", counted)
        for number, text in enumerate(("deux", "trois", "quatre"), 1):
            await turn(house, text, agent="mine")
            assert len(readings) == number
