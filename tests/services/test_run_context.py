"""What a run shows and finds, also from threads and from event loops of its nodes' own."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from domain.documents import Passage, SearchFilter
from domain.runs import Progress
from services.retrieval import Retrieve
from services.run_context import RunContext
from tests.house_for_tests import a_run

WAIT_S = 30


def on_a_loop(show: Callable[[], None]) -> None:
    async def shown() -> None:
        show()

    asyncio.run(shown())


def in_a_thread(show: Callable[[], None]) -> None:
    show()


@pytest.mark.parametrize("where", [on_a_loop, in_a_thread])
async def test_a_reader_that_waits_is_woken_on_its_own_loop(where: Callable[[Callable[[], None]], None]) -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)  # It refuses callbacks from other threads, instead of leaving them lie.
    async with a_run(shows_progress=True) as run, asyncio.timeout(WAIT_S):
        reader = asyncio.create_task(run.queue.drain())
        await asyncio.sleep(0)
        assert run.queue._reader is not None
        await asyncio.to_thread(where, lambda: run.show("node", {"node": "mine"}))
        assert await reader == [Progress("node", {"node": "mine"})]


class OnePassage:
    """Finds the same passage whatever it is asked, and notes where it runs."""

    def __init__(self) -> None:
        self.passage = Passage(uuid4(), "Title", 0, "text", (), None, 0, 4, 1.0)
        self.loops: set[asyncio.AbstractEventLoop] = set()

    async def search(self, project: SearchFilter, question: str, **_: Any) -> list[Passage]:
        self.loops.add(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return [self.passage]


async def test_searches_on_loops_of_nodes_own_note_a_passage_once() -> None:
    retriever = OnePassage()
    retrieve = Retrieve(retriever)  # type: ignore[arg-type]
    project = SearchFilter("p")
    async with a_run(project=project, shows_progress=True) as run:
        searches = [asyncio.to_thread(lambda: asyncio.run(retrieve("Where?"))) for _ in range(4)]
        found = await asyncio.gather(*searches)
        assert found == [[retriever.passage]] * 4
        assert (run.passages, retriever.loops) == ([retriever.passage], {run.loop})
        assert len(shown_by(run)) == 4


def shown_by(run: RunContext) -> list[Progress]:
    return [item for item in run.queue._items if isinstance(item, Progress)]
