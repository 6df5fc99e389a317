"""JSON answers, encoded by orjson."""

from typing import Any

import orjson
from starlette.responses import Response

from core.json_form import as_json, whole_characters


def json_response(content: Any, status: int = 200) -> Response:
    """The content as a JSON answer."""
    return Response(encoded(content), status_code=status, media_type="application/json")


def encoded(content: Any) -> bytes:
    """The content as JSON, whatever is in it."""
    try:
        return orjson.dumps(content)
    except TypeError:
        # Half a surrogate pair, in a field's name that is told back to its sender or in an agent's own text; or a value
        # of an agent's that JSON does not know.
        return orjson.dumps(as_json(content))


def encoded_texts(texts: list[str]) -> list[bytes]:
    """Each text as a JSON string."""
    try:
        return list(map(orjson.dumps, texts))
    except orjson.JSONEncodeError:
        # Half a character, in the text of an agent's own: the wire has none.
        return [orjson.dumps(whole_characters(text)) for text in texts]
