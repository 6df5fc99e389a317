"""V2, the default agent: each run stands alone, fits its history into the model's context, and answers.

With a project it looks into its documents and cites them; with tools allowed (AGENT_TOOLS) it may use them.
"""

from typing import Any, Literal

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from domain.citations import CitationCheck, numbered
from domain.documents import Passage
from domain.excerpts import excerpt
from graphs.structured import is_large
from graphs.tool_steps import ToolState, ToolSteps, add_tool_steps
from graphs.wording import last_question, question_in_context
from services.agent_registry import AgentOptions, agent_registry

SYSTEM_PROMPT = (
    "Tu es un assistant utile et précis. Réponds dans la langue de l'utilisateur. Si tu ne sais pas, dis-le."
)
"""In French, for the smallest local model follows the language of its instructions; larger ones follow the user's."""
PROJECT_PROMPT = (
    "{prompt}\n\nVoici des passages des documents du projet de l'utilisateur. Quand ils servent à répondre, réponds "
    "d'après eux et cite leur numéro entre crochets, comme [1]. Sinon, réponds sans eux et ne cite rien.\n\n{passages}"
)
SMALL_PROJECT_PROMPT = (
    "Texte :\n{text}\n\nQuestion : {question}\nSi le texte y répond, réponds avec ses mots, en une phrase complète, "
    "dans la langue de la question."
)
PASSAGES, SMALL_PASSAGES, SMALL_PASSAGE_CHARS = 6, 3, 500


class V2State(MessagesState):
    """`sources` are the passages that the answer cites."""

    sources: list[Passage]


class V2ToolState(ToolState, V2State):
    """The same, for a V2 that may use tools."""


def create_v2_graph(llm: Any, retrieve: Any, tools: Any = ()) -> StateGraph[Any]:
    """One node: trim, then answer. Trimming is not a node of its own: it would cost a step of the graph each run."""

    async def answer(state: V2State) -> dict[str, Any]:
        if retrieve.has_project:
            return await answer_from_project(llm, retrieve, state)
        messages = [SystemMessage(SYSTEM_PROMPT), *state["messages"]]
        return {"messages": [await llm.ainvoke(llm.trim_to_context(messages))]}

    graph: StateGraph[Any]
    if not tools:
        graph = StateGraph(V2State)
        graph.add_node("answer", answer)
        graph.add_edge(START, "answer")
        graph.add_edge("answer", END)
        return graph

    def first(_: V2State) -> Literal["answer_from_project", "begin"]:
        return "answer_from_project" if retrieve.has_project else "begin"

    graph = StateGraph(V2ToolState)
    graph.add_node("answer_from_project", answer)
    graph.add_conditional_edges(START, first)
    graph.add_edge("answer_from_project", END)
    add_tool_steps(graph, ToolSteps(llm, tools, SYSTEM_PROMPT), entry=None)
    return graph


async def answer_from_project(llm: Any, retrieve: Any, state: V2State) -> dict[str, Any]:
    """Retrieve, answer, and keep only the citations that name a passage."""
    question = last_question(state["messages"])
    passages = await retrieve(question_in_context(state["messages"]), k=PASSAGES if is_large(llm) else SMALL_PASSAGES)
    messages = [SystemMessage(SYSTEM_PROMPT), *state["messages"]]
    if passages and is_large(llm):
        messages[0] = SystemMessage(PROJECT_PROMPT.format(prompt=SYSTEM_PROMPT, passages=numbered(passages)))
    elif passages:
        text = "\n\n".join(excerpt(one.text, question, SMALL_PASSAGE_CHARS) for one in passages)
        messages[-1] = HumanMessage(SMALL_PROJECT_PROMPT.format(text=text, question=question))
    check = CitationCheck(passages)
    await llm.ainvoke(llm.trim_to_context(messages), rewrite=check)
    return {"messages": [AIMessage(check.text)], "sources": check.cited}


agent_registry.register_agent(
    "V2",
    create_v2_graph,
    "Default agent: an isolated run that answers a conversation, from a project's documents when it has one",
    AgentOptions(tools=()),
)
