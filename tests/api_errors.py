"""The one shape of the native doors' errors."""

import httpx


def check_error(answer: httpx.Response, status: int, code: str) -> str:
    """The message of an error answer, once its shape is checked."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    content = answer.json()
    assert set(content) == {"error", "detail"}
    error = content["error"]
    assert set(error) == {"code", "message", "request_id"}
    assert error["code"] == code
    assert error["request_id"] == answer.headers["x-request-id"]
    assert answer.headers.get_list("x-request-id") == [error["request_id"]]
    if isinstance(content["detail"], str):
        assert content["detail"] == error["message"]
    else:
        assert content["detail"]
        assert all(set(problem) == {"field", "message", "type"} for problem in content["detail"])
    assert str(error["message"])
    return str(error["message"])


def problems_by_field(answer: httpx.Response) -> dict[str, str]:
    return {problem["field"]: problem["message"] for problem in answer.json()["detail"]}
