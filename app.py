"""The server: builds everything once and connects it. `python app.py` serves, `python app.py --help` shows the rest."""

import asyncio
import gc
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware

from api import (
    ask,
    auth,
    completion,
    document_events,
    documents,
    health,
    lists,
    projects,
    recordings,
    search,
    threads,
    transcription,
    transcription_jobs,
)
from api.deps import Services
from api.draining import draining_on_sigterm
from api.errors import install_error_answers
from api.middleware import BodyLimit, BusyRoutes, RequestBounds
from api.openai import chat, embeddings, models, transcriptions
from api.openai.schemas import OPENAI_ANY_ERROR
from api.schemas import ANY_ERROR
from api.security_headers import security_headers
from api.supervisor_watch import ending_with_supervisor
from config.catalogue import load_catalogue
from config.impact_factors import load_impact_factors
from config.settings import Settings, process_settings
from core.database import Database
from core.http_client import HttpClient
from core.logging import configure_logging
from core.security import create_authenticator
from domain.errors import ConfigurationError
from services.accounting.accountant import Accountant
from services.agent_guard import make_ready_for_agents
from services.agent_loading import check_model_names, load_agents
from services.agent_registry import AgentRegistry, agent_registry
from services.audio.meeting import MeetingWriter
from services.audio.studio import create_studio
from services.audio.transcribers.factory import create_transcription_router
from services.audio.transcribers.local import LocalTranscriber
from services.completion import CompletionService
from services.embeddings.factory import create_embedders
from services.embeddings.local import LocalEmbedder
from services.embeddings.runs import EmbeddingRuns
from services.embeddings.service import EmbeddingService
from services.ledger import Ledger
from services.llm.factory import create_llm, create_local_runtime, create_router, endpoint_keys
from services.rag.library import create_library
from services.retrieval import Retrieve
from services.store import AgentStore
from services.threads import Threads
from services.tools.offered import create_tools, tools_of_agents

LOCAL_HEARING_S = 1_800.0
"""For one piece: a slow machine may take as long as the piece lasts, and others wait before it."""
DESCRIPTION = """One HTTP door to LangGraph agents and to every model behind them.
Each answer says what it cost, how long it took and what it emitted."""


def create_app(settings: Settings, registry: AgentRegistry = agent_registry) -> FastAPI:
    """The application of one worker process. Raises `ConfigurationError` when settings or data files do not hold."""
    http = HttpClient(settings.provider_connect_timeout_s)
    here = create_local_models(settings)
    services = create_services(settings, registry, http, here)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        make_ready_for_agents(asyncio.get_running_loop())
        await http.open()
        await services.database.open()
        await services.ledger.start()
        await services.threads.start()
        await services.studio.tidy()
        if settings.job_worker == "embedded":
            await services.library.start_jobs()
            await services.studio.start_jobs()
        if services.local_runtime is not None:
            await services.local_runtime.start()
        _calm_garbage_collection()
        with draining_on_sigterm(services), ending_with_supervisor():
            yield
        await stop_jobs(services)  # Before the model that writes a meeting's account.
        if services.local_runtime is not None:
            await services.local_runtime.stop()
        await here.close()
        await services.threads.stop()
        await services.ledger.stop()
        await services.database.close()
        await http.close()

    # The documentation pages carry their own scripts: they work without the internet.
    app: FastAPI = FastAPIOffline(
        title=settings.api_title,
        version=settings.api_version,
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,  # The redirect would go to whatever the Host header says.
        # The framework's, which looks for OpenTelemetry's providers at every request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.services = services
    install_error_answers(app)
    _include_doors(app)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    app.add_middleware(
        RequestBounds,
        limit=BodyLimit(settings.max_body_bytes, "MAX_BODY_BYTES"),
        upload_limits=[documents.upload_limit(settings), recordings.upload_limit(settings), auth.body_limit(settings)],
        headers=security_headers(is_development=settings.is_development),
    )
    return app


def _calm_garbage_collection() -> None:
    # What the start made lives as long as the process: without this, each full collection walks all of it again.
    gc.collect()
    gc.freeze()
    # A run makes some thousand short-lived objects; looking for cycles after every 700 costs a tenth of its CPU.
    gc.set_threshold(20_000, 20, 20)


def _include_doors(app: FastAPI) -> None:
    for door in (chat, embeddings, models, transcriptions):
        app.include_router(door.router, responses=OPENAI_ANY_ERROR)
    native = (completion, auth, lists, threads, projects, documents, document_events, search)
    for door in (*native, transcription, transcription_jobs, health):
        app.include_router(door.router, responses=ANY_ERROR)
    app.include_router(ask.router, responses=ask.ASK_ANY_ERROR)
    busy = {chat.PATH: chat.answer_chat, completion.PATH: completion.answer_completion}
    app.add_middleware(BusyRoutes, endpoints=busy, error_handlers=app.exception_handlers)


@dataclass(frozen=True, slots=True)
class LocalModels:
    """What this process runs by itself, besides the chat model."""

    embedder: LocalEmbedder
    transcriber: LocalTranscriber

    async def close(self) -> None:
        """End their threads and processes."""
        await self.embedder.close()
        await self.transcriber.close()


def create_local_models(settings: Settings) -> LocalModels:
    """Nothing is loaded before it is asked."""
    return LocalModels(
        LocalEmbedder(timeout_s=settings.provider_stall_timeout_s),
        LocalTranscriber(data_dir=settings.data_dir, timeout_s=LOCAL_HEARING_S, idle_s=settings.whisper_idle_s),
    )


async def stop_jobs(services: Services) -> None:
    """Jobs at work are interrupted; the queue has them again."""
    await asyncio.gather(services.library.jobs.stop(), services.studio.stop_jobs())


def create_services(settings: Settings, registry: AgentRegistry, http: HttpClient, here: LocalModels) -> Services:
    """Everything a worker process needs, connected but not yet opened."""
    authenticator = create_authenticator(settings)
    catalogue = load_catalogue()
    accountant = Accountant(catalogue, load_impact_factors(), settings)
    runtime = create_local_runtime(catalogue, settings)
    router = create_router(catalogue, settings, http, runtime)
    if registry is agent_registry:
        load_agents(registry, settings.agents_config)
    keys = endpoint_keys(settings.endpoint_keys)
    database = Database(settings)
    kept_threads = Threads(database, settings)
    ledger = Ledger(
        database,
        settings.data_dir / "ledger",
        max_pending_bytes=settings.ledger_max_pending_bytes,
        flush_s=settings.ledger_flush_s,
    )
    embeddings = EmbeddingService(catalogue, create_embedders(catalogue, settings, http, here.embedder, keys))
    embedding_runs = EmbeddingRuns(embeddings, accountant, ledger, run_timeout_s=settings.run_timeout_s)
    library = create_library(settings, database, embeddings, embedding_runs)
    tools = create_tools(settings, http)
    agents = registry.build(
        agent_tools=tools_of_agents(settings.agent_tools, tools),
        llm=create_llm(router),
        retrieve=Retrieve(library.retriever),
        tools=tools,
        small_model=settings.small_model,
        checkpointer=kept_threads.saver,
        store=AgentStore(database),
    )
    check_model_names(agents, catalogue)
    runs = CompletionService(
        agents=agents,
        router=router,
        accountant=accountant,
        ledger=ledger,
        run_timeout_s=settings.run_timeout_s,
        threads=kept_threads,
        projects=library.projects,
    )
    hearing = create_transcription_router(catalogue, settings, http, here.transcriber, keys)
    return Services(
        settings=settings,
        authenticator=authenticator,
        agents=agents,
        router=router,
        accountant=accountant,
        completion=runs,
        database=database,
        ledger=ledger,
        threads=kept_threads,
        local_runtime=runtime,
        library=library,
        studio=create_studio(settings, database, hearing, accountant, ledger, MeetingWriter(runs, router, agents)),
        embeddings=embedding_runs,
    )


async def work_on_jobs(settings: Settings) -> None:
    """`python app.py worker`: does the queue's jobs until SIGTERM or Ctrl-C. Its database may come and go."""
    http = HttpClient(settings.provider_connect_timeout_s)
    here = create_local_models(settings)
    services = create_services(settings, agent_registry, http, here)
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await http.open()
    await services.database.open()
    await services.ledger.start()
    await services.library.start_jobs()
    await services.studio.start_jobs()
    if services.local_runtime is not None:
        await services.local_runtime.start()  # It writes the accounts of meetings.
    await told.wait()
    await stop_jobs(services)
    if services.local_runtime is not None:
        await services.local_runtime.stop()
    await here.close()
    await services.ledger.stop()
    await services.database.close()
    await http.close()


def create_worker_app() -> FastAPI:
    """The application as uvicorn makes it in each worker process; a configuration that does not hold ends it, named."""
    settings = process_settings()
    configure_logging(settings.log_level)
    try:
        return create_app(settings)
    except ConfigurationError as error:
        sys.exit(f"routeur: {error}")


if __name__ == "__main__":
    from api.command_line import main

    sys.exit(main(sys.argv[1:], create_app, work_on_jobs))
