"""/openapi.json tells the truth: valid, an example for every operation, for every error the shape of its door."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.openapi.models import OpenAPI

from tests.live_server import LiveServer

OPEN = {"/health", "/ready", "/auth/token"}


@pytest.fixture(scope="module")
def document(server: LiveServer) -> dict[str, Any]:
    return dict(httpx.get(f"{server.url}/openapi.json", trust_env=False, timeout=30).raise_for_status().json())


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_the_document_is_a_valid_openapi_document(document: dict[str, Any]) -> None:
    OpenAPI.model_validate(document)
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(names) == len(set(names))
    for reference in references(document):
        target: Any = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


def test_every_operation_has_a_summary_an_example_and_its_credential(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        assert operation["summary"], name
        successes = {status: answer for status, answer in operation["responses"].items() if status[0] == "2"}
        assert successes, name
        # 204 says all by itself.
        contents = [content for answer in successes.values() for content in answer.get("content", {}).values()]
        shown = any("example" in content or "examples" in content for content in contents)
        assert shown or set(successes) == {"204"}, name
        assert ("security" in operation) is (name.split()[1] not in OPEN), name
        if "requestBody" in operation:
            for content in operation["requestBody"]["content"].values():
                assert "example" in content or "examples" in content, name


def test_every_documented_error_has_the_shape_of_its_door(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        path = name.split()[1]
        for status, response in operation["responses"].items():
            if status[0] == "2" or name == "GET /ready":
                continue
            example = response["content"]["application/json"]["example"]
            if path.startswith("/v1/"):
                assert set(example) == {"error"}, (name, status)
                # FastAPI leaves null out of examples, which `param` mostly is.
                assert set(example["error"]) | {"param"} == {"message", "type", "param", "code"}, (name, status)
            elif path == "/api/ask":
                assert isinstance(example["error"], str), (name, status)
            else:
                assert set(example) == {"error", "detail"}, (name, status)
                assert set(example["error"]) == {"code", "message", "request_id"}, (name, status)


def test_a_bad_body_is_documented_as_400_and_never_as_422(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        assert "422" not in operation["responses"], name


def test_the_completions_statuses_are_documented(document: dict[str, Any]) -> None:
    responses = document["paths"]["/completion"]["post"]["responses"]
    assert set(responses) >= {"200", "400", "401", "413", "415", "429", "502", "503", "504"}
    assert set(responses["200"]["content"]) == {"application/json", "text/event-stream"}


def test_what_is_refused_without_a_credential_documents_401(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        if "security" in operation:
            assert "401" in operation["responses"], name


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_documentation_pages_open(server: LiveServer, path: str) -> None:
    answer = httpx.get(f"{server.url}{path}", trust_env=False, timeout=30)
    assert answer.status_code == 200
    assert "text/html" in answer.headers["content-type"]
