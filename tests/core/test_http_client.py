"""The client that providers are called with: its time to connect includes the look-up of the provider's name."""

import asyncio
from typing import Any

import aiohttp
import pytest

from core.http_client import HttpClient


async def test_a_name_that_is_never_resolved_fails_when_the_time_to_connect_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(*_: Any, **__: Any) -> list[Any]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", never)
    http = HttpClient(connect_timeout_s=0.2)
    await http.open()
    try:
        async with asyncio.timeout(20):
            with pytest.raises(aiohttp.ConnectionTimeoutError):
                await http.session.post("http://provider.example.org/v1", data=b"{}")
    finally:
        await http.close()
