"""The agents that users can call: registered by name, built once at start.

`from services.agent_registry import agent_registry` is the import that agents' files use, and never changes.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph.state import CompiledStateGraph, StateGraph

from domain.errors import AgentUnavailable, BadRequest, ConfigurationError, UnknownAgent
from services.graph_stops import note_stops_of_all_graphs
from services.orphan_calls import answer_orphans_of_all_graphs
from services.own_models import OwnModels
from services.thread_saver import with_memory


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """What an agent asks of the server besides its model.

    `default_model` serves where the caller names none; `allowed_models`, when given, are all that a caller may name.
    `needs_project` refuses runs without a `project_id`. `tools` names those that the factory is given, of those that
    the server offers; `None` means all. `timeout_s` and `step_limit` bound a run.
    A state without `messages` declares how the caller's messages enter it, and how an answer leaves it.
    `own_models` says that its nodes call models of their own, not `llm`: those are listened to, streamed and counted.
    """

    default_model: str | None = None
    allowed_models: tuple[str, ...] | None = None
    needs_project: bool = False
    tools: tuple[str, ...] | None = None
    timeout_s: float | None = None
    step_limit: int = 50
    enter: Callable[[list[BaseMessage]], Any] | None = None
    answer: Callable[[Mapping[str, Any]], str] | None = None
    own_models: bool = False

    def __post_init__(self) -> None:
        """Raises `ValueError`, which the loading of an agent's file reports with its name."""
        for name in ("allowed_models", "tools"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"AgentOptions: {name} is a tuple of names, not one string")
        if self.allowed_models is not None and self.default_model not in {None, *self.allowed_models}:
            raise ValueError(f"AgentOptions: default_model {self.default_model!r} is not among allowed_models")
        if self.allowed_models == ():
            raise ValueError("AgentOptions: allowed_models names no model; None allows all")
        if self.step_limit < 1 or (self.timeout_s is not None and self.timeout_s <= 0):
            raise ValueError("AgentOptions: step_limit and timeout_s are more than 0")

    @property
    def usual_model(self) -> str | None:
        """What serves where the caller names no model; `None`: the server's default."""
        return self.default_model or (self.allowed_models[0] if self.allowed_models else None)


@dataclass(frozen=True, slots=True)
class Registration:
    """What a graph's file said of its agent. `factory` is `None` for an agent that is announced, not yet built."""

    name: str
    description: str
    factory: Callable[..., Any] | None
    unavailable_reason: str | None
    origin: str
    options: AgentOptions = AgentOptions()


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent ready to run; `graph` is `None` exactly when it is announced only.

    `durable_graph` is the same graph, keeping its state under a thread's id.
    """

    name: str
    description: str
    graph: CompiledStateGraph[Any] | None
    unavailable_reason: str | None
    options: AgentOptions = AgentOptions()
    durable_graph: CompiledStateGraph[Any] | None = None
    uses_project: bool = False
    uses_tools: bool = False
    origin: str = ""

    def graph_or_raise(self) -> CompiledStateGraph[Any]:
        """Raises `AgentUnavailable` for an agent that is announced only."""
        if self.graph is None:
            raise AgentUnavailable(f"agent {self.name!r} cannot be called yet: {self.unavailable_reason}")
        return self.graph

    def model_for(self, requested: str | None) -> str | None:
        """The model's name that a run is planned with. Raises `BadRequest` for one that the agent does not allow."""
        self.graph_or_raise()
        if requested is not None and self.options.own_models:
            raise BadRequest(f"model: agent {self.name!r} brings its own models; leave it out")
        allowed = self.options.allowed_models
        if requested is not None and allowed is not None and requested not in allowed:
            raise BadRequest(
                f"model: agent {self.name!r} does not run on {requested!r}; it does on {', '.join(allowed)}"
            )
        return requested or self.options.usual_model

    def durable_graph_or_raise(self) -> CompiledStateGraph[Any]:
        """Raises `AgentUnavailable` in a server that keeps no threads."""
        if self.durable_graph is None:
            raise AgentUnavailable(f"agent {self.name!r} keeps no conversations here: the server has no checkpointer")
        return self.durable_graph


class AgentRegistry:
    """Names and factories, gathered while graph files are imported."""

    def __init__(self) -> None:
        # Before the first file of an agent is imported.
        answer_orphans_of_all_graphs()
        note_stops_of_all_graphs()
        self._registrations: dict[str, Registration] = {}
        self._seen: set[str] = set()

    def register_agent(
        self, name: str, factory: Callable[..., Any], description: str, options: AgentOptions | None = None
    ) -> None:
        """Make an agent callable by this name. The factory takes `llm` and returns a graph, compiled or not."""
        self.add(Registration(name, description, factory, None, _origin(factory), options or AgentOptions()))

    def announce_agent(self, name: str, description: str, unavailable_reason: str) -> None:
        """List an agent that cannot be called yet, with the reason."""
        self.add(Registration(name, description, None, unavailable_reason, _callers_file()))

    def add(self, registration: Registration) -> None:
        """Raises `ConfigurationError` for a name that is taken, naming who took it."""
        if not registration.name or not registration.name.isprintable() or len(registration.name) > 64:
            raise ConfigurationError(f"agent name {registration.name!r}: use 1 to 64 printable characters")
        if not isinstance(registration.options, AgentOptions):
            kind = type(registration.options).__name__
            raise ConfigurationError(
                f"agent {registration.name!r} ({registration.origin}): options are AgentOptions(...), not {kind}"
            )
        if previous := self._registrations.get(registration.name):
            raise ConfigurationError(
                f"agent {registration.name!r} is registered twice: by {previous.origin} and by {registration.origin}"
            )
        self._registrations[registration.name] = registration

    def is_new(self, source: str) -> bool:
        """Whether this source of agents is asked about for the first time: one process may load its agents twice."""
        known = source in self._seen
        self._seen.add(source)
        return not known

    def unregister_agent(self, name: str) -> None:
        """Forget an agent; agents already built are not touched."""
        self._registrations.pop(name, None)

    def build(self, *, agent_tools: Mapping[str, Sequence[str]] | None = None, **offered: Any) -> "Agents":
        """Build every agent. A factory gets those of the `offered` things (`llm`, ...) that it names as parameters.

        With a `checkpointer` among them, every agent can also keep its state under a thread's id. `agent_tools` names
        the tools of an agent instead of its own choice.
        """
        chosen = agent_tools or {}
        if unknown := [name for name in chosen if name not in self._registrations]:
            known = ", ".join(self._registrations)
            raise ConfigurationError(f"AGENT_TOOLS: no agent is called {unknown[0]!r}; there are {known}")
        return Agents({name: _build(one, offered, chosen.get(name)) for name, one in self._registrations.items()})


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


agent_registry = AgentRegistry()


def _build(registration: Registration, offered: Mapping[str, Any], chosen: Sequence[str] | None) -> Agent:
    name, description, options = registration.name, registration.description, registration.options
    if registration.factory is None:
        return Agent(name, description, None, registration.unavailable_reason, options, origin=registration.origin)
    asked = _parameters(registration, registration.factory)
    wanted = options.tools if chosen is None else chosen
    tools = [tool for tool in offered.get("tools", ()) if wanted is None or tool.name in wanted]
    offered = {**offered, "tools": tools}
    graph = _compiled(registration, _call(registration, registration.factory, offered))
    if options.own_models:
        graph = graph.with_config(callbacks=[OwnModels.of(graph)])
    saver = offered.get("checkpointer")
    return Agent(
        name,
        description,
        # A graph that was compiled with a checkpointer must still run without a thread.
        graph if graph.checkpointer is None else graph.copy(update={"checkpointer": None}),
        None,
        options,
        durable_graph=with_memory(graph, saver) if isinstance(saver, BaseCheckpointSaver) else None,
        uses_project="retrieve" in asked,
        uses_tools="tools" in asked and bool(tools),
        origin=registration.origin,
    )


def _parameters(registration: Registration, factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError) as error:
        raise _not_built(registration, error) from error


def _call(registration: Registration, factory: Callable[..., Any], offered: Mapping[str, Any]) -> Any:
    parameters = _parameters(registration, factory)
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
    options = registration.options
    if "messages" not in graph.channels and (options.enter is None or options.answer is None):
        raise ConfigurationError(
            f"agent {registration.name!r} ({registration.origin}): its state has no 'messages'; "
            f"declare AgentOptions(enter=..., answer=...)"
        )
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
