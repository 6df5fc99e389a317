"""GET /v1/models: what `model` may name, and whether it can serve."""

import httpx

from config.catalogue import load_catalogue
from tests.openai_wire import check_openai_error

FIELDS = {"id", "object", "created", "owned_by", "type", "available", "unavailable_reason"}


async def test_models_routes_and_agents_are_listed_once_each(client: httpx.AsyncClient) -> None:
    content = (await client.get("/v1/models")).json()
    assert content["object"] == "list"
    ids = [model["id"] for model in content["data"]]
    assert len(ids) == len(set(ids))
    catalogue = load_catalogue()
    assert {*(m.id for m in catalogue.models), *(r.name for r in catalogue.routes), "V1", "V2", "RAG", "TOOLS"} == set(
        ids
    )
    for model in content["data"]:
        assert set(model) - {"candidates"} == FIELDS
        assert model["object"] == "model"
        assert isinstance(model["created"], int)
        assert model["available"] is (model["unavailable_reason"] is None)


async def test_what_can_serve_is_said_with_the_reason_where_it_cannot(client: httpx.AsyncClient) -> None:
    listed = {model["id"]: model for model in (await client.get("/v1/models")).json()["data"]}
    assert listed["gpt-4-turbo"]["available"] is True
    assert listed["V2"] == {**listed["V2"], "type": "agent", "owned_by": "routeur-ia", "available": True}
    assert "MISTRALAI_API_KEY" in listed["mistral-large-latest"]["unavailable_reason"]
    assert listed["default"]["type"] == "route"
    assert "HF_TOKEN" in listed["google/gemma-3-27b-it"]["unavailable_reason"]
    assert listed["use-multilingual-v3"] == {**listed["use-multilingual-v3"], "type": "embedding", "available": True}


async def test_one_is_found_by_any_name_that_chat_takes(client: httpx.AsyncClient) -> None:
    names = ["gpt-4o", "V2", "agent:V2", "V2@gpt-4o", "default", "google/gemma-3-27b-it", "google%2Fgemma-3-27b-it"]
    for name in names:
        answer = await client.get(f"/v1/models/{name}")
        assert answer.status_code == 200, answer.text
        assert answer.json()["id"] == name.replace("%2F", "/")


async def test_one_that_does_not_exist_is_not_found(client: httpx.AsyncClient) -> None:
    for name in ("gpt-9", "a/b/c", "V2@gpt-9"):
        check_openai_error(await client.get(f"/v1/models/{name}"), 404, "model_not_found", "model")
