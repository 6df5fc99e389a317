"""Fetches an address that a caller gave, without becoming the caller's hand inside our network (SSRF).

https on port 443 only, no credentials, no redirects, no proxy, no cookies, nothing decompressed. The name is resolved
once; every address it has must be public, and the connection goes to those addresses and no other, so that a second,
different DNS answer changes nothing. Time and size are capped while reading, whatever the headers promise.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from core.image_signature import canonical_image_type, image_type
from core.name_lookup import caller_addresses
from core.public_addresses import is_public
from domain.errors import FetchRefused

MAX_URL_CHARS = 4096
SHOWN_CHARS = 80
READ_BUFFER_BYTES = 64 * 1024
MAX_ADDRESSES = 8
"""More addresses than these a name may have; they are not tried."""

USER_AGENT = "routeur-ia"

HOST_NAME = re.compile(r"(?=.{1,254}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_-]{1,63}\.?\Z")
NUMERIC_LAST_LABEL = re.compile(r"(?:\A|\.)(?:[0-9]+|0x[0-9a-f]*)\.?\Z")
"""How a URL's host says that it is an IPv4 address, in any spelling (https://url.spec.whatwg.org/#ends-in-a-number-checker)."""

IpAddress = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was there. `content_type` is lower case, without parameters, and for an image what its bytes say."""

    content: bytes
    content_type: str


@dataclass(frozen=True, slots=True)
class Network:
    """What a fetch believes about the world. Only tests have another one than `PUBLIC_INTERNET`.

    Port 443 and no other: on 8443 and its like answer the consoles of other machines, seldom anybody's pictures.
    """

    resolve: Resolve = caller_addresses
    may_connect: Callable[[IpAddress], bool] = is_public
    ports: frozenset[int] = frozenset({443})
    tls: ssl.SSLContext | None = None


PUBLIC_INTERNET = Network()


async def fetch_public(
    url: str,
    *,
    max_bytes: int,
    timeout_s: float,
    content_types: frozenset[str],
    network: Network = PUBLIC_INTERNET,
) -> Fetched:
    """What the address holds, if it is one of these types; raises `FetchRefused` saying why not otherwise.

    `timeout_s` is for all of it: name, connection, headers, body. An image's bytes must be what its header says.
    """
    shown = shown_url(url)
    target = _checked(url, network.ports)
    try:
        async with asyncio.timeout(timeout_s):
            addresses = await _allowed_addresses(target, shown, network)
            tls = network.tls
            if tls is None:
                tls = await asyncio.to_thread(_default_tls)
            headers = {"Accept": ", ".join(sorted(content_types)), "Accept-Encoding": "identity"}
            async with (
                _session(addresses, tls) as session,
                session.get(target, headers=headers, allow_redirects=False) as response,
            ):
                content_type = _accepted_type(response, shown, content_types, max_bytes)
                content = await _body(response, shown, max_bytes)
    except TimeoutError as error:
        raise FetchRefused(f"{shown!r} took longer than {timeout_s:g} s to fetch") from error
    except aiohttp.ClientSSLError as error:
        raise FetchRefused(f"{shown!r} has no valid TLS certificate for this name") from error
    except aiohttp.ClientPayloadError as error:
        raise FetchRefused(f"{shown!r} broke off before its end") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise FetchRefused(f"{shown!r} cannot be fetched: no valid HTTP answer came from it") from error
    if content_type.startswith("image/") and (found := image_type(content)) != content_type:
        raise FetchRefused(f"{shown!r} is called {content_type!r}, but its bytes are {found or 'no known image'!r}")
    return Fetched(content, content_type)


def shown_url(url: str) -> str:
    """The address as a message may show it: cut short, without its query (which may be a signature) or a password."""
    plain = re.split(r"[?#]", url[:MAX_URL_CHARS], maxsplit=1)[0]
    plain = re.sub(r"(?<=:)//[^/]*@", "//…@", plain)
    return plain if len(plain) <= SHOWN_CHARS else plain[: SHOWN_CHARS - 1] + "…"


def _checked(url: str, ports: frozenset[int]) -> URL:
    """The address as the HTTP client will read it: parsed once, so that no two readers can disagree about its host."""
    shown = shown_url(url)
    if len(url) > MAX_URL_CHARS:
        raise FetchRefused(f"{shown!r} is longer than {MAX_URL_CHARS} characters")
    if any(char <= " " or char in "\\\x7f" for char in url):
        raise FetchRefused(f"{shown!r} holds a space, a control character or a backslash: percent-encode it")
    scheme, mark, rest = url.partition("://")
    if not mark or scheme.lower() != "https":
        raise FetchRefused(f"{shown!r} cannot be fetched: only https:// addresses are")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        raise FetchRefused(f"{shown!r} holds credentials: remove them")
    try:
        target = URL(url)
        host, port = target.raw_host or "", target.port
    except ValueError as error:
        raise FetchRefused(f"{shown!r} is not a valid address") from error
    if port not in ports:
        raise FetchRefused(f"{shown!r} names a port: only {', '.join(map(str, sorted(ports)))} is connected to")
    if _literal(host) is None and not _is_host_name(authority, host):
        raise FetchRefused(f"{shown!r} has no valid host name")
    return target


def _is_host_name(authority: str, host: str) -> bool:
    """Whether the host is a name to look up, and cannot be read as an address in some odd spelling."""
    return "[" not in authority and bool(HOST_NAME.match(host)) and not NUMERIC_LAST_LABEL.search(host)


def _literal(host: str) -> IpAddress | None:
    """The IP address that the host is, in its one canonical spelling; `None` for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


async def _allowed_addresses(target: URL, shown: str, network: Network) -> Sequence[IpAddress]:
    """Every address of the host, all of them allowed.

    A name that does not exist and one that is private get the same words: callers learn nothing about our own names.
    """
    host, port = target.raw_host or "", target.port or 0
    literal = _literal(host)
    if literal is not None:
        addresses = [literal]
    else:
        try:
            addresses = [ip_address(address) for address in await network.resolve(host, port)]
        except (OSError, ValueError):
            addresses = []
    if not addresses or not all(map(network.may_connect, addresses)):
        raise FetchRefused(f"{shown!r} does not lead to a public address of the internet")
    return addresses[:MAX_ADDRESSES]


@lru_cache(maxsize=1)
def _default_tls() -> ssl.SSLContext:
    """Verifies certificates and names by the system's authorities. They are read from disk: made once, in a thread."""
    return ssl.create_default_context()


def _session(addresses: Sequence[IpAddress], tls: ssl.SSLContext) -> aiohttp.ClientSession:
    """One connection, to one of these addresses, then closed. Nothing of the environment is read."""
    connector = aiohttp.TCPConnector(resolver=_Pinned(addresses), use_dns_cache=False, force_close=True, ssl=tls)
    return aiohttp.ClientSession(
        connector=connector,
        headers={"User-Agent": USER_AGENT},
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=None),
        read_bufsize=READ_BUFFER_BYTES,
    )


class _Pinned(AbstractResolver):
    """Knows the addresses that were checked, for any name. An address written in the URL is never asked of it."""

    def __init__(self, addresses: Sequence[IpAddress]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        """Nothing is open."""


def _accepted_type(response: aiohttp.ClientResponse, shown: str, content_types: frozenset[str], max_bytes: int) -> str:
    """The content type, once the headers hold nothing that speaks against reading the body."""
    if response.status in range(300, 400):
        where = shown_url(response.headers.get("Location", ""))
        raise FetchRefused(f"{shown!r} redirects to {where!r}: redirects are not followed, give the final address")
    if response.status != 200:
        raise FetchRefused(f"{shown!r} answered {response.status} instead of 200")
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise FetchRefused(f"{shown!r} answered compressed ({encoding[:20]!r}), which was not asked for")
    content_type = canonical_image_type(response.headers.get("Content-Type", "").partition(";")[0])
    if content_type not in content_types:
        raise FetchRefused(f"{shown!r} is {content_type[:40]!r}; accepted: {', '.join(sorted(content_types))}")
    if (response.content_length or 0) > max_bytes:
        raise FetchRefused(_too_large(shown, max_bytes))
    return content_type


async def _body(response: aiohttp.ClientResponse, shown: str, max_bytes: int) -> bytes:
    body = bytearray()
    while part := await response.content.readany():
        body += part
        if len(body) > max_bytes:
            raise FetchRefused(_too_large(shown, max_bytes))
    return bytes(body)


def _too_large(shown: str, max_bytes: int) -> str:
    return f"{shown!r} is larger than {max_bytes} bytes"
