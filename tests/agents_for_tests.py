"""What the agents of `graphs/` are tested with: models of three kinds, and a project's search without a database."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from config.catalogue import Capabilities, ModelEntry
from domain.documents import Passage, SearchFilter
from domain.messages import Message
from domain.principals import Principal
from domain.runs import Finished, Progress, RunEvent
from domain.usage import Call, TokenUsage
from tests.house_for_tests import CATALOGUE, House, ask, events_of
from tests.router_for_tests import entry
from tests.scripted_provider import ScriptedProvider, Step, chunk, finish, say

LARGE = "gpt-4o"
"""Calls tools."""
REASONING = "gpt-6-luna"
"""Fills schemas, calls no tools, and thinks before it answers."""
SMALL = "small"
"""Fills schemas, and no more."""
PLAIN = "plain"
"""Answers in text alone."""


def _entry(name: str, **capabilities: bool) -> ModelEntry:
    able = entry(name, provider="openai", capabilities=Capabilities(**capabilities))
    return able.model_copy(update={"window": able.context.model_copy(update={"tokens": 8_192})})


AGENTS_CATALOGUE = CATALOGUE.model_copy(
    update={
        "models": (
            *CATALOGUE.models,
            _entry(SMALL, json_schema=True),
            _entry(PLAIN),
        )
    }
)


def passage(number: int, text: str, **fields: Any) -> Passage:
    facts = {"title": f"Guide {number}", "headings": (), "page": None, "score": 0.5, **fields}
    return Passage(document_id=UUID(int=number), ordinal=0, text=text, start_char=0, end_char=len(text), **facts)


@dataclass
class FakeRetriever:
    """Gives these passages in turn, the last ones for ever; each search is counted as an embedding."""

    answers: list[list[Passage]]
    searches: list[tuple[SearchFilter, str, int]] = field(default_factory=list)

    async def search(
        self,
        filter: SearchFilter,  # noqa: A002 - as the real one's
        question: str,
        *,
        k: int,
        on_call: Callable[[Call], None],
    ) -> list[Passage]:
        self.searches.append((filter, question, k))
        on_call(Call("use-multilingual-v3", "local", TokenUsage(4, 0), False, "succeeded", 0.01))
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return found[:k]


class AnyProject:
    """Every project is the caller's."""

    async def open_filter(self, principal: Principal, project_id: str, sources: Sequence[str]) -> SearchFilter | None:
        return SearchFilter(project_id, tuple(UUID(source) for source in sources))


def fills(**fields: Any) -> list[Step]:
    """A model fills a schema."""
    return [*say(json.dumps(fields)), *finish()]


def answers_with(*pieces: str) -> list[Step]:
    """A model answers in text."""
    return [*say(*pieces), *finish()]


def calls_tools(*calls: tuple[str, str]) -> list[Step]:
    """A model calls tools, `(name, arguments)`, all at once; their ids are call_0, call_1..."""
    made = [
        {"index": at, "id": f"call_{at}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for at, (name, arguments) in enumerate(calls)
    ]
    first = chunk({"role": "assistant", "content": None, "tool_calls": made})
    return [first, *finish(reason="tool_calls")]


async def run_of(
    house: House, text: str, *, agent: str, model: str, history: Sequence[tuple[str, str]] = (), **fields: Any
) -> list[RunEvent]:
    """One run; `history` is what was said before, by role."""
    request = ask(agent, text, model=model, **fields)
    earlier = tuple(Message(role, said) for role, said in history)
    return await events_of(house, replace(request, messages=(*earlier, *request.messages)))


def end_of(events: list[RunEvent]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


def progress_of(events: list[RunEvent], kind: str) -> list[dict[str, Any]]:
    return [dict(event.content) for event in events if isinstance(event, Progress) and event.kind == kind]


def told(provider: ScriptedProvider, at: int = -1) -> list[dict[str, Any]]:
    """The messages of one request."""
    messages: list[dict[str, Any]] = provider.requests[at]["messages"]
    return messages


def contents(provider: ScriptedProvider, at: int = -1) -> str:
    return "\n".join(str(message.get("content")) for message in told(provider, at))
