"""Answers that a former version stored with the error of the run that they failed in do not win over the next one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import StateGraph
from langgraph.types import Command, interrupt

from domain.errors import ThreadAnswered
from services.thread_saver import ThreadSaver
from services.thread_turn import Turn
from tests.house_for_tests import failure_of, finish_of, text_of
from tests.postgres_for_tests import _made_cluster, database_url, postgres, tmp_path
from tests.scripted_provider import Step
from tests.services.test_thread_answers import (
    PAID,
    REFUSED,
    State,
    a_graph,
    answer,
    asks_at_once,
    asks_twice,
    ids_of,
    pays,
    pays_within,
    waiting,
)
from tests.services.test_thread_answers_elsewhere import one_a_task
from tests.services.test_threads import count, refusal, server, turn

__all__ = ["_made_cluster", "database_url", "postgres", "tmp_path"]  # Fixtures.

STORED = "checkpoint_writes WHERE channel = '__resume__'"


@contextmanager
def former_version() -> Iterator[None]:
    """Runs store what LangGraph writes as it is, and one answer goes to whatever asks."""

    def command(turn: Turn) -> Command[Any]:
        answers = dict(turn.answers)
        return Command(resume=next(iter(answers.values())) if len(answers) == 1 else answers)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("aput_writes", "_load_checkpoint_tuple", "_load_writes"):
            patch.setattr(ThreadSaver, name, getattr(AsyncPostgresSaver, name))
        patch.setattr(Turn, "command", property(command))
        yield


def pays_in_a_graph_that_remembers(llm: Any) -> StateGraph[Any]:
    return a_graph(outer=pays(llm).compile(checkpointer=True))


@pytest.mark.parametrize("create", [pays, pays_within, pays_in_a_graph_that_remembers])
async def test_the_answer_of_a_run_that_failed_formerly_is_not_used(
    database_url: str, tmp_path: Path, create: Any
) -> None:
    async with server(database_url, tmp_path, REFUSED, REFUSED, PAID, agents={"mine": create}) as (house, _, threads):
        with former_version():
            await turn(house, "Pay.", agent="mine")
            assert failure_of(await answer(house, True)) is not None
        assert await count(threads, STORED) > 0
        assert await waiting(house) == ["Pay 900 EUR?"]
        assert failure_of(await answer(house, "perhaps")) is not None
        assert text_of(await answer(house, False)) == "NOT PAID False"
        assert "answered already" in await refusal(house, ThreadAnswered, "", agent="mine", resume=True)


async def test_answers_that_were_taken_formerly_stay(database_url: str, tmp_path: Path) -> None:
    async with server(database_url, tmp_path, REFUSED, PAID, agents={"mine": asks_twice}) as (house, _, _):
        with former_version():
            await turn(house, "Hi", agent="mine")
            await answer(house, "a")
            assert failure_of(await answer(house, "b")) is not None
        assert await waiting(house) == ["second"]
        assert text_of(await answer(house, "c")) == "a c"


async def test_an_answer_to_the_first_question_that_failed_with_the_second_is_not_used(
    database_url: str, tmp_path: Path
) -> None:
    """The former version gave the answer of the failed run to the first question, and the next one to the second."""

    def create(llm: Any) -> StateGraph[Any]:
        async def ask(_: State) -> dict[str, Any]:
            first = interrupt("first")
            await llm.with_config(tags=["nostream"]).ainvoke("Write it down.")
            second = interrupt("second")
            await llm.with_config(tags=["nostream"]).ainvoke("Write it down.")
            return {"messages": [AIMessage(f"{first} {second}")]}

        return a_graph(ask=ask)

    script = [REFUSED, PAID, REFUSED, PAID, PAID, PAID]
    async with server(database_url, tmp_path, *script, agents={"mine": create}) as (house, _, _):
        with former_version():
            await turn(house, "Hi", agent="mine")
            await answer(house, "a")
            await answer(house, "b")
        assert await waiting(house) == ["first"]
        assert [one.value for one in finish_of(await answer(house, "c")).interrupts] == ["second"]
        assert text_of(await answer(house, "d")) == "c d"


@pytest.mark.parametrize(
    ("create", "failing", "script"), [(asks_at_once, "right", [REFUSED, PAID]), (one_a_task, "b", [REFUSED])]
)
async def test_of_several_tasks_the_failed_one_waits_for_its_answer(
    database_url: str, tmp_path: Path, create: Any, failing: str, script: list[list[Step]]
) -> None:
    async with server(database_url, tmp_path, *script, agents={"mine": create}) as (house, _, _):
        with former_version():
            ids = ids_of(await turn(house, "Hi", agent="mine"))
            others = {ids[name]: 1 for name in ids if name != failing}
            await answer(house, {**others, ids[failing]: "fail"})
        assert failing in await waiting(house)
        pending = set(await waiting(house))
        text = text_of(await answer(house, {ids[name]: 1 if name != failing else 3 for name in pending}))
        assert f"{failing} 3" in text
        assert "fail" not in text


async def test_a_question_within_keeps_the_earlier_answer_of_the_node_around_it(
    database_url: str, tmp_path: Path
) -> None:
    def create(llm: Any) -> StateGraph[Any]:
        within = pays(llm).compile()

        async def ask(_: State) -> dict[str, Any]:
            first = interrupt("first")
            if first == "fail":
                raise ValueError
            last = (await within.ainvoke({"messages": []}))["messages"][-1].text
            return {"messages": [AIMessage(f"{first} {last}")]}

        return a_graph(ask=ask)

    async with server(database_url, tmp_path, REFUSED, PAID, agents={"mine": create}) as (house, _, _):
        await turn(house, "Hi", agent="mine")
        assert failure_of(await answer(house, "fail")) is not None
        await answer(house, "a")
        assert await waiting(house) == ["Pay 900 EUR?"]
        assert failure_of(await answer(house, True)) is not None
        assert text_of(await answer(house, False)) == "a NOT PAID False"
