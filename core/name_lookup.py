"""Addresses of host names that callers give: looked up apart from everybody else's, bounded in time and number.

The system's own resolver blocks a thread for each name, of which the event loop has four: a domain whose servers never
answer holds them for a minute and more, and no provider's name is found meanwhile. c-ares needs no thread a name.
"""

import asyncio
import socket
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from aiodns import DNSResolver
from aiodns.error import DNSError

LOOKUP_TIMEOUT_S = 5.0
TRY_TIMEOUT_S = 2.0
TRIES = 2
LOOKUPS_AT_ONCE = 256
"""A lookup is a socket and some hundred bytes; more of them wait, as long as one may last."""


class NameLookup:
    """Looks names up in the system's name servers, or in those given (`127.0.0.1:5353`). Of one event loop."""

    def __init__(self, servers: Sequence[str] | None = None) -> None:
        self._resolver = DNSResolver(nameservers=servers, timeout=TRY_TIMEOUT_S, tries=TRIES)
        self._room = asyncio.Semaphore(LOOKUPS_AT_ONCE)

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        """Every address of the host, each once. Raises `OSError` when there is none, or none in time."""
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S), self._room:
                found = await self._resolver.getaddrinfo(host, port=port, type=socket.SOCK_STREAM)
        except TimeoutError as error:
            raise OSError(f"no answer in {LOOKUP_TIMEOUT_S:g} s") from error
        except DNSError as error:
            raise OSError("no such name") from error
        return list(dict.fromkeys(node.addr[0].decode("ascii") for node in found.nodes))

    async def close(self) -> None:
        """End what is still being looked up."""
        await self._resolver.close()


_lookups: "WeakKeyDictionary[asyncio.AbstractEventLoop, NameLookup]" = WeakKeyDictionary()


async def caller_addresses(host: str, port: int) -> Sequence[str]:
    """The same, by the one lookup of this event loop."""
    loop = asyncio.get_running_loop()
    lookup = _lookups.get(loop)
    if lookup is None:
        lookup = _lookups[loop] = NameLookup()
    return await lookup.addresses(host, port)
