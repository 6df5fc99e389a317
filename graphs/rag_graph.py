"""RAG, answers from a project's documents: announced, so that callers see the name; its graph is not written yet."""

from services.agent_registry import agent_registry

agent_registry.announce_agent(
    "RAG",
    "Answers from a project's documents, with citations",
    "documents are not part of this version; use V2",
)
