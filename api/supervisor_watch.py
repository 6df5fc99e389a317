"""A worker process ends with the supervisor that started it, however that one ended."""

import asyncio
import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger("routeur.server")


@contextmanager
def ending_with_supervisor() -> Iterator[None]:
    """While inside, the supervisor's death is this worker's SIGTERM: without it the port would stay taken for ever.

    A kill -9 of the supervisor reaches no worker; its end of a pipe between the two closes all the same.
    """
    supervisor = multiprocessing.parent_process()
    if supervisor is None:
        yield
        return
    loop = asyncio.get_running_loop()
    sentinel = supervisor.sentinel

    def end() -> None:
        loop.remove_reader(sentinel)
        logger.error("supervisor ended", extra={"supervisor_pid": supervisor.pid})
        os.kill(os.getpid(), signal.SIGTERM)

    loop.add_reader(sentinel, end)
    try:
        yield
    finally:
        loop.remove_reader(sentinel)
