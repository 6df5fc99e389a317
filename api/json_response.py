"""JSON answers, encoded by orjson."""

from typing import Any

import orjson
from starlette.responses import Response


def json_response(content: Any, status: int = 200) -> Response:
    """The content as a JSON answer."""
    return Response(orjson.dumps(content), status_code=status, media_type="application/json")
