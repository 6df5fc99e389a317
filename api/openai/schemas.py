"""What the documentation shows of the OpenAI-compatible routes. Bodies are checked by hand: see `body.py`."""

from typing import Any

from api.error_shapes import Problem, openai_error
from domain.errors import InvalidParameter, ProviderCut, RateLimitedByProvider, RouteurError, Unauthorized, UnknownModel

ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def openai_example(error: RouteurError | Problem) -> dict[str, Any]:
    """An error answer as the documentation shows it."""
    problem = error if isinstance(error, Problem) else Problem.of(error, "3f0c…")
    content = {"schema": ERROR_SCHEMA, "example": {"error": openai_error(problem)}}
    return {"description": problem.message, "content": {"application/json": content}}


OPENAI_ANY_ERROR: dict[int | str, dict[str, Any]] = {
    "default": openai_example(Problem(500, "internal_error", "the server failed; its log says why", "3f0c…"))
}
OPENAI_UNAUTHORIZED: dict[int | str, dict[str, Any]] = {
    401: openai_example(Unauthorized("send `Authorization: Bearer <token or API key>`"))
}
NO_SUCH_MODEL: dict[int | str, dict[str, Any]] = {
    404: openai_example(UnknownModel("unknown model 'gpt-9'; GET /v1/models lists those that exist"))
}
CHAT_ERRORS: dict[int | str, dict[str, Any]] = {
    400: openai_example(InvalidParameter("temperature", "it must be a number from 0 to 2 (got 3)")),
    **OPENAI_UNAUTHORIZED,
    **NO_SUCH_MODEL,
    413: openai_example(Problem(413, "payload_too_large", "the body is larger than 4000000 bytes", "")),
    415: openai_example(Problem(415, "unsupported_media_type", "send the body as application/json", "")),
    429: openai_example(RateLimitedByProvider("openai answered 429 (too many requests)", retry_after_s=None)),
    502: openai_example(ProviderCut("openai ended its answer without a finish reason", retryable=True)),
    503: openai_example(Problem(503, "model_unavailable", "'gpt-4o' needs the setting OPENAI_API_KEY", "")),
    504: openai_example(Problem(504, "provider_stalled", "openai sent nothing for 60 s", "")),
}

CHAT_EXAMPLE: dict[str, Any] = {
    "id": "chatcmpl-058b863fb2434553a2999276d0234ff6",
    "object": "chat.completion",
    "created": 1795132800,
    "model": "gpt-4o",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Bonjour !", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
    "impact": {"cost_eur": 0.00004, "gwp_kgCO2eq": {"mean": 0.00002}, "run_id": "058b863f-…"},
}
CHUNK_EXAMPLE = (
    'data: {"id":"chatcmpl-058b…","object":"chat.completion.chunk","created":1795132800,"model":"gpt-4o","choices":'
    '[{"index":0,"delta":{"content":"Bon"},"logprobs":null,"finish_reason":null}]}\n\n'
)
CHAT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A chat completion; with `stream: true`, its chunks. `impact` is on the last object.",
        "content": {"application/json": {"example": CHAT_EXAMPLE}, "text/event-stream": {"example": CHUNK_EXAMPLE}},
    },
    **CHAT_ERRORS,
}

_NUMBER, _WHOLE, _FLAG, _TEXT, _OBJECT = (
    {"type": ["number", "null"]},
    {"type": ["integer", "null"]},
    {"type": ["boolean", "null"]},
    {"type": ["string", "null"]},
    {"type": ["object", "null"]},
)
CHAT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["model", "messages"],
                    "description": "OpenAI's. Fields that nobody knows are passed over.",
                    "properties": {
                        "model": {"type": "string", "description": "A model, a route, `V2`, or `agent:V2@gpt-4o`."},
                        "messages": {"type": "array", "items": {"type": "object"}},
                        "stream": _FLAG,
                        "stream_options": _OBJECT,
                        "n": _WHOLE,
                        "temperature": _NUMBER,
                        "top_p": _NUMBER,
                        "frequency_penalty": _NUMBER,
                        "presence_penalty": _NUMBER,
                        "max_completion_tokens": _WHOLE,
                        "max_tokens": _WHOLE,
                        "stop": {"type": ["string", "array", "null"], "items": {"type": "string"}},
                        "seed": _WHOLE,
                        "logprobs": _FLAG,
                        "top_logprobs": _WHOLE,
                        "tools": {"type": ["array", "null"], "items": {"type": "object"}},
                        "tool_choice": {"type": ["string", "object", "null"]},
                        "parallel_tool_calls": _FLAG,
                        "response_format": _OBJECT,
                        "reasoning_effort": _TEXT,
                        "user": _TEXT,
                        "version": {**_TEXT, "description": "Spark: `v1.1`, `v2.1` or `v3.1`."},
                        "project_id": {**_TEXT, "description": "Agents: the project whose documents they answer from."},
                        "sources": {
                            "type": ["array", "null"],
                            "items": {"type": "string"},
                            "description": "Agents: documents of the project to keep to; absent or []: all.",
                        },
                        "thread_id": {**_TEXT, "description": "Agents: a conversation that the server keeps."},
                    },
                },
                "examples": {
                    "model": {"value": {"model": "gpt-4o", "messages": [{"role": "user", "content": "Bonjour !"}]}},
                    "agent": {"value": {"model": "V2", "messages": [{"role": "user", "content": "Bonjour !"}]}},
                },
            }
        },
    }
}

MODEL_EXAMPLE: dict[str, Any] = {
    "id": "gpt-4o",
    "object": "model",
    "created": 1795132800,
    "owned_by": "openai",
    "type": "llm",
    "available": False,
    "unavailable_reason": "'gpt-4o' needs the setting OPENAI_API_KEY",
}

EMBEDDINGS_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["model", "input"],
                    "properties": {
                        "model": {"type": "string"},
                        "input": {"type": ["string", "array"], "items": {"type": "string"}},
                        "encoding_format": {"type": ["string", "null"], "enum": ["float", "base64", None]},
                        "dimensions": _WHOLE,
                        "user": _TEXT,
                    },
                },
                "example": {"model": "use-multilingual-v3", "input": ["Le chat dort.", "The cat sleeps."]},
            }
        },
    }
}
EMBEDDINGS_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One vector a text.",
        "content": {
            "application/json": {
                "example": {
                    "object": "list",
                    "data": [{"object": "embedding", "index": 0, "embedding": [0.013, -0.027]}],
                    "model": "use-multilingual-v3",
                    "usage": {"prompt_tokens": 6, "total_tokens": 6},
                    "impact": {"cost_eur": 0.0},
                }
            }
        },
    },
    **{status: answer for status, answer in CHAT_ERRORS.items() if status != 400},
    400: openai_example(InvalidParameter("input", "send a string or a list of strings")),
}

TRANSCRIPTIONS_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "model": {**_TEXT, "description": "A transcription model; the server's when absent."},
                        "language": _TEXT,
                        "prompt": _TEXT,
                        "response_format": {"enum": ["json", "text", "srt", "verbose_json", "vtt"]},
                        "stream": {"type": "boolean"},
                        "context": {"enum": ["chained", "parallel"]},
                    },
                },
                "example": {"file": "@reunion.m4a", "model": "whisper-base"},
            }
        },
    }
}
TRANSCRIPTIONS_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The text; `verbose_json`, `srt` and `vtt` with times; with `stream`, server-sent events.",
        "content": {
            "application/json": {
                "example": {
                    "text": "Bonjour à tous.",
                    "usage": {"type": "duration", "seconds": 3.2},
                    "impact": {"cost_eur": 0.0},
                }
            }
        },
    },
    **{status: answer for status, answer in CHAT_ERRORS.items() if status != 400},
    400: openai_example(InvalidParameter("response_format", "'gpt-4o-transcribe' gives no times")),
}
