"""The command line: `python app.py [serve | worker | agents | models | db] …`."""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from api.agents_command import add_agents_command, describe_agents, write_new_agent
from api.http_protocol import BoundedHttpProtocol
from config.catalogue import Catalogue, ModelEntry, load_catalogue
from config.settings import Settings, lending_ends, load_settings
from core import embedded_postgres
from core.logging import configure_logging
from core.postgres_processes import EmbeddedPostgresError
from domain.errors import ConfigurationError, RouteurError
from services.agent_loading import GRAPHS_DIRECTORY
from services.llm.factory import local_entry
from services.local_models.progress import TerminalProgress
from services.local_models.weights import fetch_weights, find_weights

WORKER_ANSWERS_S = 60
UMASK = 0o077
"""What the server, its agents and libraries write is its user's alone."""
LAST_RESORT_S = 5
"""After the grace period every run has been ended; what still holds a connection then is cut by the HTTP server."""


Work = Callable[[Settings], Coroutine[Any, Any, None]]


def main(arguments: Sequence[str], check: Callable[[Settings], object], work: Work) -> int:
    """Run a command; problems of configuration are one line, not a traceback.

    `check` builds what a worker builds, and raises `ConfigurationError`: workers that cannot start would be
    started again for ever. `work` does background jobs until it is told to stop.
    """
    parser = _parser()
    parsed, rest = parser.parse_known_args(arguments or ["serve"])
    parsed.rest = rest
    if rest and parsed.command is not _database_psql:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    try:
        settings = load_settings()
        parsed.check, parsed.work = check, work
        configure_logging(settings.log_level)
        status: int = parsed.command(settings, parsed)
    except (ConfigurationError, RouteurError, EmbeddedPostgresError, OSError) as error:
        print(f"routeur: {error}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python app.py", description="Routeur IA: agents and models behind one door.")
    commands = parser.add_subparsers(title="commands", required=True)

    serve = commands.add_parser("serve", help="start the server (the default)")
    serve.add_argument(
        "--fetch", action="store_true", help="first fetch the local model's weights, if they are missing"
    )
    serve.add_argument(
        "--reload", action="store_true", help="start again when an agent's file changes (development, one worker)"
    )
    serve.set_defaults(command=_serve)

    worker = commands.add_parser("worker", help="do the jobs of documents and recordings, in a process of its own")
    worker.set_defaults(command=_work)

    add_agents_command(commands).set_defaults(command=_agents)

    models = commands.add_parser("models", help="the catalogue and the local models' weights")
    models_commands = models.add_subparsers(required=True)
    models_commands.add_parser("list", help="list the models").set_defaults(command=_list_models)
    pull = models_commands.add_parser("pull", help="fetch the weights of a local model")
    pull.add_argument("name", nargs="?", help="a local model; LOCAL_MODEL when absent")
    pull.set_defaults(command=_pull_model)

    database = commands.add_parser("db", help="the server's own PostgreSQL")
    database_commands = database.add_subparsers(required=True)
    database_commands.add_parser("status", help="is it running, for whom").set_defaults(command=_database_status)
    database_commands.add_parser("stop", help="stop it").set_defaults(command=_database_stop)
    psql = database_commands.add_parser("psql", help="open psql on it; what follows is handed to psql")
    psql.set_defaults(command=_database_psql)
    return parser


def _serve(settings: Settings, parsed: argparse.Namespace) -> int:
    os.umask(UMASK)
    catalogue = load_catalogue()
    reloading = _reloading(settings) if getattr(parsed, "reload", False) else {}
    # What does not hold is said before anything is fetched or bound.
    with lending_ends():
        parsed.check(settings)
    entry = local_entry(catalogue, settings)
    if getattr(parsed, "fetch", False) and entry is not None and settings.local_base_url is None:
        try:
            _fetch(entry, settings)
        except RouteurError as error:
            # Other models may serve, and the weights may be fetched later: the server starts all the same.
            print(f"routeur: {error}", file=sys.stderr)
    print(_greeting(settings, catalogue), file=sys.stderr, flush=True)
    uvicorn.run(
        "app:create_worker_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        loop="uvloop",
        http=BoundedHttpProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        # Uvicorn's own 5 s kill a worker that still imports on a busy machine, again and again.
        timeout_worker_healthcheck=WORKER_ANSWERS_S,
        timeout_graceful_shutdown=round(settings.shutdown_grace_s) + LAST_RESORT_S,
        app_dir=str(Path(__file__).parent.parent),
        **reloading,
    )
    return 0


def _reloading(settings: Settings) -> dict[str, Any]:
    """What uvicorn is told to watch: the agents' files, not the server's own."""
    if settings.workers > 1 or not settings.is_development:
        raise ConfigurationError("--reload is for development with one worker: ENVIRONMENT=development, WORKERS=1")
    folders = {GRAPHS_DIRECTORY, *([settings.agents_config.resolve().parent] if settings.agents_config else [])}
    return {
        "reload": True,
        "reload_dirs": [str(folder) for folder in folders],
        "reload_includes": ["*.py", "*.json", ".env"],
    }


def _work(settings: Settings, parsed: argparse.Namespace) -> int:
    os.umask(UMASK)
    asyncio.run(parsed.work(settings))
    return 0


def _greeting(settings: Settings, catalogue: Catalogue) -> str:
    """Where to look, and what can serve."""
    address = f"http://{'127.0.0.1' if settings.host in {'0.0.0.0', '::'} else settings.host}:{settings.port}"  # noqa: S104  # nosec B104 - shown, not bound
    lines = [
        f"{settings.api_title} {settings.api_version} — {address}",
        f"  documentation  {address}/docs",
        f"  readiness      {address}/ready",
    ]
    entry = local_entry(catalogue, settings)
    if settings.local_base_url is not None:
        lines.append(f"  local model    {settings.local_model} at LOCAL_BASE_URL")
    elif entry is not None and entry.weights is not None:
        here = find_weights(entry.weights, settings.data_dir / "models") is not None
        what_to_do = "" if here else f" is NOT here: `python app.py models pull {entry.id}`, or set a provider's key"
        lines.append(f"  local model    {entry.id}{what_to_do}")
    keys = {"OPENAI_API_KEY": settings.openai_api_key, "MISTRALAI_API_KEY": settings.mistralai_api_key}
    lines.append(f"  keys           {', '.join(name for name, key in keys.items() if key) or 'none'}")
    if settings.is_development:
        lines.append("  DEVELOPMENT MODE: anyone who reaches this port can get a token. Set ENVIRONMENT for real use.")
    return "\n".join(lines)


def _agents(settings: Settings, parsed: argparse.Namespace) -> int:
    if parsed.agents_action == "new":
        for path in write_new_agent(parsed.name):
            print(path)
        return 0
    application: Any = parsed.check(settings)
    print("\n".join(describe_agents(application.state.services.agents.all())))
    return 0


def _list_models(settings: Settings, _: argparse.Namespace) -> int:
    for model in load_catalogue().models:
        marks = []
        if model.weights is not None:
            here = find_weights(model.weights, settings.data_dir / "models") is not None
            marks.append("fetched" if here else f"{model.weights.total_bytes / 1e6:.0f} MB to fetch")
        print(f"{model.id:32} {model.provider:10} {_size_of(model)}  {' '.join(marks)}".rstrip())
    return 0


def _size_of(model: ModelEntry) -> str:
    """How much it takes in one request."""
    if model.audio is not None:
        return f"{model.audio.max_s / 60:>8.0f} minutes"
    return f"{model.context.tokens:>9} tokens "


def _pull_model(settings: Settings, parsed: argparse.Namespace) -> int:
    catalogue = load_catalogue()
    entry = catalogue.get(parsed.name) if parsed.name else local_entry(catalogue, settings)
    if parsed.name is None and (entry is None or settings.local_base_url is not None):
        print("no local model to fetch", file=sys.stderr)
        return 0
    if entry is None or entry.weights is None:
        known = ", ".join(model.id for model in catalogue.models if model.weights is not None)
        raise ConfigurationError(f"{parsed.name!r} is not a model with weights to fetch: {known}")
    print(f"{entry.id}: {_fetch(entry, settings)}", file=sys.stderr)
    return 0


def _fetch(entry: ModelEntry, settings: Settings) -> Path | None:
    """The weights' file, fetched with a progress bar if it is missing; raises when no source gives it."""
    if entry.weights is None:
        return None
    progress = TerminalProgress()
    try:
        return fetch_weights(entry.weights, settings.data_dir / "models", progress=progress)
    finally:
        progress.close()


def _database_status(settings: Settings, _: argparse.Namespace) -> int:
    status = embedded_postgres.status(settings.data_dir)
    if not status.running:
        print("not running" if status.initialised else "not made yet: the server makes it at its first start")
        return 0
    print(f"running, pid {status.pid}, used by processes {', '.join(map(str, status.users)) or 'none'}\n{status.uri}")
    return 0


def _database_stop(settings: Settings, _: argparse.Namespace) -> int:
    print("stopped" if embedded_postgres.stop(settings.data_dir) else "it was not running")
    return 0


def _database_psql(settings: Settings, parsed: argparse.Namespace) -> int:
    return embedded_postgres.psql(settings.data_dir, parsed.rest)
