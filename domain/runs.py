"""A run: what is asked of an agent, the events it yields, and the row it leaves in the ledger."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Literal, Protocol
from uuid import UUID

from domain.documents import Passage
from domain.errors import RouteurError
from domain.messages import Message
from domain.principals import Principal
from domain.reports import Report

RunStatus = Literal["succeeded", "failed", "cancelled", "interrupted", "lost"]
"""`interrupted`: the graph stopped to ask something, and goes on when its thread is resumed. `lost`: its process was
killed."""


ProgressKind = Literal["node", "tool", "sources", "interrupt"]


class Unset(Enum):
    """The type of `UNSET`."""

    UNSET = "unset"


UNSET = Unset.UNSET
"""Stands for a field that was not sent, where `None` is a value."""


@dataclass(frozen=True, slots=True)
class Hop:
    """A model that was to answer and did not, and why."""

    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What every door makes of its own format. `messages` ends with the caller's new message.

    Without an `agent` the model answers by itself. `parameters` are the rest of what the model is told, in OpenAI's
    names; `credentials` are the caller's own for a provider, by its name, and go before the server's.
    With a `thread_id` the server keeps the conversation; `resume` is the answer to what the thread's last run asked.
    """

    agent: str | None
    messages: tuple[Message, ...]
    principal: Principal
    request_id: str
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    project_id: str | None = None
    sources: tuple[str, ...] = ()
    thread_id: str | None = None
    resume: Any = UNSET
    metadata: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    credentials: Mapping[str, Any] = field(default_factory=dict, repr=False)
    stream: bool = False
    events: bool = False

    @property
    def resumes(self) -> bool:
        """Whether it answers what its thread waits for; `None` is an answer too."""
        return self.resume is not UNSET


@dataclass(frozen=True, slots=True)
class Started:
    """The run was accepted: its agent is known and its model can serve."""

    run_id: UUID
    agent: str | None
    model: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """Pieces of the answer, in order, as they came from one model."""

    pieces: list[str]
    model: str


@dataclass(frozen=True, slots=True)
class Progress:
    """A rare event for progress displays: a node began or ended, a tool was called, sources were found."""

    kind: ProgressKind
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ModelDelta:
    """A rare piece of what a model said by itself: a part of a tool call, reasoning, log probabilities, the end.

    `content` is a delta of OpenAI's shape, without its text. `finish_reason` is set on the last one, and `extra` is
    what a provider tells its own callers besides (Spark: `version`, `domain`, `question_tokens`).
    """

    model: str
    content: Mapping[str, Any]
    finish_reason: str | None = None
    logprobs: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failed:
    """The run failed; a `Finished` with what it consumed follows."""

    error: RouteurError


@dataclass(frozen=True, slots=True)
class Interruption:
    """What a thread waits for: the answer to a node's `interrupt(value)`, or, at a breakpoint, to be gone on with."""

    id: str
    value: Any
    """What was asked, as JSON."""
    next: tuple[str, ...] = ()
    """At a breakpoint: the nodes that come next."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of every run. `message_count` counts the exchange: what was sent and the answer."""

    run_id: UUID
    report: Report
    model: str
    message_count: int
    fallbacks: tuple[Hop, ...] = ()
    finish_reason: str | None = None
    """Why the answer ended, as the model said it: `length` for one that was cut at its limit."""
    sources: tuple[Passage, ...] = ()
    """The passages that the answer rests on."""
    interrupts: tuple[Interruption, ...] = ()
    """What the graph asks before it goes on; several when parallel nodes ask."""
    warnings: tuple[str, ...] = ()
    """What the caller is to know of the answer: what a thread will not give back as it was."""


RunEvent = Started | Tokens | Progress | ModelDelta | Failed | Finished


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One ledger row. Figures that are not known are `None`."""

    run_id: UUID
    created_at: datetime
    request_id: str
    subject: str
    project_id: str | None
    agent: str | None
    requested_model: str | None
    model: str
    stream: bool
    status: RunStatus
    error_code: str | None
    message_count: int
    input_tokens: int | None
    output_tokens: int | None
    estimated: bool
    latency_s: float | None
    time_to_first_token_s: float | None
    cost_eur: float | None
    energy_kwh: float | None
    gwp_kgco2eq: float | None
    wcf_liters: float | None
    calls: tuple[Mapping[str, Any], ...]
    """Per call: model, provider, tokens, status, estimated, latency_s, cost_eur, gwp_kgco2eq (JSON values)."""
    audio_s: float | None = None
    """How much audio was heard; `None` for a run that hears none."""


class RecordsRuns(Protocol):
    """Where rows go: the ledger. None of these raises or waits."""

    def begin(self, record: RunRecord) -> None:
        """Keep the row that is to be stored if the process dies before `record` or `abandon` of the same run."""

    def record(self, record: RunRecord) -> None:
        """Store the run's row."""

    def abandon(self, run_id: UUID) -> None:
        """The run that began leaves no row."""
