"""What the `model` of a request names: a model, a route, or an agent, perhaps with its model."""

from dataclasses import dataclass

from config.catalogue import Catalogue
from domain.errors import UnknownAgent, UnknownModel
from services.agent_registry import Agents

AGENT_PREFIX = "agent:"
MODEL_MARK = "@"


@dataclass(frozen=True, slots=True)
class Target:
    """Who answers: an agent (with this model, or the default one), or a model by itself."""

    agent: str | None
    model: str | None


def target_of(name: str, catalogue: Catalogue, agents: Agents) -> Target:
    """`gpt-4o`, a route, `V2`, `V2@gpt-4o`, `agent:V2`, `agent:V2@gpt-4o`. Raises `UnknownModel` or `UnknownAgent`.

    A name that is a model's goes to the model; the prefix says that an agent is meant.
    """
    if not name.startswith(AGENT_PREFIX) and catalogue.candidates(name):
        return Target(None, name)
    wanted, mark, model = name.removeprefix(AGENT_PREFIX).partition(MODEL_MARK)
    try:
        agents.get_or_raise(wanted)
    except UnknownAgent:
        if name.startswith(AGENT_PREFIX):
            raise
        raise UnknownModel(
            f"unknown model {name[:200]!r}; GET /v1/models lists the models, the routes and the agents"
        ) from None
    if mark and not catalogue.candidates(model):
        raise UnknownModel(f"unknown model {model[:200]!r} for agent {wanted!r}; GET /v1/models lists those that exist")
    return Target(wanted, model if mark else None)
