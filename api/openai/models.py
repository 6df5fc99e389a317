"""GET /v1/models and /v1/models/{id}: models, routes and agents, as OpenAI lists models."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from typing import Any

from fastapi import APIRouter

from api.deps import CurrentServices, CurrentToken, Services
from api.openai.model_name import target_of
from api.openai.schemas import MODEL_EXAMPLE, NO_SUCH_MODEL, OPENAI_UNAUTHORIZED
from api.path_convertor import WHOLE
from api.schemas import answers
from config.catalogue import ModelEntry, Route
from domain.errors import UnknownModel

router = APIRouter(prefix="/v1", tags=["openai"])

OURS = "routeur-ia"


@router.get(
    "/models",
    summary="List what `model` may name",
    responses=answers({"object": "list", "data": [MODEL_EXAMPLE]}) | OPENAI_UNAUTHORIZED,
)
async def list_openai_models(services: CurrentServices, _: CurrentToken) -> dict[str, Any]:
    """Models, routes and agents. Nothing is called to find out whether they can serve."""
    return {"object": "list", "data": list(_all(services))}


@router.get(
    f"/models/{{model_id:{WHOLE}}}",
    summary="What one name stands for",
    responses=answers(MODEL_EXAMPLE) | NO_SUCH_MODEL | OPENAI_UNAUTHORIZED,
)
async def get_openai_model(model_id: str, services: CurrentServices, _: CurrentToken) -> dict[str, Any]:
    """A model, an alias, a route or an agent, under the name that was asked for."""
    listed = {item["id"]: item for item in _all(services)}
    if (found := listed.get(model_id)) is not None:
        return found
    if (model := services.router.catalogue.get(model_id)) is not None:
        return {**_model(model, services), "id": model_id}
    target = target_of(model_id, services.router.catalogue, services.agents)
    agent = listed.get(target.agent or "")
    if agent is None:
        raise UnknownModel(f"unknown model {model_id[:200]!r}; GET /v1/models lists those that exist")
    return {**agent, "id": model_id}


def _all(services: Services) -> Iterator[dict[str, Any]]:
    catalogue = services.router.catalogue
    routes = {route.name: route for route in catalogue.routes}
    for model in catalogue.models:
        # A model with stand-ins is listed once, and can be had as long as one of them can.
        yield _route(routes.pop(model.id), services) if model.id in routes else _model(model, services)
    for route in routes.values():
        yield _route(route, services)
    newest = max((model.checked for model in catalogue.models), default=date.min)
    for agent in services.agents.all():
        yield _listed(agent.name, "agent", OURS, newest, agent.unavailable_reason)


def _model(model: ModelEntry, services: Services) -> dict[str, Any]:
    return _listed(model.id, model.type, model.provider, model.checked, services.unavailable_reason(model))


def _route(route: Route, services: Services) -> dict[str, Any]:
    candidates = services.router.catalogue.candidates(route.name)
    reasons = [services.unavailable_reason(model) for model in candidates]
    reason = None if None in reasons else "; ".join(filter(None, reasons))
    own = next((model for model in candidates if model.id == route.name), None)
    kind, owner = ("route", OURS) if own is None else (own.type, own.provider)
    listed = _listed(route.name, kind, owner, max(model.checked for model in candidates), reason)
    return {**listed, "candidates": [model.id for model in candidates]}


def _listed(name: str, kind: str, owner: str, checked: date, reason: str | None) -> dict[str, Any]:
    """`created` is the day the entry was last checked: when the model was made is mostly not known."""
    return {
        "id": name,
        "object": "model",
        "created": int(datetime.combine(checked, time.min, UTC).timestamp()),
        "owned_by": owner,
        "type": kind,
        "available": reason is None,
        "unavailable_reason": reason,
    }
