"""How a job goes on, as server-sent events: whatever shows it is looked at until the job ends, or the server does."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.types import Send

from api.deps import Services
from api.json_response import encoded
from api.run_response import EventStream
from domain.errors import DatabaseUnavailable, NotFound

LOOK_S = 0.5
"""How often it is looked at: the job may run in any process."""

Shown = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Followed:
    """What is looked at: how it is shown now, with its `status`; `ended` are those after which nothing follows.

    `look` raises `NotFound` once it is deleted, and `gone` is then shown.
    """

    look: Callable[[], Awaitable[Shown]]
    ended: frozenset[str]
    gone: Shown


class Following(EventStream):
    """`progress` as often as something changes, then the status it ended with, or `deleted`."""

    def __init__(self, services: Services, followed: Followed, first: Shown) -> None:
        super().__init__(services.settings.sse_ping_s)
        self._services = services
        self._followed = followed
        self._now = first

    async def _pump(self, send: Send) -> None:
        told: Shown | None = None
        while not self._services.draining:
            if self._now["status"] in self._followed.ended:
                await self._send(send, event(self._now["status"], self._now))
                return
            if self._now != told:
                await self._send(send, event("progress", self._now))
                told = self._now
            await asyncio.sleep(LOOK_S)
            try:
                self._now = await self._followed.look()
            except NotFound:
                await self._send(send, event("deleted", self._followed.gone))
                return
            except DatabaseUnavailable:
                continue  # There is nothing new to tell, and no reason to leave.


def event(kind: str, content: Shown) -> bytes:
    """One event of a stream."""
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), encoded(content))
