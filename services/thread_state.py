"""What a thread holds, as its owner reads it: the conversation, and what its last run asks."""

from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage, convert_to_openai_messages

from domain.runs import Interruption
from services.agent_registry import Agent
from services.threads import DATABASE_FAULTS, thread_database_down


@dataclass(frozen=True, slots=True)
class ThreadState:
    """Messages in OpenAI's shape, oldest first; what the thread waits for."""

    messages: list[dict[str, Any]]
    interrupts: tuple[Interruption, ...]


async def read_thread_state(agent: Agent, thread_id: str) -> ThreadState:
    """The newest state of a thread of this agent; raises `DatabaseUnavailable` when it cannot be read."""
    config: Any = {"configurable": {"thread_id": thread_id}}
    try:
        state = await agent.durable_graph_or_raise().aget_state(config)
    except DATABASE_FAULTS as error:
        raise thread_database_down() from error
    found = [message for message in state.values.get("messages") or [] if isinstance(message, BaseMessage)]
    messages: Any = convert_to_openai_messages(found)
    return ThreadState(messages, tuple(Interruption(asked.id, asked.value) for asked in state.interrupts))
