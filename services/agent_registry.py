"""The agents that users can call: registered by name, built once at start.

`from services.agent_registry import agent_registry` is the import that agents' files use, and never changes.
"""

import importlib
import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langgraph.graph.state import CompiledStateGraph, StateGraph

from domain.errors import AgentUnavailable, ConfigurationError, UnknownAgent

logger = logging.getLogger("routeur.agents")

GRAPHS_DIRECTORY = Path(__file__).parent.parent / "graphs"


@dataclass(frozen=True, slots=True)
class Registration:
    """What a graph's file said of its agent. `factory` is `None` for an agent that is announced, not yet built."""

    name: str
    description: str
    factory: Callable[..., Any] | None
    unavailable_reason: str | None
    origin: str


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent ready to run; `graph` is `None` exactly when it is announced only."""

    name: str
    description: str
    graph: CompiledStateGraph[Any] | None
    unavailable_reason: str | None


class AgentRegistry:
    """Names and factories, gathered while graph files are imported."""

    def __init__(self) -> None:
        self._registrations: dict[str, Registration] = {}

    def register_agent(self, name: str, factory: Callable[..., Any], description: str) -> None:
        """Make an agent callable by this name. The factory takes `llm` and returns a graph, compiled or not."""
        self._add(Registration(name, description, factory, None, _origin(factory)))

    def announce_agent(self, name: str, description: str, unavailable_reason: str) -> None:
        """List an agent that cannot be called yet, with the reason."""
        self._add(Registration(name, description, None, unavailable_reason, _callers_file()))

    def unregister_agent(self, name: str) -> None:
        """Forget an agent; agents already built are not touched."""
        self._registrations.pop(name, None)

    def build(self, **offered: Any) -> "Agents":
        """Build every agent. A factory gets those of the `offered` things (`llm`, ...) that it names as parameters."""
        return Agents({name: _build(registration, offered) for name, registration in self._registrations.items()})

    def _add(self, registration: Registration) -> None:
        if not registration.name or not registration.name.isprintable() or len(registration.name) > 64:
            raise ConfigurationError(f"agent name {registration.name!r}: use 1 to 64 printable characters")
        if previous := self._registrations.get(registration.name):
            raise ConfigurationError(
                f"agent {registration.name!r} is registered twice: by {previous.origin} and by {registration.origin}"
            )
        self._registrations[registration.name] = registration


class Agents:
    """The agents of a running server."""

    def __init__(self, agents: Mapping[str, Agent]) -> None:
        self._agents = dict(agents)

    def all(self) -> list[Agent]:
        return list(self._agents.values())

    def get_or_raise(self, name: str) -> Agent:
        agent = self._agents.get(name)
        if agent is None:
            raise UnknownAgent(f"unknown agent {name!r}; known agents: {', '.join(sorted(self._agents))}")
        return agent

    def get_graph_or_raise(self, name: str) -> CompiledStateGraph[Any]:
        """The agent's graph; raises `AgentUnavailable` for one that is announced only."""
        agent = self.get_or_raise(name)
        if agent.graph is None:
            raise AgentUnavailable(f"agent {name!r} cannot be called yet: {agent.unavailable_reason}")
        return agent.graph


agent_registry = AgentRegistry()


def load_graph_files(directory: Path = GRAPHS_DIRECTORY) -> None:
    """Import every `graphs/*_graph.py`, which registers its agents. A file that fails stops the start, named."""
    for path in sorted(directory.glob("*_graph.py")):
        try:
            importlib.import_module(f"graphs.{path.stem}")
        except ConfigurationError:
            raise
        except Exception as error:
            # Whatever an agent's file raises must be reported with its name.
            reason = f"{type(error).__name__}: {error}"
            raise ConfigurationError(f"graphs/{path.name} cannot be imported: {reason}") from error


def _build(registration: Registration, offered: Mapping[str, Any]) -> Agent:
    graph = None
    if registration.factory is not None:
        graph = _compiled(registration, _call(registration, registration.factory, offered))
    return Agent(registration.name, registration.description, graph, registration.unavailable_reason)


def _call(registration: Registration, factory: Callable[..., Any], offered: Mapping[str, Any]) -> Any:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError) as error:
        raise _not_built(registration, error) from error
    required = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
    ]
    if unknown := [name for name in required if name not in offered]:
        raise ConfigurationError(
            f"agent {registration.name!r} ({registration.origin}): its factory asks for "
            f"{', '.join(map(repr, unknown))}; the server offers {', '.join(map(repr, offered))}"
        )
    try:
        return factory(**{name: offered[name] for name in parameters if name in offered})
    except Exception as error:
        # Whatever an agent's factory raises must be reported with its name.
        raise _not_built(registration, error) from error


def _not_built(registration: Registration, error: Exception) -> ConfigurationError:
    where = f"agent {registration.name!r} ({registration.origin})"
    return ConfigurationError(f"{where} cannot be built: {type(error).__name__}: {error}")


def _compiled(registration: Registration, graph: Any) -> CompiledStateGraph[Any]:
    if isinstance(graph, StateGraph):
        try:
            graph = graph.compile()
        except Exception as error:
            raise _not_built(registration, error) from error
    if not isinstance(graph, CompiledStateGraph):
        raise ConfigurationError(
            f"agent {registration.name!r} ({registration.origin}): "
            f"its factory returned {type(graph).__name__}, not a graph"
        )
    if "messages" not in graph.channels:
        raise ConfigurationError(f"agent {registration.name!r} ({registration.origin}): its state has no 'messages'")
    return graph


def _origin(factory: Callable[..., Any]) -> str:
    try:
        return _file(inspect.getfile(factory))
    except TypeError:
        return repr(factory)


def _callers_file() -> str:
    """The file that called the registry."""
    return _file(inspect.stack(context=0)[2].filename)


def _file(path: str) -> str:
    return "/".join(Path(path).parts[-2:])
