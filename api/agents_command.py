"""`python app.py agents …`: lists the agents, and writes the first lines of a new one."""

import argparse
import keyword
import re
from collections.abc import Iterable
from pathlib import Path

from domain.errors import ConfigurationError
from services.agent_registry import Agent

ROOT = Path(__file__).parent.parent
MAX_NAME_CHARS = 40

GRAPH = '''"""{title}: say here what this agent is for."""

from typing import Any

from langchain_core.messages import SystemMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from services.agent_registry import AgentOptions, agent_registry

SYSTEM_PROMPT = "Answer in one short paragraph, in the user's language."


def create_{name}_graph(llm: Any) -> StateGraph[Any]:
    """One node that answers. Name `tools` or `retrieve` as parameters, and the server gives them too."""

    async def answer(state: MessagesState) -> dict[str, Any]:
        # The oldest messages go when the conversation is too long for the model of this run.
        messages = llm.trim_to_context([SystemMessage(SYSTEM_PROMPT), *state["messages"]])
        # What the model says streams to the caller by itself. To keep it from them (a plan, a grade):
        # llm.with_config(tags=["nostream"]). To choose the model here: llm.bind(model="gpt-4o-mini").
        return {{"messages": [await llm.ainvoke(messages)]}}

    graph: StateGraph[Any] = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", END)
    return graph


agent_registry.register_agent(
    "{name}",
    create_{name}_graph,
    "Say here, in a line, what GET /agents tells of it",
    AgentOptions(timeout_s=120, step_limit=25),
)
'''

TEST = '''"""{title}: the graph runs for real, over a provider that says what the test wrote."""

from graphs.{name}_graph import SYSTEM_PROMPT, create_{name}_graph
from tests.house_for_tests import ask, events_of, failure_of, finish_of, open_house, text_of
from tests.scripted_provider import finish, say, scripted_provider


async def test_{name}_answers_and_is_accounted_for() -> None:
    async with (
        scripted_provider([*say("Bon", "jour"), *finish()]) as provider,
        open_house(provider, {{"{name}": create_{name}_graph}}) as house,
    ):
        events = await events_of(house, ask("{name}", "Salut"))
    assert failure_of(events) is None
    assert text_of(events) == "Bonjour"
    assert finish_of(events).report.usage.total_tokens is not None
    system, user = provider.requests[0]["messages"]
    assert (system["content"], user["content"]) == (SYSTEM_PROMPT, "Salut")
'''


def add_agents_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Adds `agents`, `agents list` and `agents new NAME`; sets `agents_action` and `name`."""
    agents: argparse.ArgumentParser = commands.add_parser("agents", help="the agents there are, and a new one")
    agents.set_defaults(agents_action="list")
    actions = agents.add_subparsers()
    actions.add_parser("list", help="name, origin, description, and whether it can be called (the default)")
    new = actions.add_parser("new", help="write graphs/NAME_graph.py and its test")
    new.add_argument("name", help="small letters, digits and underscores")
    new.set_defaults(agents_action="new")
    return agents


def describe_agents(agents: Iterable[Agent]) -> list[str]:
    """A line an agent: its name, where it comes from, what it is for, and why it cannot be called when it cannot."""
    rows = []
    for agent in sorted(agents, key=lambda agent: agent.name):
        reason = f" (not available: {agent.unavailable_reason})" if agent.unavailable_reason else ""
        rows.append((agent.name, agent.origin, f"{agent.description}{reason}"))
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    return [f"{name.ljust(widths[0])}  {origin.ljust(widths[1])}  {what}" for name, origin, what in rows]


def write_new_agent(name: str, root: Path = ROOT) -> list[Path]:
    """Write the agent's file and its test. Raises `ConfigurationError` for a bad name and for files that exist."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name) or len(name) > MAX_NAME_CHARS:
        raise ConfigurationError(
            f"{name!r} is not a name for an agent's file: use small letters, digits and single underscores, "
            f"a letter first, {MAX_NAME_CHARS} characters at most, like 'legal_advisor'"
        )
    contents = {
        root / "graphs" / f"{name}_graph.py": GRAPH,
        root / "tests" / "graphs" / f"test_{name}_graph.py": TEST,
    }
    taken = [path for path in contents if path.exists()]
    # Test modules are told apart by their name alone.
    taken += [path for path in (root / "tests").rglob(f"test_{name}_graph.py") if path not in contents]
    if taken:
        raise ConfigurationError(f"{taken[0].relative_to(root)} exists already; nothing was written")
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content.format(name=name, title=name.replace("_", " ").capitalize()), encoding="utf-8")
    return list(contents)
