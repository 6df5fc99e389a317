"""Threads: the server keeps a conversation for its owner, one run at a time, over failures and restarts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypedDict
from uuid import UUID, uuid4

import pytest
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt

from core.database import Database
from domain.errors import (
    BadRequest,
    Conflict,
    DatabaseUnavailable,
    NotFound,
    RouteurError,
    ThreadAnswered,
    ThreadBusy,
    ThreadWaits,
)
from domain.messages import Message
from domain.runs import RunEvent, Started, Tokens
from services import threads as threads_module
from services.thread_state import ThreadState, read_thread_state
from services.threads import Lease, Threads
from tests.house_for_tests import House, ask, events_of, failure_of, finish_of, open_house, text_of, until
from tests.postgres_for_tests import (
    WAIT_S,
    Door,
    _made_cluster,
    database_url,
    door,
    postgres,
    settings_for,
    tmp_path,
)
from tests.scripted_provider import Cut, ScriptedProvider, Stall, Step, finish, say, scripted_provider

__all__ = ["_made_cluster", "database_url", "door", "postgres", "tmp_path"]  # Fixtures.

OUI: list[Step] = [*say("Oui"), *finish()]


@asynccontextmanager
async def keeping(url: str, folder: Path, **settings: Any) -> AsyncIterator[Threads]:
    """The threads of one server process."""
    chosen = settings_for(folder, url, **settings)
    database = Database(chosen)
    threads = Threads(database, chosen)
    await database.open()
    await threads.start()
    try:
        assert await database.wait_ready(WAIT_S)
        yield threads
    finally:
        await threads.stop()
        await database.close()


@asynccontextmanager
async def server(
    url: str, folder: Path, *scripts: list[Step], settings: dict[str, Any] | None = None, **house: Any
) -> AsyncIterator[tuple[House, ScriptedProvider, Threads]]:
    async with (
        scripted_provider(*scripts) as provider,
        keeping(url, folder, **(settings or {})) as threads,
        open_house(provider, threads=threads, **house) as opened,
    ):
        yield opened, provider, threads


async def state_of(house: House, thread: str, agent: str) -> ThreadState:
    """What the tester's thread holds and waits for."""
    threads = house.service._threads
    assert threads is not None
    key = (await threads.get_or_raise(thread, "tester")).key
    return await read_thread_state(house.service._agents.get_or_raise(agent), key)


async def turn(house: House, text: str = "Hi", thread: str = "t", **fields: Any) -> list[RunEvent]:
    return await events_of(house, ask(fields.pop("agent", "echo"), text, thread_id=thread, **fields))


async def refusal(house: House, kind: type[RouteurError], text: str = "Hi", thread: str = "t", **fields: Any) -> str:
    with pytest.raises(kind) as refused:
        await turn(house, text, thread, **fields)
    return refused.value.message


def asked(provider: ScriptedProvider) -> list[list[str]]:
    """What each request told the model."""
    return [[message["content"] for message in request["messages"]] for request in provider.requests]


async def count(threads: Threads, table: str) -> int:
    async with threads._database.pool.connection() as connection:
        row = await (await connection.execute(f"SELECT count(*) AS n FROM {table}")).fetchone()  # noqa: S608
    assert row is not None
    return int(row["n"])


# The conversation


async def test_a_thread_remembers_what_was_said(database_url: str, tmp_path: Path) -> None:
    second: list[Step] = [*say("Ada"), *finish()]
    async with server(database_url, tmp_path, OUI, second) as (house, provider, _):
        await turn(house, "Je suis Ada.")
        assert text_of(await turn(house, "Qui suis-je ?")) == "Ada"
    assert asked(provider) == [["Je suis Ada."], ["Je suis Ada.", "Oui", "Qui suis-je ?"]]


async def test_threads_are_apart_and_a_run_without_one_remembers_nothing(database_url: str, tmp_path: Path) -> None:
    async with server(database_url, tmp_path, OUI, OUI, OUI) as (house, provider, threads):
        await turn(house, "un", "a")
        await turn(house, "deux", "b")
        await events_of(house, ask("echo", "trois"))
        assert await count(threads, "threads") == 2
    assert asked(provider) == [["un"], ["deux"], ["trois"]]


async def test_a_thread_outlives_its_server(database_url: str, tmp_path: Path) -> None:
    async with server(database_url, tmp_path, OUI) as (house, _, _):
        await turn(house, "un")
    async with server(database_url, tmp_path, OUI) as (house, provider, _):
        await turn(house, "deux")
    assert asked(provider) == [["un", "Oui", "deux"]]


async def test_history_begins_a_thread_and_is_refused_later(database_url: str, tmp_path: Path) -> None:
    with_history = (Message("user", "un"), Message("assistant", "deux"), Message("user", "trois"))
    async with server(database_url, tmp_path, OUI) as (house, provider, _):
        first = ask("echo", thread_id="t")
        object.__setattr__(first, "messages", with_history)
        assert failure_of(await events_of(house, first)) is None
        error = failure_of(await events_of(house, first))
        assert isinstance(error, Conflict)
        assert "conversation_history" in error.message
    assert asked(provider) == [["un", "deux", "trois"]]


async def test_a_failed_turn_leaves_the_thread_usable(database_url: str, tmp_path: Path) -> None:
    async with server(database_url, tmp_path, [*say("Ou"), Cut()], OUI) as (house, provider, threads):
        assert failure_of(await turn(house, "un")) is not None
        assert failure_of(await turn(house, "deux")) is None
        assert (await threads.get_or_raise("t", "tester")).turns == 1
    assert asked(provider)[1] == ["un", "deux"]


async def test_old_checkpoints_go_and_the_conversation_stays(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads_module, "PRUNE_EVERY", 3)
    async with server(database_url, tmp_path, *[OUI] * 4) as (house, provider, threads):
        for number in range(3):
            await turn(house, str(number))
        while threads._background:
            await asyncio.gather(*threads._background)
        assert await count(threads, "checkpoints") == 1
        await turn(house, "3")
    assert asked(provider)[3] == ["0", "Oui", "1", "Oui", "2", "Oui", "3"]


# Its agent, and its end


async def test_a_thread_keeps_to_its_agent(database_url: str, tmp_path: Path) -> None:
    async with server(database_url, tmp_path, OUI, agents={"other": one_that_asks}) as (house, _, _):
        await turn(house)
        assert "'echo'" in await refusal(house, Conflict, agent="other")


async def test_deleting_a_thread_leaves_nothing_of_it(database_url: str, tmp_path: Path) -> None:
    async with server(database_url, tmp_path, OUI, OUI) as (house, provider, threads):
        await turn(house, "un")
        await threads.delete("t", "tester")
        for table in ("threads", "checkpoints", "checkpoint_blobs", "checkpoint_writes"):
            assert await count(threads, table) == 0
        await turn(house, "deux")
    assert asked(provider)[1] == ["deux"]


async def test_what_nobody_has_used_for_long_is_forgotten(database_url: str, tmp_path: Path) -> None:
    async with server(database_url, tmp_path, OUI, OUI) as (house, _, threads):
        await turn(house, thread="old")
        await turn(house, thread="new")
        async with threads._database.pool.connection() as connection:
            await connection.execute("UPDATE threads SET used_at = now() - interval '91 days' WHERE name = 'old'")
        assert await threads.forget_unused() == 1
        with pytest.raises(NotFound):
            await threads.get_or_raise("old", "tester")
        assert (await threads.get_or_raise("new", "tester")).turns == 1


# One run at a time


async def test_a_second_run_is_refused_while_the_first_goes_on(database_url: str, tmp_path: Path) -> None:
    async with server(database_url, tmp_path, [*say("Ou"), Stall()], OUI) as (house, _, threads):
        running = house.service.stream(ask("echo", "un", thread_id="t"))
        async with asyncio.timeout(WAIT_S):
            assert [type(await anext(running)) for _ in range(2)] == [Started, Tokens]
        assert "another run" in await refusal(house, ThreadBusy, "deux")
        with pytest.raises(ThreadBusy):
            await threads.delete("t", "tester")
        await running.aclose()
        assert failure_of(await turn(house, "deux")) is None


async def test_runs_that_wait_for_each_other_never_mix(database_url: str, tmp_path: Path) -> None:
    async with (
        scripted_provider(compose=lambda body: [*say(body["messages"][-1]["content"]), *finish()]) as provider,
        keeping(database_url, tmp_path / "a", thread_busy="wait") as one,
        keeping(database_url, tmp_path / "b", thread_busy="wait") as other,
        open_house(provider, threads=one) as first,
        open_house(provider, threads=other) as second,
    ):
        texts = [f"n{number}" for number in range(12)]
        houses = [first, second] * 6
        answers = await asyncio.gather(*(turn(h, text) for h, text in zip(houses, texts, strict=True)))
        assert [text_of(events) for events in answers] == texts
        said = [message.text for message in (await state_of(first, "t", "echo")).messages]
    assert sorted(said[::2]) == sorted(texts)
    assert said[::2] == said[1::2], "each question is followed by its own answer"
    assert all(len(messages) == 2 * number + 1 for number, messages in enumerate(asked(provider)))


async def test_a_dead_servers_hold_runs_out(database_url: str, tmp_path: Path) -> None:
    async with server(database_url, tmp_path, OUI) as (house, _, threads):
        lease = await threads.take("t", owner="tester", agent="echo", run_id=uuid4(), resumes=False)
        threads._leases.clear()
        await refusal(house, ThreadBusy)
        await expire(threads, lease.run_id)
        assert failure_of(await turn(house)) is None


async def test_a_run_that_lost_its_thread_is_ended_and_writes_no_more(database_url: str, tmp_path: Path) -> None:
    async with server(database_url, tmp_path, [*say("Ou"), Stall()]) as (house, provider, threads):
        running = asyncio.create_task(turn(house))
        await until(lambda: provider.answering == 1)
        await expire(threads, next(iter(threads._leases)))
        thief = await threads.take("t", owner="tester", agent="echo", run_id=uuid4(), resumes=False)
        await threads._renew()
        assert isinstance(failure_of(await running), ThreadBusy)
        # The thief's hold is not let go by the loser.
        assert (await threads.get_or_raise("t", "tester")).busy
        await threads.release(thief, "failed")


async def test_a_run_that_lost_its_thread_before_it_began_asks_nobody(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with server(database_url, tmp_path) as (house, provider, threads):
        take = threads.take

        async def take_and_lose(name: str, **asked: Any) -> Lease:
            lease = await take(name, **asked)
            await expire(threads, lease.run_id)
            await take(name, **{**asked, "run_id": uuid4()})
            await threads._renew()
            return lease

        monkeypatch.setattr(threads, "take", take_and_lose)
        assert isinstance(failure_of(await turn(house)), ThreadBusy)
    assert asked(provider) == []


async def expire(threads: Threads, run_id: UUID) -> None:
    async with threads._database.pool.connection() as connection:
        await connection.execute("UPDATE threads SET leased_until = now() - interval '1s' WHERE run_id = %s", (run_id,))


# Asking before going on


class Draft(TypedDict):
    messages: Annotated[list[Any], add_messages]


def one_that_asks(llm: Any) -> StateGraph[Any]:
    """Asks whether to send, then says what it was told."""

    def ask_first(_: Draft) -> dict[str, Any]:
        return {"messages": [AIMessage(f"Reçu : {interrupt({'question': 'Envoyer ?'})}")]}

    graph: StateGraph[Any] = StateGraph(Draft)
    graph.add_node("ask", ask_first)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", END)
    return graph


async def test_a_graph_that_asks_ends_its_run_and_goes_on_after_a_restart(database_url: str, tmp_path: Path) -> None:
    agents = {"asks": one_that_asks}
    async with server(database_url, tmp_path, agents=agents) as (house, _, _):
        events = await turn(house, "Écris.", agent="asks")
        asked_for = finish_of(events).interrupts
        assert [one.value for one in asked_for] == [{"question": "Envoyer ?"}]
        assert (text_of(events), failure_of(events)) == ("", None)
        assert house.ledger.rows[-1].status == "interrupted"
        assert "resume" in await refusal(house, ThreadWaits, "autre chose", agent="asks")
    async with server(database_url, tmp_path, agents=agents) as (house, _, _):
        events = await turn(house, "", agent="asks", resume="oui")
        assert (text_of(events), finish_of(events).interrupts) == ("Reçu : oui", ())
        assert "answered already" in await refusal(house, ThreadAnswered, "", agent="asks", resume="oui")


async def test_only_a_thread_can_be_resumed_or_asked_from(database_url: str, tmp_path: Path) -> None:
    async with server(database_url, tmp_path, agents={"asks": one_that_asks}) as (house, _, _):
        await refusal(house, NotFound, "", thread="new", agent="asks", resume=1)
        with pytest.raises(BadRequest, match="thread_id"):
            await events_of(house, ask("asks", "", resume=1))
        error = failure_of(await events_of(house, ask("asks", "Écris.")))
        assert isinstance(error, BadRequest)
        assert "thread_id" in error.message
        with pytest.raises(BadRequest, match="name an agent"):
            await events_of(house, ask(None, thread_id="t"))


# The database


async def test_without_the_database_threads_are_refused_and_other_runs_go_on(tmp_path: Path, door: Door) -> None:
    await door.open()
    async with server(door.url, tmp_path, OUI, OUI, OUI) as (house, _, _):
        await turn(house)
        await door.shut()
        assert "conversation_history" in await refusal(house, DatabaseUnavailable, "deux")
        assert failure_of(await events_of(house, ask("echo"))) is None
        await door.open()
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    events = await turn(house, "trois")
                except DatabaseUnavailable:
                    await asyncio.sleep(0.1)
                else:
                    break
        assert failure_of(events) is None


async def test_a_thread_in_use_is_neither_deleted_nor_forgotten(database_url: str, tmp_path: Path) -> None:
    async with server(database_url, tmp_path, OUI) as (house, _, threads):
        await turn(house)
        lease = await threads.take("t", owner="tester", agent="echo", run_id=uuid4(), resumes=False)
        async with threads._database.pool.connection() as connection:
            await connection.execute("UPDATE threads SET used_at = now() - interval '91 days'")
        assert await threads.forget_unused() == 0
        with pytest.raises(ThreadBusy):
            await threads.delete("t", "tester")
        await threads.release(lease, "succeeded")
        assert await threads.forget_unused() == 0, "it has just been used"
        await threads.delete("t", "tester")


async def test_a_run_that_is_cancelled_as_it_takes_its_thread_does_not_keep_it(
    database_url: str, tmp_path: Path
) -> None:
    async with server(database_url, tmp_path, OUI) as (house, _, threads):
        taking = asyncio.create_task(threads.take("t", owner="tester", agent="echo", run_id=uuid4(), resumes=False))
        await asyncio.sleep(0)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        while threads._background:
            await asyncio.gather(*threads._background)
        assert failure_of(await turn(house)) is None
