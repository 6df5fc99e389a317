"""Whatever an agent's code raises ends its run, and nothing else: the server serves on."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from domain.errors import AgentFailed
from services.agent_guard import AgentExited, make_ready_for_agents
from services.run_context import RunContext, current_run
from tests.house_for_tests import ask, assert_grammar, events_of, failure_of, house_of, one_node, the_row


@pytest.fixture(autouse=True)
async def _guarded() -> AsyncIterator[None]:
    """As the server's own loop."""
    loop = asyncio.get_running_loop()
    make_ready_for_agents(loop)
    yield
    loop.set_task_factory(None)


class OwnBaseException(BaseException):
    pass


def raising(error: BaseException, *, in_thread: bool) -> Callable[[Any], Any]:
    def raise_it(_: Any) -> Any:
        raise error

    async def raise_it_async(_: Any) -> Any:
        await asyncio.sleep(0)
        raise error

    return lambda _: raise_it if in_thread else raise_it_async


@pytest.mark.parametrize("in_thread", [True, False], ids=["a plain node", "an async node"])
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), OwnBaseException("b")], ids=repr)
async def test_what_an_agent_raises_ends_its_run_alone(error: BaseException, in_thread: bool) -> None:
    agents = {"mine": one_node(raising(error, in_thread=in_thread))}
    async with house_of(agents=agents) as (house, _):
        events = await events_of(house, ask("mine"))
        assert_grammar(events)
        assert isinstance(failure_of(events), AgentFailed)
        assert the_row(house).status == "failed"


async def test_a_tool_that_exits_in_a_task_of_its_own_ends_the_run_alone() -> None:
    async def leave() -> None:
        sys.exit(2)

    def node(_: Any) -> Any:
        async def answer(_: Any) -> Any:
            await asyncio.gather(leave(), asyncio.sleep(0))

        return answer

    async with house_of(agents={"mine": one_node(node)}) as (house, _):
        assert isinstance(failure_of(await events_of(house, ask("mine"))), AgentFailed)


async def test_a_guarded_task_is_as_any_other_task() -> None:
    async def work() -> str:
        await asyncio.sleep(0)
        return "done"

    current_run.set(RunContext(model="m"))
    task = asyncio.create_task(work(), name="a name")
    assert await task == "done"
    assert task.get_name() == "a name"
    cancelled = asyncio.create_task(work())
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    with pytest.raises(AgentExited, match="SystemExit"):
        await asyncio.create_task(_exit())


async def _exit() -> None:
    sys.exit()


async def test_nodes_in_threads_wait_for_no_free_one_where_there_are_many() -> None:
    """As many as this hold up a pool of asyncio's own size, while all wait for the last one."""
    together = threading.Barrier(40)

    def meet(_: Any) -> dict[str, Any]:
        together.wait(timeout=20)
        return {}

    async with house_of(agents={"mine": one_node(lambda _: meet)}) as (house, _):
        runs = [events_of(house, ask("mine", "Hi")) for _ in range(together.parties)]
        assert [failure_of(events) for events in await asyncio.gather(*runs)] == [None] * together.parties
