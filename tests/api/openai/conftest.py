"""The official clients of OpenAI, pointed at our server."""

from collections.abc import AsyncIterator, Iterator

import openai
import pytest

from tests.live_server import LiveServer


@pytest.fixture
def python(server: LiveServer) -> Iterator[openai.OpenAI]:
    """Without the retries that hide what a server answers, and without the tester's proxies."""
    http = openai.DefaultHttpxClient(trust_env=False)
    url = f"{server.url}/v1"
    with openai.OpenAI(base_url=url, api_key=server.token(), max_retries=0, http_client=http, timeout=30) as client:
        yield client


@pytest.fixture
async def python_async(server: LiveServer) -> AsyncIterator[openai.AsyncOpenAI]:
    http = openai.DefaultAsyncHttpxClient(trust_env=False)
    url = f"{server.url}/v1"
    async with openai.AsyncOpenAI(
        base_url=url, api_key=server.token(), max_retries=0, http_client=http, timeout=30
    ) as client:
        yield client
