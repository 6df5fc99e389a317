"""Names that callers give are looked up apart: a domain that never answers holds nothing up but its own fetch."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator

import pytest
import uvloop

from core import name_lookup
from core.name_lookup import NameLookup

GENEROUS_S = 20.0


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A name server that takes every question and answers none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run], ids=["uvloop", "asyncio"])
def test_domains_that_never_answer_end_in_seconds_and_hold_no_other_lookup_up(
    silent_server: str, run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(name_lookup, "LOOKUP_TIMEOUT_S", 1.5)

    async def scenario() -> None:
        lookup = NameLookup([silent_server])
        silent = [asyncio.ensure_future(lookup.addresses(f"a{n}.example.org", 443)) for n in range(40)]
        await asyncio.sleep(0.05)
        # What providers' names are resolved by, which has four threads; and another name of a caller's.
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(1.0):
            assert await loop.getaddrinfo("localhost", 443)
            assert "127.0.0.1" in await lookup.addresses("localhost", 443)
        assert not any(each.done() for each in silent)
        started = time.monotonic()
        failures = await asyncio.gather(*silent, return_exceptions=True)
        assert time.monotonic() - started < GENEROUS_S
        assert all(isinstance(failure, OSError) for failure in failures)
        await lookup.close()

    run(scenario())


def test_lookups_that_wait_for_room_end_in_time_too(silent_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_lookup, "LOOKUP_TIMEOUT_S", 0.3)
    monkeypatch.setattr(name_lookup, "LOOKUPS_AT_ONCE", 2)

    async def scenario() -> None:
        lookup = NameLookup([silent_server])
        waiting = (lookup.addresses(f"a{n}.example.org", 443) for n in range(10))
        async with asyncio.timeout(GENEROUS_S):
            failures = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(failure, OSError) for failure in failures)
        await lookup.close()

    uvloop.run(scenario())
