"""The steps of agents that use tools: choose one, use it, look at what it gave, and answer.

Models that call tools do so themselves. Others fill schemas: which tool, then its arguments; what a tool gave is told
to them as plain context. They are offered a tool once, and only for questions that its metadata (`asked_by`, a regular
expression) says it may serve: the smallest would call each of them for anything.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import BaseTool
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel, create_model

from graphs.structured import calls_tools, filled
from graphs.wording import last_question

MAX_STEPS = 6
MAX_AT_ONCE = 8
"""More calls than these in one step are not made: each may open a connection and start a process."""
MAX_SHOWN_CHARS = 9_000
NO_TOOL = "aucun"

CHOICE_PROMPT = (
    "{tools}\n- aucun : la question n'a besoin d'aucun outil\n\nQuestion : {question}{results}\n\n"
    "Quel outil faut-il utiliser maintenant ?"
)
ARGUMENTS_PROMPT = (
    "Outil {name} : {description}\n\nQuestion : {question}{results}\n\nAvec quels arguments faut-il l'appeler ?"
)
RESULTS_PROMPT = (
    "{question}\n\nPour y répondre, des outils ont été utilisés :{results}\n\nRéponds à la question en une phrase, "
    "avec ce qu'ils ont donné."
)
STEP_LIMIT_NOTE = "Tu ne peux plus utiliser d'outils. Réponds maintenant avec ce que tu sais."


class ToolState(MessagesState):
    """`results` is what tools gave to a model that does not call them itself."""

    results: list[str]
    used: list[str]
    chosen: str
    steps: int


@dataclass(frozen=True, slots=True)
class ToolSteps:
    """Nodes of a graph; `prompt` is the agent's system message."""

    llm: Any
    tools: Sequence[BaseTool]
    prompt: str

    async def begin(self, state: ToolState) -> dict[str, Any]:
        # What the former turn of a thread left behind goes.
        return {"results": [], "used": [], "chosen": "", "steps": 0}

    async def call_tools(self, state: ToolState) -> dict[str, Any]:
        """A model that calls tools: it asks for some, or answers."""
        messages = self.llm.trim_to_context([SystemMessage(self.prompt), *state["messages"]])
        reply = await self.llm.bind_tools(list(self.tools)).ainvoke(messages)
        return {"messages": [reply], "steps": state["steps"] + 1}

    async def use_called(self, state: ToolState) -> dict[str, Any]:
        """All tools that the model asked for, at once."""
        asked = state["messages"][-1]
        if not isinstance(asked, AIMessage):
            return {}
        used = await asyncio.gather(*(self._used(call) for call in asked.tool_calls[:MAX_AT_ONCE]))
        too_many = [
            _problem(call, f"not called: at most {MAX_AT_ONCE} at once") for call in asked.tool_calls[MAX_AT_ONCE:]
        ]
        # Each call that a model has made wants an answer, also one that cannot be read.
        invalid = [_problem(call, str(call["error"])) for call in asked.invalid_tool_calls]
        return {"messages": [*used, *too_many, *invalid]}

    async def choose(self, state: ToolState) -> dict[str, Any]:
        """A model that does not: it names a tool of those that are left."""
        question = last_question(state["messages"])
        left = [tool for tool in self.tools if tool.name not in state["used"] and _may_serve(tool, question)]
        if not left or not self.llm.supports("json_schema"):
            return {"chosen": NO_TOOL}
        names: Any = Literal[(*(tool.name for tool in left), NO_TOOL)]
        choice = create_model("Choice", tool=(names, ...))
        shown = "\n".join(f"- {tool.name} : {tool.description}" for tool in left)
        asked = CHOICE_PROMPT.format(tools=shown, question=question, results=_listed(state["results"]))
        filled_in = await filled(self.llm, choice, [HumanMessage(asked)])
        return {"chosen": filled_in.tool if filled_in else NO_TOOL, "steps": state["steps"] + 1}

    async def use_chosen(self, state: ToolState) -> dict[str, Any]:
        """The chosen tool, with arguments that the model fills in."""
        tool = next(tool for tool in self.tools if tool.name == state["chosen"])
        arguments = await self._arguments(tool, state)
        given = await _result(tool, arguments)
        if given.status == "error" and not _required(tool):
            arguments = {}
            given = await _result(tool, arguments)
        shown = ", ".join(str(value) for value in arguments.values())
        result = f"{tool.name}({shown}) : {given.content}"
        return {"results": [*state["results"], result], "used": [*state["used"], tool.name]}

    async def answer(self, state: ToolState) -> dict[str, Any]:
        """From what the tools gave."""
        prompt = self.prompt
        messages: list[BaseMessage] = list(state["messages"])
        if calls_tools(self.llm):
            prompt = f"{prompt}\n\n{STEP_LIMIT_NOTE}"
        else:
            messages = _spoken(messages)
            if state["results"]:
                asked = RESULTS_PROMPT.format(question=last_question(messages), results=_listed(state["results"]))
                messages[-1] = HumanMessage(asked)
        return {"messages": [await self.llm.ainvoke(self.llm.trim_to_context([SystemMessage(prompt), *messages]))]}

    def first(self, _: ToolState) -> Literal["call_tools", "choose"]:
        return "call_tools" if calls_tools(self.llm) else "choose"

    def after_call(self, state: ToolState) -> Literal["use_called", "__end__"]:
        last = state["messages"][-1]
        if isinstance(last, AIMessage) and (last.tool_calls or last.invalid_tool_calls):
            return "use_called"
        return "__end__"

    def after_use(self, state: ToolState) -> Literal["call_tools", "answer"]:
        return "call_tools" if state["steps"] < MAX_STEPS else "answer"

    def after_choice(self, state: ToolState) -> Literal["use_chosen", "answer"]:
        return "answer" if state["chosen"] == NO_TOOL or state["steps"] > MAX_STEPS else "use_chosen"

    async def _used(self, call: Any) -> ToolMessage:
        tool = next((tool for tool in self.tools if tool.name == call["name"]), None)
        if tool is not None:
            return await _result(tool, call["args"], call["id"])
        known = ", ".join(tool.name for tool in self.tools)
        return _problem(call, f"there is no tool {call['name'][:60]!r}; there are {known}")

    async def _arguments(self, tool: BaseTool, state: ToolState) -> dict[str, Any]:
        schema: Any = tool.get_input_schema()
        if not schema.model_fields:
            return {}
        prompt = ARGUMENTS_PROMPT.format(
            name=tool.name,
            description=tool.description,
            question=last_question(state["messages"]),
            results=_listed(state["results"]),
        )
        arguments = await filled(self.llm, schema, [HumanMessage(prompt)])
        return arguments.model_dump() if isinstance(arguments, BaseModel) else {}


def add_tool_steps(graph: StateGraph[Any], steps: ToolSteps, *, entry: str | None = START) -> None:
    """The nodes and edges, after `entry`; without one, an edge of the graph's own leads to `begin`."""
    graph.add_node("begin", steps.begin)
    graph.add_node("call_tools", steps.call_tools)
    graph.add_node("use_called", steps.use_called)
    graph.add_node("choose", steps.choose)
    graph.add_node("use_chosen", steps.use_chosen)
    graph.add_node("answer", steps.answer)
    if entry is not None:
        graph.add_edge(entry, "begin")
    graph.add_conditional_edges("begin", steps.first)
    graph.add_conditional_edges("call_tools", steps.after_call)
    graph.add_conditional_edges("use_called", steps.after_use)
    graph.add_conditional_edges("choose", steps.after_choice)
    graph.add_edge("use_chosen", "choose")
    graph.add_edge("answer", END)


async def _result(tool: BaseTool, arguments: dict[str, Any], call_id: str = "") -> ToolMessage:
    """What the tool gave, or what went wrong, for the model to read."""
    call = {"type": "tool_call", "name": tool.name, "args": arguments, "id": call_id}
    try:
        given: ToolMessage = await tool.ainvoke(call)
    except ValueError as error:
        # Among them pydantic's, for arguments that do not fit.
        return _problem(call, f"the arguments {arguments} do not fit: {error}")
    text = str(given.text)
    return given if len(text) <= MAX_SHOWN_CHARS else given.model_copy(update={"content": f"{text[:MAX_SHOWN_CHARS]}…"})


def _problem(call: Any, problem: str) -> ToolMessage:
    shown = problem[:MAX_SHOWN_CHARS]
    return ToolMessage(shown, tool_call_id=call["id"] or "", name=call["name"] or "", status="error")


def _spoken(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """What was said aloud, for a model that knows no tools: its thread may have begun with one that does."""
    spoken: list[BaseMessage] = []
    for message in messages:
        if isinstance(message, AIMessage):
            spoken += [AIMessage(message.text)] if message.text else []
        elif not isinstance(message, ToolMessage):
            spoken.append(message)
    return spoken


def _may_serve(tool: BaseTool, question: str) -> bool:
    pattern = (tool.metadata or {}).get("asked_by")
    return pattern is None or re.search(pattern, question) is not None


def _required(tool: BaseTool) -> bool:
    schema: Any = tool.get_input_schema()
    return any(field.is_required() for field in schema.model_fields.values())


def _listed(results: Sequence[str]) -> str:
    return "".join(f"\n- {result}" for result in results)
