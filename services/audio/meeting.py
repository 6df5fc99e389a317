"""The account of a meeting: what it was about, what was decided, who does what. An agent writes it.

A transcript that is too long for the model at once is read in parts, and the summaries of the parts are read again.
"""

import json
import logging
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.database import storable
from domain.audio import LANGUAGES
from domain.errors import AgentFailed, RouteurError
from domain.messages import Message
from domain.principals import Principal
from domain.runs import Failed, Finished, RunRequest, Tokens
from domain.transcripts import Transcript
from domain.usage import Call
from services.agent_registry import Agents
from services.completion import CompletionService
from services.llm.router import Router

logger = logging.getLogger("routeur.audio")

AGENT = "V2"
CHARS_PER_TOKEN = 3
"""French and its like in most tokenizers; a rough figure on the safe side."""
SHARE_OF_CONTEXT = 0.5
ANSWER_TOKENS = 1_200
MAX_PARTS = 64
NO_WORDS = "nothing was said that could be summed up"


class _Action(BaseModel):
    model_config = ConfigDict(extra="ignore")

    task: str
    owner: str | None = None
    due: str | None = None


class Account(BaseModel):
    """What a meeting came to."""

    model_config = ConfigDict(extra="ignore")

    summary: str
    decisions: list[str] = Field(default_factory=list)
    actions: list[_Action] = Field(default_factory=list)


_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["summary", "decisions", "actions"],
    "properties": {
        "summary": {"type": "string"},
        "decisions": {"type": "array", "items": {"type": "string"}},
        "actions": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["task", "owner", "due"],
                "properties": {
                    "task": {"type": "string"},
                    "owner": {"type": ["string", "null"]},
                    "due": {"type": ["string", "null"]},
                },
            },
        },
    },
}
_FORMAT = {"type": "json_schema", "json_schema": {"name": "meeting", "schema": _SCHEMA, "strict": True}}


@dataclass(slots=True)
class Written:
    """The account, or why there is none; `calls` is what it took either way."""

    account: Account | None = None
    problem: str | None = None
    error: RouteurError | None = None
    calls: list[Call] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """`error` is null when all went well; the rest is empty when it did not."""
        account = self.account or Account(summary="")
        decided = [storable(decision) for decision in account.decisions]
        actions = [
            {
                "task": storable(action.task),
                "owner": None if action.owner is None else storable(action.owner),
                "due": None if action.due is None else storable(action.due),
            }
            for action in account.actions
        ]
        return {
            "summary": None if self.account is None else storable(account.summary),
            "decisions": decided,
            "actions": actions,
            "error": self.problem,
        }


@dataclass(frozen=True, slots=True)
class _Reading:
    """In which language, for whom, and where it goes."""

    language: str
    principal: Principal
    request_id: str
    written: Written


class MeetingWriter:
    """Has the account written. It never raises for a model's failure: the transcript is worth having without it."""

    def __init__(self, completion: CompletionService, router: Router, agents: Agents) -> None:
        self._completion = completion
        self._router = router
        self._agents = agents

    async def write(self, transcript: Transcript, principal: Principal, request_id: str) -> Written:
        """In the recording's language."""
        written = Written()
        if not transcript.text:
            written.problem = NO_WORDS
            return written
        language = LANGUAGES.get(transcript.language or "", "the language of the transcript")
        reading = _Reading(language, principal, request_id, written)
        try:
            written.account = await self._sum_up(transcript.text, reading)
        except RouteurError as error:
            logger.warning("a meeting's account failed", extra={"code": error.code, "reason": error.message})
            written.error = error
            written.problem = f"the account could not be written: {error.message}"
        return written

    async def _sum_up(self, text: str, reading: "_Reading") -> Account:
        """The account of a text of any length: of its parts, and then of what was written of them."""
        parts = self._parts(text)
        if len(parts) > MAX_PARTS:
            reading.written.problem = f"it is of the first {MAX_PARTS} parts of {len(parts)}: the rest is too much"
        accounts = [await self._read(part, reading) for part in parts[:MAX_PARTS]]
        if len(accounts) == 1:
            return accounts[0]
        summaries = "\n\n".join(account.summary for account in accounts)
        if len(summaries) >= len(text):
            raise AgentFailed(f"agent {AGENT!r} makes no summary shorter than what it reads; ask a larger model")
        return _joined((await self._sum_up(summaries, reading)).summary, accounts)

    def _parts(self, text: str) -> list[str]:
        """Each as long as the model can read with room for its answer, cut between words."""
        tokens = self._router.context_tokens(self._router.resolve(None))
        most = max(2_000, int(tokens * SHARE_OF_CONTEXT) * CHARS_PER_TOKEN)
        parts: list[str] = []
        left = text
        while left:
            end = len(left) if len(left) <= most else max(left.rfind(" ", 0, most), most // 2)
            parts.append(left[:end].strip())
            left = left[end:].strip()
        return parts

    async def _read(self, text: str, reading: "_Reading") -> Account:
        """One reading by the agent. Raises `RouteurError`."""
        request = RunRequest(
            agent=AGENT,
            messages=(Message("user", _question(text, reading.language)),),
            principal=reading.principal,
            request_id=reading.request_id,
            temperature=0.0,
            max_tokens=ANSWER_TOKENS,
            parameters=self._parameters(),
        )
        said: list[str] = []
        error: RouteurError | None = None
        async with aclosing(self._completion.stream(request)) as events:
            async for event in events:
                match event:
                    case Tokens(pieces=pieces):
                        said += pieces
                    case Failed(error=error):
                        pass
                    case Finished() as finished:
                        reading.written.calls += finished.report.calls
                    case _:
                        pass
        if error is not None:
            raise error
        return _account_of("".join(said))

    def _parameters(self) -> dict[str, Any]:
        """A schema, where the model knows any and is asked once: steps with tools have schemas of their own."""
        knows = self._router.resolve(None).capabilities.json_schema
        return {"response_format": _FORMAT} if knows and not self._agents.get_or_raise(AGENT).uses_tools else {}


def _question(text: str, language: str) -> str:
    return (
        f"Here is the transcript of a meeting, or a part of it. In {language}, give a summary of a few sentences, the "
        "decisions that were taken, and the actions that somebody is to do, with their owner and due date where they "
        "were said (null otherwise). Only what was said: leave lists empty rather than invent. Answer as JSON: "
        '{"summary": "…", "decisions": ["…"], "actions": [{"task": "…", "owner": null, "due": null}]}\n\n'
        f"<transcript>\n{text}\n</transcript>"
    )


def _account_of(said: str) -> Account:
    """What the agent said, read as JSON; a model that knows no schema may have put words around it."""
    begin, end = said.find("{"), said.rfind("}")
    try:
        return Account.model_validate(json.loads(said[begin : end + 1]))
    except (ValidationError, ValueError, RecursionError) as error:
        raise AgentFailed(f"agent {AGENT!r} gave no account that can be read; ask again, or a larger model") from error


def _joined(summary: str, accounts: Sequence[Account]) -> Account:
    return Account(
        summary=summary,
        decisions=list(dict.fromkeys(decision for account in accounts for decision in account.decisions)),
        actions=list({action.task: action for account in accounts for action in account.actions}.values()),
    )
