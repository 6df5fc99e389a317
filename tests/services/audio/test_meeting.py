"""A meeting's account: written by V2 from the transcript, in its language, and never at the transcript's expense."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from domain.principals import Principal
from domain.transcripts import Transcript
from graphs.v2_graph import create_v2_graph
from services.agent_registry import AgentOptions
from services.audio.meeting import MeetingWriter
from tests.house_for_tests import House, open_house
from tests.scripted_provider import ScriptedProvider, Status, finish, say, scripted_provider

ALICE = Principal("alice")
ACCOUNT = {
    "summary": "L'équipe livre le trois mars.",
    "decisions": ["Livrer le trois mars"],
    "actions": [{"task": "Prévenir le client", "owner": "Ada", "due": "lundi"}],
}


def transcript(
    text: str = "Nous livrons le trois mars. Ada prévient le client lundi.", language: str = "fr"
) -> Transcript:
    return Transcript(text, language, 60.0, "whisper-1", None)


class NoRetrieval:
    has_project = False


@asynccontextmanager
async def writer(provider: ScriptedProvider) -> AsyncIterator[tuple[MeetingWriter, House]]:
    agents = {"V2": create_v2_graph}
    async with open_house(provider, agents, options=AgentOptions(tools=()), retrieve=NoRetrieval(), tools=()) as house:
        yield MeetingWriter(house.service, house.router, house.service._agents), house


@asynccontextmanager
async def answering(*answers: str) -> AsyncIterator[tuple[MeetingWriter, House, ScriptedProvider]]:
    scripts = [[*say(answer), *finish(200, 40)] for answer in answers]
    async with scripted_provider(*scripts) as provider, writer(provider) as (minutes, house):
        yield minutes, house, provider


async def test_the_account_is_written_by_v2_in_the_recordings_language() -> None:
    async with answering(json.dumps(ACCOUNT)) as (minutes, house, provider):
        written = await minutes.write(transcript(), ALICE, "req-1")
    assert written.as_json() == {**ACCOUNT, "error": None}
    (asked,) = provider.requests
    assert "In French" in asked["messages"][-1]["content"]
    assert "Nous livrons le trois mars." in asked["messages"][-1]["content"]
    assert asked["response_format"]["json_schema"]["name"] == "meeting"
    (row,) = house.ledger.rows
    assert (row.agent, row.subject, row.request_id, row.input_tokens) == ("V2", "alice", "req-1", 200)
    assert [call.usage.input_tokens for call in written.calls] == [200], "it counts beside the transcription's calls"


async def test_words_around_the_json_do_no_harm() -> None:
    async with answering(f"Voici :\n```json\n{json.dumps(ACCOUNT)}\n```") as (minutes, _, _):
        written = await minutes.write(transcript(), ALICE, "r")
    assert written.as_json()["summary"] == ACCOUNT["summary"]


@pytest.mark.parametrize(
    "answer",
    ["Je ne sais pas.", '{"decisions": []}', "[1, 2]", '{"summary": 5}', '{"summary": ' + "[" * 3000],
    ids=["words", "no summary", "a list", "a number", "thousands of brackets"],
)
async def test_an_answer_that_is_no_account_is_told_and_no_more(answer: str) -> None:
    async with answering(answer) as (minutes, _, _):
        written = await minutes.write(transcript(), ALICE, "r")
    account = written.as_json()
    assert (account["summary"], account["decisions"], account["actions"]) == (None, [], [])
    assert "could not be written" in account["error"]
    assert len(written.calls) == 1, "it was paid for all the same"


async def test_a_model_that_is_down_costs_the_account_and_not_the_transcript() -> None:
    async with scripted_provider([Status(400)]) as provider, writer(provider) as (minutes, _):
        written = await minutes.write(transcript(), ALICE, "r")
    assert "could not be written" in written.as_json()["error"]


async def test_of_silence_there_is_no_account() -> None:
    async with scripted_provider() as provider, writer(provider) as (minutes, _):
        written = await minutes.write(transcript(text=""), ALICE, "r")
    assert written.as_json()["error"] == "nothing was said that could be summed up"


async def test_summaries_that_are_too_long_together_are_summed_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [{**ACCOUNT, "summary": f"Partie {number} " + "x" * 4_000} for number in range(4)]
    again = [{**ACCOUNT, "summary": f"Moitié {number}"} for number in range(2)]
    whole = {**ACCOUNT, "summary": "Tout."}
    text = " ".join(f"mot{number}" for number in range(4_400))
    async with answering(*(json.dumps(each) for each in (*parts, *again, whole))) as (minutes, house, provider):
        monkeypatch.setattr(type(house.router), "context_tokens", lambda self, model: 6_000)
        written = await minutes.write(transcript(text), ALICE, "r")
    assert written.as_json()["summary"] == "Tout."
    assert "Partie 3" in provider.requests[5]["messages"][-1]["content"], "the end was read as well"
    assert len(provider.requests) == 7


async def test_a_transcript_longer_than_the_model_reads_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [
        {**ACCOUNT, "summary": f"Partie {number}", "decisions": [f"Décision {number}", "Commune"]} for number in (1, 2)
    ]
    whole = {"summary": "Tout.", "decisions": ["inventée"], "actions": []}
    text = " ".join(f"mot{number}" for number in range(1800))
    async with answering(*(json.dumps(answer) for answer in (*parts, whole))) as (minutes, house, provider):
        monkeypatch.setattr(type(house.router), "context_tokens", lambda self, model: 6_000)
        written = await minutes.write(transcript(text), ALICE, "r")
    first, second, last = [asked["messages"][-1]["content"] for asked in provider.requests]
    assert "mot0 " in first
    assert "mot1799" in second
    assert "mot1799" not in first
    assert "Partie 1\n\nPartie 2" in last
    account = written.as_json()
    assert account["summary"] == "Tout."
    assert account["decisions"] == ["Décision 1", "Commune", "Décision 2"], "those of the parts, each once"
    assert [action["task"] for action in account["actions"]] == ["Prévenir le client"]
