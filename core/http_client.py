"""The one HTTP client of a worker, shared by every provider."""

import aiohttp


class HttpClient:
    """Opened with the server and closed with it; until then nothing can be asked of it."""

    def __init__(self, connect_timeout_s: float) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """No total timeout, for answers are streams, and no limit on connections, for runs are admitted earlier.

        Proxies named by the environment are honoured.
        """
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
            read_bufsize=256 * 1024,
            trust_env=True,
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
