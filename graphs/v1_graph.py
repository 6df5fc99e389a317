"""V1, the orchestrated workflow: announced, so that callers see the name; its graph is not written yet."""

from services.agent_registry import agent_registry

agent_registry.announce_agent(
    "V1",
    "Orchestrated workflow: analyses the request, asks specialists in parallel, writes the synthesis",
    "the orchestrated workflow is not part of this version; use V2",
)
