"""GET /health (alive) and GET /ready (able to serve)."""

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.deps import CurrentServices, Services, verified_caller
from api.json_response import json_response
from api.schemas import answers
from domain.errors import ModelUnavailable, Unauthorized

router = APIRouter(tags=["health"])

ASK_WITH_A_CREDENTIAL = "send a credential to read why"

HEALTH_EXAMPLE = {
    "status": "healthy",
    "version": "0.1.0",
    "title": "Routeur IA",
    "environment": "development",
    "timestamp": "2026-11-20T09:30:00+00:00",
}
READY_EXAMPLE: dict[str, Any] = {
    "status": "ready",
    "dependencies": {
        "server": {"state": "ready", "reason": None},
        "database": {"state": "ready", "reason": None},
        "ledger": {"state": "ready", "reason": None, "pending_rows": 0, "memory_rows": 0, "dropped_rows": 0},
        "models": {"state": "ready", "reason": None},
    },
}
NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {
        "description": "Send requests elsewhere.",
        "content": {
            "application/json": {
                "example": READY_EXAMPLE
                | {
                    "status": "not ready",
                    "dependencies": READY_EXAMPLE["dependencies"] | {"server": {"state": "draining", "reason": None}},
                }
            }
        },
    }
}


@router.get("/health", summary="Alive?", responses=answers(HEALTH_EXAMPLE))
async def health(services: CurrentServices) -> dict[str, Any]:
    """The process answers. Says nothing of what it depends on."""
    settings = services.settings
    return {
        "status": "healthy",
        "version": settings.api_version,
        "title": settings.api_title,
        "environment": settings.environment,
        "timestamp": datetime.now(UTC).isoformat(),
    }


@router.get("/ready", summary="Able to serve?", responses=answers(READY_EXAMPLE) | NOT_READY)
async def ready(request: Request, services: CurrentServices) -> Response:
    """200 when requests should be sent here, 503 when not, with the state of each dependency.

    Reasons name settings, files and addresses: they are for callers with a credential.
    Completions keep working while the database is down, and while the ledger is `degraded` (the disk takes no rows,
    they wait in memory) or `dropping` (they are lost): still 200, for a full disk must not take a fleet away.
    """
    dependencies = {
        "server": _state("draining" if services.draining else "ready", None),
        "database": _state(services.database.state, services.database.reason),
        "ledger": _ledger(services),
        "models": _models(services),
    }
    if not _is_known(request, services):
        for dependency in dependencies.values():
            dependency["reason"] = None if dependency["reason"] is None else ASK_WITH_A_CREDENTIAL
    serving = not services.draining and dependencies["models"]["state"] == "ready"
    body = {"status": _status(serving, dependencies["ledger"]["state"]), "dependencies": dependencies}
    return json_response(body, 200 if serving else 503)


def _status(serving: bool, ledger: str) -> str:
    if not serving:
        return "not ready"
    return ledger if ledger in {"degraded", "dropping"} else "ready"


def _is_known(request: Request, services: Services) -> bool:
    try:
        verified_caller(request, services)
    except Unauthorized:
        return False
    return True


def _state(state: str, reason: str | None) -> dict[str, Any]:
    return {"state": state, "reason": reason}


def _ledger(services: Services) -> dict[str, Any]:
    status = services.ledger.status()
    figures = {
        "pending_rows": status.pending_rows,
        "memory_rows": status.memory_rows,
        "dropped_rows": status.dropped_rows,
    }
    return {**_state(status.state, status.last_error), **figures}


def _models(services: Services) -> dict[str, Any]:
    """Ready when at least one language model can serve; starting while the only one that will is being loaded."""
    models = [model for model in services.router.catalogue.models if model.type == "llm"]
    serving = [model for model in models if services.router.unavailable_reason(model) is None]
    if not serving:
        try:
            services.router.resolve(None)
        except ModelUnavailable as error:
            return _state("down", error.message)
    runtime = services.local_runtime
    if runtime is not None and runtime.state == "starting" and all(model.provider == "local" for model in serving):
        return _state("starting", "the local model is being loaded")
    return _state("ready", None)
