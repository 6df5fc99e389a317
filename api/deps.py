"""What doors depend on: the services of this process, and who is calling."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from config.catalogue import ModelEntry
from config.settings import Settings
from core.database import Database
from core.security import Authenticator, VerifiedToken
from domain.errors import Unauthorized
from services.accounting.accountant import Accountant
from services.agent_registry import Agents
from services.audio.studio import Studio
from services.completion import CompletionService
from services.embeddings.runs import EmbeddingRuns
from services.ledger import Ledger
from services.llm.router import Router
from services.local_models.runtime import LocalRuntime
from services.rag.library import Library
from services.threads import Threads


@dataclass(slots=True)
class Services:
    """Everything a worker process built at start. `draining` is set when it was told to stop."""

    settings: Settings
    authenticator: Authenticator
    agents: Agents
    router: Router
    accountant: Accountant
    completion: CompletionService
    database: Database
    ledger: Ledger
    threads: Threads
    local_runtime: LocalRuntime | None
    library: Library
    studio: Studio
    embeddings: EmbeddingRuns | None = None
    draining: bool = False

    def unavailable_reason(self, model: ModelEntry) -> str | None:
        """Why a model of the catalogue cannot serve now, whatever its type; `None` when it can. Never calls out."""
        match model.type:
            case "embedding":
                embeddings = self.embeddings
                return "embeddings are not set up" if embeddings is None else embeddings.unavailable_reason(model)
            case "transcription":
                router = self.studio.router
                return router.unavailable_reason(model) or router.cooling_reason(model)
            case _:
                return self.router.unavailable_reason(model) or self.router.cooling_reason(model)


async def services_of(request: Request) -> Services:
    """The services of the application that serves this request."""
    services: Services = request.app.state.services
    return services


class BearerCredential(HTTPBearer):
    """The caller's credential, checked. One dependency and not a chain: each link costs 15 µs a request."""

    def __init__(self) -> None:
        super().__init__(description="A token of POST /auth/token, or an API key")

    async def __call__(self, request: Request) -> VerifiedToken:  # type: ignore[override]  # Verified, and never `None`.
        services: Services = request.app.state.services
        return verified_caller(request, services)


def verified_caller(request: Request, services: Services) -> VerifiedToken:
    """Who sends this request. Raises `Unauthorized`."""
    scheme, _, credential = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not credential.strip():
        raise Unauthorized("send `Authorization: Bearer <token or API key>`; POST /auth/token gives a token")
    return services.authenticator.verify(credential.strip())


CurrentServices = Annotated[Services, Depends(services_of)]
CurrentToken = Annotated[VerifiedToken, Depends(BearerCredential())]
