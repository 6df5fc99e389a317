"""GET /models, GET /agents and the drawing of an agent's graph."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from api.accept import best_media_type
from api.deps import CurrentServices, CurrentToken
from api.schemas import UNAUTHORIZED, answers, error_example
from config.catalogue import ModelEntry
from domain.errors import NotFound, UnknownAgent
from services.accounting.tariffs import ListedPrice
from services.agent_drawing import draw_mermaid, draw_svg
from services.agent_registry import Agent

router = APIRouter(tags=["lists"])

MODEL_EXAMPLE = {
    "models": [
        {
            "name": "gpt-4o",
            "provider": "openai",
            "description": "…",
            "supports_streaming": True,
            "context_window": 128000,
            "type": "llm",
            "aliases": [],
            "available": False,
            "unavailable_reason": "'gpt-4o' needs the setting OPENAI_API_KEY",
            "capabilities": {"vision": True, "tools": True, "json_schema": True},
            "prices": {
                "input_per_mtok_usd": 2.5,
                "cache_read_per_mtok_usd": 1.25,
                "output_per_mtok_usd": 10.0,
                "priced_by": "genai-prices 0.2.3",
            },
        }
    ],
    "total": 1,
}
AGENT_EXAMPLE = {
    "agents": [
        {
            "type": "V2",
            "name": "V2",
            "description": "…",
            "available": True,
            "unavailable_reason": None,
            "input": {"project": "none", "tools": False},
            "default_model": None,
            "allowed_models": None,
            "timeout_s": 600.0,
            "step_limit": 50,
        }
    ],
    "total": 1,
}
MERMAID, SVG = "text/vnd.mermaid", "image/svg+xml"


@router.get("/models", summary="List the models", responses=answers(MODEL_EXAMPLE) | UNAUTHORIZED)
async def list_models(services: CurrentServices, _: CurrentToken) -> dict[str, Any]:
    """Every model of the catalogue, and whether it can serve now. Nothing is called to find out."""
    catalogue = services.router.catalogue
    models = [
        _model(model, services.unavailable_reason(model), services.accountant.list_price(model.id))
        for model in catalogue.models
    ]
    return {"models": models, "total": len(models)}


@router.get("/agents", summary="List the agents", responses=answers(AGENT_EXAMPLE) | UNAUTHORIZED)
async def list_agents(services: CurrentServices, _: CurrentToken) -> dict[str, Any]:
    """Every agent, whether it can be called, and what it does with a request.

    `input.project` says whether it reads a project's documents. Without a `default_model` it is the server's;
    `allowed_models` of `null` are all.
    """
    agents = [_agent(agent, services.settings.run_timeout_s) for agent in services.agents.all()]
    return {"agents": agents, "total": len(agents)}


@router.get(
    "/agents/{name}/graph",
    summary="Draw an agent",
    response_class=PlainTextResponse,
    responses={
        200: {
            "description": "Mermaid text, or SVG for `Accept: image/svg+xml`.",
            "content": {MERMAID: {"example": "graph TD;\n\t__start__ --> answer;"}, SVG: {"example": "<svg …"}},
        },
        404: error_example("not_found", "unknown agent 'V9'; known agents: RAG, V1, V2"),
        406: error_example("not_acceptable", "graphs are drawn as text/vnd.mermaid or image/svg+xml"),
        503: error_example("agent_unavailable", "agent 'V1' cannot be called yet: …"),
        **UNAUTHORIZED,
    },
)
async def draw_agent(name: str, request: Request, services: CurrentServices, _: CurrentToken) -> Response:
    """The agent's graph, drawn as Mermaid text or as SVG. Dashed edges are taken on a condition."""
    try:
        graph = services.agents.get_or_raise(name).graph_or_raise()
    except UnknownAgent as error:
        # In the path, an unknown name is a page that does not exist.
        raise NotFound(error.message) from error
    media_type = best_media_type(request.headers.get("Accept", ""), [MERMAID, "text/plain", SVG])
    if media_type is None:
        raise HTTPException(406, f"graphs are drawn as {MERMAID} or {SVG}")
    drawing = draw_svg(graph, name) if media_type == SVG else draw_mermaid(graph)
    # An author's names are in it: nothing in a drawing may run or be fetched, as every answer's headers say.
    return Response(drawing, media_type=media_type, headers={"Vary": "Accept"})


def _model(model: ModelEntry, reason: str | None, listed: ListedPrice | None) -> dict[str, Any]:
    return {
        "name": model.id,
        "provider": model.provider,
        "description": model.description,
        "supports_streaming": model.supports_streaming,
        "context_window": None if model.window is None else model.window.tokens,
        "type": model.type,
        "aliases": list(model.aliases),
        "available": reason is None,
        "unavailable_reason": reason,
        "capabilities": model.capabilities.model_dump(include={"vision", "tools", "json_schema"}),
        "prices": None if listed is None else {**asdict(listed.price), "priced_by": listed.priced_by},
    }


def _agent(agent: Agent, run_timeout_s: float) -> dict[str, Any]:
    options = agent.options
    project = "required" if options.needs_project else "optional" if agent.uses_project else "none"
    return {
        "type": agent.name,
        "name": agent.name,
        "description": agent.description,
        "available": agent.graph is not None,
        "unavailable_reason": agent.unavailable_reason,
        "input": {"project": project, "tools": agent.uses_tools},
        "default_model": options.usual_model,
        "allowed_models": None if options.allowed_models is None else list(options.allowed_models),
        "timeout_s": min(options.timeout_s or run_timeout_s, run_timeout_s),
        "step_limit": options.step_limit,
    }
