"""The one HTTP client of a worker, shared by every provider."""

import functools
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.client_proto import ResponseHandler


class HttpClient:
    """Opened with the server and closed with it; until then nothing can be asked of it."""

    def __init__(self, connect_timeout_s: float) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._proxies: dict[str, str | None] = {}

    async def open(self) -> None:
        """No total timeout, for answers are streams, and no limit on connections, for runs are admitted earlier.

        The time to connect includes the look-up of the name. Names are the operator's: the system resolves them, with
        its hosts file and whatever else it knows, and nothing that a caller names does (`core/name_lookup.py`).
        """
        self._session = aiohttp.ClientSession(
            connector=_Connector(limit=0, keepalive_timeout=60, resolver=aiohttp.ThreadedResolver()),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=256 * 1024,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the HTTP client is not open")
        return self._session

    def proxy_for(self, url: str) -> str | None:
        """The proxy that the environment names for this address.

        Looked up once a host: aiohttp's own `trust_env` reads the disk, in a thread, at every request.
        """
        parts = urlsplit(url)
        host = parts.netloc
        if host not in self._proxies:
            proxy = getproxies().get(parts.scheme)
            self._proxies[host] = None if proxy is None or proxy_bypass(host) else proxy
        return self._proxies[host]


class _Connection(ResponseHandler):
    """aiohttp's (3.14), which resumes its parser and its socket at each piece that is read, paused or not: five calls a
    token. Only the parser of a compressed body may wait without being paused.
    """

    __slots__ = ()

    def resume_reading(self, resume_parser: bool = True) -> None:
        payload = self._payload
        if self._reading_paused or payload is None or getattr(payload, "total_compressed_bytes", None) is not None:
            super().resume_reading(resume_parser)


class _Connector(aiohttp.TCPConnector):
    """Makes such connections."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = functools.partial(_Connection, loop=self._loop)  # type: ignore[assignment]  # A kind of it.
