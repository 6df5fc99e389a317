"""V2, the default agent: each run stands alone, fits its history into the model's context, and answers."""

from typing import Any

from langchain_core.messages import SystemMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from services.agent_registry import agent_registry

SYSTEM_PROMPT = (
    "Tu es un assistant utile et précis. Réponds dans la langue de l'utilisateur. Si tu ne sais pas, dis-le."
)
"""In French, for the smallest local model follows the language of its instructions; larger ones follow the user's."""


def create_v2_graph(llm: Any) -> StateGraph[Any]:
    """One node: trim, then answer. Trimming is not a node of its own: it would cost a step of the graph each run."""

    async def answer(state: MessagesState) -> dict[str, Any]:
        messages = [SystemMessage(SYSTEM_PROMPT), *state["messages"]]
        return {"messages": [await llm.ainvoke(llm.trim_to_context(messages))]}

    graph: StateGraph[Any] = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", END)
    return graph


agent_registry.register_agent("V2", create_v2_graph, "Default agent: an isolated run that answers a conversation")
