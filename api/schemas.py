"""The shapes of native requests, and the answers shown in the documentation."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator


def _whole_characters(text: str) -> str:
    """JSON's escapes can write half of a surrogate pair, which no provider and no UTF-8 can carry."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half of a surrogate pair at position {error.start}; send whole characters") from error
    return text


Text = Annotated[str, AfterValidator(_whole_characters)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]

MAX_OFFSET = 1_000_000_000


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class HistoryMessage(_Body):
    """One earlier message of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: Text


class CompletionBody(_Body):
    """What `POST /completion` takes. Fields that the server does not know are refused by name."""

    message: Text = Field(description="The new message of the user. Beside `resume` it is not read, and may be absent.")
    model: Name | None = Field(default=None, description="A model or an alias of GET /models; absent: the default.")
    agent: Name = Field(default="V2", description="An agent of GET /agents.")
    stream: bool = Field(default=False, description="Answer as server-sent events.")
    temperature: float | None = Field(default=0.7, ge=0, le=2)
    max_tokens: int | None = Field(default=None, gt=0, le=1_000_000, description="The longest answer, in tokens.")
    conversation_history: list[HistoryMessage] | None = Field(default=None, description="Earlier ones, oldest first.")
    project_id: Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f]*$")] | None = None
    sources: list[Name] | None = Field(
        default=None, description="Documents of the project, by id, to which its agent keeps; absent or []: all."
    )
    events: bool = Field(default=False, description="When streaming, also send typed progress events.")
    metadata: dict[Text, Text] | None = Field(default=None, description="Your own labels for the run's trace.")
    thread_id: Name | None = Field(
        default=None, description="A conversation that the server keeps, under an id of yours; made at its first use."
    )
    resume: Any = Field(
        default=None,
        description="The answer to `metadata.interrupt` of the thread's last run: any JSON, without a `message` "
        "`null` too; answers to several questions as an object by their ids.",
    )
    cache: Any = Field(default=None, description="Only false for now: nothing is cached.")

    @model_validator(mode="before")
    @classmethod
    def _needs_no_message_to_resume(cls, body: Any) -> Any:
        if isinstance(body, dict) and "resume" in body and body.get("message") is None:
            return {**body, "message": ""}
        return body


class TokenBody(_Body):
    """The credential of `POST /auth/token` outside development."""

    api_key: str | None = None


COMPLETION_EXAMPLES: dict[str, Any] = {
    "short": {"summary": "A question", "value": {"message": "Bonjour, qui es-tu ?"}},
    "streamed": {"summary": "The same, streamed", "value": {"message": "Bonjour, qui es-tu ?", "stream": True}},
    "conversation": {
        "summary": "A conversation with a chosen model",
        "value": {
            "message": "Et en une phrase ?",
            "model": "gpt-4o-mini",
            "temperature": 0.2,
            "max_tokens": 100,
            "conversation_history": [
                {"role": "user", "content": "Explique la photosynthèse."},
                {"role": "assistant", "content": "Les plantes transforment la lumière en énergie chimique."},
            ],
        },
    },
}


def _inlined(schema: Any, definitions: Any) -> Any:
    """A schema that stands by itself, as one written into an operation must."""
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {name: _inlined(part, definitions) for name, part in schema.items() if name != "$defs"}


_COMPLETION_SCHEMA = CompletionBody.model_json_schema()
COMPLETION_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _inlined(_COMPLETION_SCHEMA, _COMPLETION_SCHEMA.get("$defs")),
                "examples": COMPLETION_EXAMPLES,
            }
        },
    }
}

_METADATA_EXAMPLE: dict[str, Any] = {
    "message_count": 2,
    "usage_by_model": {"gpt-4o": {"input_tokens": 25, "output_tokens": 98, "total_tokens": 123}},
    "latency_s": 1.23,
    "emissions_kgCO2eq": 0.00042,
    "emissions_gCO2eq": 0.42,
    "pricing": {
        "currency": "EUR",
        "total_cost": 0.0031,
        "by_model": {"gpt-4o": {"input": 0.0005, "output": 0.0026, "total": 0.0031}},
    },
    "equivalences": {"water_liters": 0.3, "car_km": 0.002, "tgv_km": 0.01, "smartphone_charges": 0.04},
}

COMPLETION_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with `stream: true`, server-sent events of which the last has `done: true`.",
        "content": {
            "application/json": {
                "example": {
                    "response": "Bonjour ! Je suis votre assistant.",
                    "model": "gpt-4o",
                    "agent": "V2",
                    "usage": {"prompt_tokens": 25, "completion_tokens": 98, "total_tokens": 123},
                    "metadata": _METADATA_EXAMPLE,
                }
            },
            "text/event-stream": {
                "example": 'data: {"content": "Bon", "done": false, "metadata": {"model": "gpt-4o", "agent": "V2"}}\n\n'
            },
        },
    }
}


ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error", "detail"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "request_id"],
            "properties": {name: {"type": "string"} for name in ("code", "message", "request_id")},
        },
        "detail": {"description": "The message again; for a refused body, one entry a field."},
    },
}


def error_example(code: str, message: str) -> dict[str, Any]:
    """An error answer as the documentation shows it."""
    example = {"error": {"code": code, "message": message, "request_id": "3f0c…"}, "detail": message}
    return {"description": message, "content": {"application/json": {"schema": ERROR_SCHEMA, "example": example}}}


# `default` also keeps FastAPI from documenting 422, which is never answered: a body that is refused gets 400.
ANY_ERROR: dict[int | str, dict[str, Any]] = {
    "default": error_example("internal_error", "the server failed; its log says why (request 3f0c…)")
}


def answers(example: Any, description: str = "Done.") -> dict[int | str, dict[str, Any]]:
    """A 200 answer as the documentation shows it."""
    return {200: {"description": description, "content": {"application/json": {"example": example}}}}


UNAUTHORIZED: dict[int | str, dict[str, Any]] = {
    401: error_example("unauthorized", "send `Authorization: Bearer <token or API key>`")
}
