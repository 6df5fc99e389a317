"""The native door's wire: JSON answers and server-sent events, in the fixed shapes of the contract."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from api.json_response import encoded, encoded_texts
from domain.documents import Passage
from domain.errors import RouteurError
from domain.runs import Finished, Interruption, Progress, RunRequest
from services.accounting.metadata import report_metadata, usage_by_model, usage_tokens


def whole_answer(request: RunRequest, text: str, finished: Finished) -> dict[str, Any]:
    """The body of a non-streaming answer."""
    usage = finished.report.usage
    return {
        "response": text,
        "model": finished.model,
        "agent": request.agent,
        "usage": {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
        },
        "metadata": {
            "message_count": finished.message_count,
            "usage_by_model": usage_by_model(finished.report),
            **_metadata(request, finished),
        },
    }


class NativeEvents:
    """Encodes a run's events. What repeats from token to token is encoded once a model."""

    __slots__ = ("_agent", "_suffix", "_suffix_model")

    def __init__(self, agent: str) -> None:
        self._agent = agent
        self._suffix = b""
        self._suffix_model: str | None = None

    def tokens(self, pieces: list[str], model: str) -> bytes:
        """One event a piece, joined for a single write."""
        if model != self._suffix_model:
            metadata = _json({"model": model, "agent": self._agent})
            self._suffix = b', "done": false, "metadata": ' + metadata + b"}\n\n"
            self._suffix_model = model
        between = self._suffix + b'data: {"content": '
        return b'data: {"content": ' + between.join(encoded_texts(pieces)) + self._suffix

    def progress(self, progress: Progress) -> bytes:
        """A typed event, which plain readers of `data:` lines pass over by its name."""
        return b"event: " + progress.kind.encode() + b"\ndata: " + _json(progress.content) + b"\n\n"

    def last(self, request: RunRequest, finished: Finished, error: RouteurError | None) -> bytes:
        """The last event: everything the run consumed, and what went wrong if something did."""
        usage = finished.report.usage
        metadata = {
            "model": finished.model,
            "agent": self._agent,
            "usage": usage_tokens(usage),
            "usage_by_model": usage_by_model(finished.report),
            "message_count": finished.message_count,
            **_metadata(request, finished),
        }
        failure = b""
        if error is not None:
            failure = b', "error": ' + _json({"code": error.code, "message": error.message})
        return b'data: {"content": "", "done": true, "metadata": ' + encoded(metadata) + failure + b"}\n\n"


def _metadata(request: RunRequest, finished: Finished) -> dict[str, Any]:
    """The part of the metadata that both forms share."""
    figures = report_metadata(finished.report)
    if finished.warnings:
        figures["impact"]["warnings"] = [*figures["impact"]["warnings"], *finished.warnings]
    return {
        **figures,
        "run_id": str(finished.run_id),
        "request_id": request.request_id,
        "thread_id": request.thread_id,
        "requested_model": request.model,
        "fallbacks": [{"model": hop.model, "reason": hop.reason} for hop in finished.fallbacks],
        "sources": [source_of(passage) for passage in finished.sources],
        "cache": {"hit": False, "saved": None},
        "interrupt": interrupt_of(finished.interrupts),
    }


def source_of(passage: Passage) -> dict[str, Any]:
    """A passage as answers cite it: `source_id` is what a request's `sources` takes."""
    return {
        "source_id": str(passage.document_id),
        "title": passage.title,
        "page": passage.page,
        "score": round(passage.score, 4),
        "excerpt": passage.excerpt,
    }


def interrupt_of(asked: Sequence[Interruption]) -> dict[str, Any] | None:
    """What the run waits for. Nodes that ask at once are all in `all`; `resume` then takes an object by their ids.

    At a breakpoint `next` names the nodes that come next; it is empty for a question.
    """
    if not asked:
        return None
    questions = [{"id": one.id, "value": one.value, "next": one.next} for one in asked]
    return {**questions[0], "all": questions}


def _json(content: Mapping[str, Any]) -> bytes:
    """With the spaces that clients in the field have always been sent."""
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
