"""SIGTERM and Ctrl-C: readiness fails first, open streams finish up to a bound, the rest are told and ended."""

import asyncio
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from api.deps import Services

logger = logging.getLogger("routeur.server")

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def draining_on_sigterm(services: Services) -> Iterator[None]:
    """While inside, SIGTERM makes `/ready` fail at once and is handed to the HTTP server after a notice.

    The notice (SHUTDOWN_NOTICE_S) gives load balancers the time to look; SHUTDOWN_GRACE_S after it, runs still going
    are ended with an event that says so. A second SIGTERM, and Ctrl-C, skip the notice.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    servers_own: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    ends: list[asyncio.TimerHandle] = []

    def end_all() -> None:
        services.completion.interrupt_all()
        services.studio.transcriptions.interrupt_all()

    def stop(number: int) -> None:
        ends.append(loop.call_later(services.settings.shutdown_grace_s, end_all))
        if callable(servers_own[number]):
            servers_own[number](number, None)

    def drain(number: int) -> None:
        skips_notice = services.draining or number == signal.SIGINT
        notice_s = 0.0 if skips_notice else services.settings.shutdown_notice_s
        logger.info("draining", extra={"runs": services.completion.running, "notice_s": notice_s})
        services.draining = True
        ends.append(loop.call_later(notice_s, stop, number))

    def on_signal(number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(drain, number)

    for number in SIGNALS:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for end in ends:
            end.cancel()
        for number in SIGNALS:
            signal.signal(number, servers_own[number])
