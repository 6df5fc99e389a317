"""JSON answers, encoded by orjson."""

import json
from typing import Any

import orjson
from starlette.responses import Response


def json_response(content: Any, status: int = 200) -> Response:
    """The content as a JSON answer."""
    return Response(_encoded(content), status_code=status, media_type="application/json")


def _encoded(content: Any) -> bytes:
    try:
        return orjson.dumps(content)
    except TypeError:
        # Half a surrogate pair, in a field's name that is told back to its sender or in an agent's own text.
        return json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
