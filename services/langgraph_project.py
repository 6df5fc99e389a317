"""The graphs of a LangGraph project, as its `langgraph.json` names them, served without a change to its code.

https://docs.langchain.com/langsmith/cli#configuration-file describes the file. Read here: `graphs`, `dependencies`
and `env`; what asks for a server of LangGraph's own (`auth`, `store`, `http`, ...) is named in the log and left.
"""

import asyncio
import importlib
import importlib.metadata
import importlib.util
import inspect
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, ValidationError

from config.settings import lend_to_agents
from domain.errors import ConfigurationError
from services.agent_registry import AgentOptions, AgentRegistry, Registration

logger = logging.getLogger("routeur.agents")

HOUSE_PACKAGES = frozenset({"api", "app", "benchmarks", "config", "core", "domain", "graphs", "services", "tests"})
"""Names of modules that are taken: a project's own of the same name would not be found."""

NOT_SERVED = ("auth", "checkpointer", "encryption", "http", "store", "ui", "webhooks")
"""Parts of the file that would change what callers see, and that this server does not read."""

_REQUIREMENT = re.compile(r"^\s*([A-Za-z0-9][\w.-]*)\s*(\[|[<>=!~;@]|$)")


class GraphEntry(BaseModel):
    """One graph: `path` is `./file.py:variable` or `package.module:variable`."""

    model_config = ConfigDict(extra="forbid")

    path: str
    description: str | None = None


class ProjectFile(BaseModel):
    """What is read of the file. Its other keys are for LangGraph's own tools."""

    model_config = ConfigDict(extra="allow")

    graphs: dict[str, str | GraphEntry]
    dependencies: list[str] = []
    env: str | dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a graph is: `origin` is how errors name it."""

    module: str
    variable: str
    origin: str


def load_project(registry: AgentRegistry, path: Path) -> None:
    """Register each graph of the file. Raises `ConfigurationError` naming the file, and the graph's own."""
    project = _read(path)
    folder = path.resolve().parent
    lend_to_agents(_environment(project, folder, path))
    if not registry.is_new(str(path.resolve())):
        return
    if ignored := [key for key in NOT_SERVED if key in (project.model_extra or {})]:
        logger.warning("parts of langgraph.json are not served", extra={"file": str(path), "parts": ignored})
    _find_dependencies(project, folder, path)
    modules: dict[str, ModuleType] = {}
    for name, entry in project.graphs.items():
        graph = GraphEntry(path=entry) if isinstance(entry, str) else entry
        place = _place(name, graph.path, folder, path)
        if place.module not in modules:
            modules[place.module] = _import(place, folder)
        made = _variable(modules[place.module], place)
        registry.add(
            Registration(
                name,
                graph.description or f"A graph of {folder.name}/{path.name}",
                _factory(made),
                None,
                place.origin,
                AgentOptions(own_models=True),
            )
        )


def _read(path: Path) -> ProjectFile:
    try:
        return ProjectFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"AGENTS_CONFIG={str(path)!r} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc'])) or 'the file'}: {p['msg']}" for p in error.errors())
        raise ConfigurationError(f"{path}: {problems}") from error


def _environment(project: ProjectFile, folder: Path, path: Path) -> dict[str, str]:
    """The variables that the project's own code reads."""
    if not isinstance(project.env, str):
        return project.env
    file = folder / project.env
    if not file.is_file():
        raise ConfigurationError(f"{path}: env names {project.env!r}, and there is no such file")
    return {name: value for name, value in dotenv_values(file, interpolate=False).items() if value is not None}


def _find_dependencies(project: ProjectFile, folder: Path, path: Path) -> None:
    """Make local folders importable, after everything that is already; packages must be installed."""
    for dependency in project.dependencies:
        if dependency.startswith("."):
            place = (folder / dependency).resolve()
            if not place.is_dir():
                raise ConfigurationError(f"{path}: dependencies name {dependency!r}, and there is no such folder")
            _make_importable(place, *([place / "src"] if (place / "src").is_dir() else []))
        elif (named := _REQUIREMENT.match(dependency)) and not _is_installed(named[1]):
            raise ConfigurationError(
                f"{path}: dependencies name {dependency!r}, which is not installed here: "
                f"`{sys.executable} -m pip install {dependency!r}`"
            )
    _make_importable(folder)


def _make_importable(*folders: Path) -> None:
    sys.path.extend(str(folder) for folder in folders if str(folder) not in sys.path)


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _place(name: str, named: str, folder: Path, path: Path) -> _Place:
    module, _, variable = named.rpartition(":")
    if not module or not variable.isidentifier():
        raise ConfigurationError(f"{path}: graph {name!r} is {named!r}, not './file.py:variable'")
    if not module.endswith(".py") and "/" not in module:
        return _Place(module, variable, f"{folder.name}/{path.name}: {named}")
    file = (folder / module).resolve()
    if file.suffix != ".py":
        raise ConfigurationError(f"{path}: graph {name!r} is {named!r}; graphs in Python files can be served")
    if not file.is_file():
        raise ConfigurationError(f"{path}: graph {name!r} is {named!r}, and there is no such file")
    return _Place(str(file), variable, f"{folder.name}/{module.removeprefix('./')}:{variable}")


def _import(place: _Place, folder: Path) -> ModuleType:
    try:
        return _execute(Path(place.module)) if place.module.endswith(".py") else importlib.import_module(place.module)
    except ConfigurationError:
        raise
    except Exception as error:
        # Whatever an agent's file raises must be reported with its name.
        hint = ""
        if isinstance(error, ImportError) and (top := (error.name or "").partition(".")[0]) in HOUSE_PACKAGES:
            hint = f" ({top!r} is a package of this server's own: {folder.name} must call its differently)"
        reason = f"{type(error).__name__}: {error}{hint}"
        raise ConfigurationError(f"{place.origin} cannot be imported: {reason}") from error


def _execute(file: Path) -> ModuleType:
    """The file as a module of its own; nobody can import it by the name it is given here."""
    name = "agents_config_" + re.sub(r"\W", "_", str(file))
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _variable(module: ModuleType, place: _Place) -> Any:
    if not hasattr(module, place.variable):
        graphs = ", ".join(_names_of_graphs(module)) or "none"
        raise ConfigurationError(f"{place.origin}: it defines no {place.variable!r}; its graphs: {graphs}")
    return getattr(module, place.variable)


def _names_of_graphs(module: ModuleType) -> Iterator[str]:
    return (name for name, value in vars(module).items() if hasattr(value, "compile") or hasattr(value, "get_graph"))


def _factory(made: Any) -> Callable[[], Any]:
    """A factory as the registry calls it, from a graph or from a function of nothing or of `config`."""
    if not (inspect.isfunction(made) or inspect.ismethod(made)):
        return lambda: made
    return lambda: _finished(made(**_arguments(made)))


def _arguments(make: Callable[..., Any]) -> Mapping[str, Any]:
    required = [
        parameter
        for parameter in inspect.signature(make).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}
    ]
    if not required:
        return {}
    if len(required) > 1 or "Runtime" in str(required[0].annotation):
        names = ", ".join(parameter.name for parameter in required)
        raise TypeError(f"it is a function of {names}; one of nothing, or of `config`, can be called here")
    return {required[0].name: {"configurable": {}}}


def _finished(made: Any) -> Any:
    """The graph itself. An async function is run to its end, on a loop of its own: the server's may be busy here."""
    if inspect.iscoroutine(made):
        with ThreadPoolExecutor(1) as thread:
            made = thread.submit(asyncio.run, made).result()
    if hasattr(made, "__aenter__") or hasattr(made, "__enter__") or inspect.isasyncgen(made):
        raise TypeError("it is a context manager, which opens a graph for one run; return the graph instead")
    return made
