"""The scripted provider for servers that outlive a test: in a thread of its own, with new scripts for each test."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.scripted_provider import ScriptedProvider, Step, scripted_provider

WAIT_S = 30.0


@contextmanager
def provider_in_thread() -> Iterator[ScriptedProvider]:
    """A provider with no script yet; see `play`."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="scripted provider", daemon=True)
    thread.start()
    serving = scripted_provider()
    try:
        yield asyncio.run_coroutine_threadsafe(serving.__aenter__(), loop).result(WAIT_S)
        asyncio.run_coroutine_threadsafe(serving.__aexit__(None, None, None), loop).result(WAIT_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT_S)
        loop.close()


def play(provider: ScriptedProvider, *scripts: Sequence[Step]) -> None:
    """The scripts of the next requests, in order."""
    provider.scripts.extend(list(script) for script in scripts)


def forget(provider: ScriptedProvider) -> None:
    """Begin a test with nothing of the former one."""
    provider.scripts.clear()
    provider.requests.clear()
    provider.complaints.clear()
    provider.left_early = asyncio.Event()


def check_all_was_asked(provider: ScriptedProvider) -> None:
    """End a test: no request was ill-formed, no script is left."""
    complaints, left = list(provider.complaints), len(provider.scripts)
    forget(provider)
    assert not complaints, complaints
    assert not left, f"{left} scripts were never asked for"
