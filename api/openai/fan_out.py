"""One request, several choices: as many runs side by side, their events told apart by the choice they are of."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from domain.runs import RunEvent, RunRequest
from services.completion import CompletionService

WAITING_EVENTS = 16
"""How many events may wait for a slow client before the runs wait for it too."""


async def events_of_choices(
    completion: CompletionService, request: RunRequest, choices: int
) -> AsyncGenerator[tuple[int, RunEvent]]:
    """The events of every run with its choice's index; closing ends all of them."""
    if choices == 1:
        async with aclosing(completion.stream(request)) as events:
            async for event in events:
                yield 0, event
        return
    queue: asyncio.Queue[tuple[int, RunEvent | Exception | None]] = asyncio.Queue(WAITING_EVENTS)
    runs = [
        asyncio.create_task(_read(completion, _of_choice(request, index), index, queue), name=f"choice {index}")
        for index in range(choices)
    ]
    try:
        going = choices
        while going:
            index, come = await queue.get()
            if isinstance(come, Exception):
                raise come
            if come is None:
                going -= 1
            else:
                yield index, come
    finally:
        for run in runs:
            run.cancel()
        # Awaited: each run must be ended and counted before the answer is.
        await asyncio.gather(*runs, return_exceptions=True)


async def _read(
    completion: CompletionService,
    request: RunRequest,
    index: int,
    queue: asyncio.Queue[tuple[int, RunEvent | Exception | None]],
) -> None:
    end: Exception | None = None
    try:
        async with aclosing(completion.stream(request)) as events:
            async for event in events:
                await queue.put((index, event))
    except Exception as error:  # noqa: BLE001 - handed to the reader, who raises it
        end = error
    await queue.put((index, end))


def _of_choice(request: RunRequest, index: int) -> RunRequest:
    """With a seed, choices would all be the same: each has the next one."""
    seed = request.parameters.get("seed")
    if seed is None:
        return request
    return replace(request, parameters={**request.parameters, "seed": seed + index})
