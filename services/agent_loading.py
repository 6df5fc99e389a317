"""Where agents come from: files in `graphs/`, installed packages, and the graphs of a `langgraph.json`."""

import importlib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from config.catalogue import Catalogue
from domain.errors import ConfigurationError
from services.agent_registry import AgentRegistry, Agents
from services.langgraph_project import load_project

GRAPHS_DIRECTORY = Path(__file__).parent.parent / "graphs"
ENTRY_POINT_GROUP = "routeur.agents"


def load_agents(registry: AgentRegistry, agents_config: Path | None) -> None:
    """Register every agent there is. Raises `ConfigurationError` naming the file that does not hold.

    A process may do so twice: what was registered stays.
    """
    load_graph_files()
    load_entry_points(registry)
    if agents_config is not None:
        load_project(registry, agents_config)


def check_model_names(agents: Agents, catalogue: Catalogue) -> None:
    """Raises `ConfigurationError` for an agent whose options name a model that is not there."""
    for agent in agents.all():
        named = dict.fromkeys([agent.options.default_model, *(agent.options.allowed_models or ())])
        for name in named:
            if name is not None and not any(model.type == "llm" for model in catalogue.candidates(name)):
                raise ConfigurationError(
                    f"agent {agent.name!r} ({agent.origin}): AgentOptions names the model {name!r}, "
                    f"which is not in the catalogue; `python app.py models list` shows those that are"
                )


def load_graph_files(directory: Path = GRAPHS_DIRECTORY) -> None:
    """Import every `graphs/*_graph.py`, which registers its agents."""
    for path in sorted(directory.glob("*_graph.py")):
        try:
            importlib.import_module(f"graphs.{path.stem}")
        except ConfigurationError:
            raise
        except Exception as error:
            # Whatever an agent's file raises must be reported with its name.
            reason = f"{type(error).__name__}: {error}"
            raise ConfigurationError(f"graphs/{path.name} cannot be imported: {reason}") from error


def load_entry_points(registry: AgentRegistry) -> None:
    """Import what installed packages name: a module that registers agents, or a function of the registry."""
    for entry_point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry_point: entry_point.name):
        if registry.is_new(f"{entry_point.name}={entry_point.value}"):
            _load_entry_point(registry, entry_point)


def _load_entry_point(registry: AgentRegistry, entry_point: EntryPoint) -> None:
    package = "?" if entry_point.dist is None else f"{entry_point.dist.name} {entry_point.dist.version}"
    where = f"the entry point {entry_point.name!r} ({entry_point.value}, {package})"
    try:
        loaded = entry_point.load()
        if callable(loaded):
            loaded(registry)
    except ConfigurationError:
        raise
    except Exception as error:
        # Whatever a package's code raises must be reported with its name.
        raise ConfigurationError(f"{where} cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(loaded) and not isinstance(loaded, ModuleType):
        raise ConfigurationError(f"{where} is neither a module nor a function, but {type(loaded).__name__}")
