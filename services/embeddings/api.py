"""Embeddings over HTTP, in OpenAI's format: OpenAI, Mistral, and every endpoint that speaks it."""

import asyncio
import math
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from pydantic import SecretStr

from config.catalogue import ModelEntry
from core.http_client import HttpClient
from domain.errors import ProviderCut, ProviderStalled, ProviderUnreachable
from services.embeddings.embedder import BatchLimits, EmbeddingCall, Vector
from services.llm.providers.refusals import refusal

MAX_ANSWER_BYTES = 32_000_000
"""64 vectors of 3,072 numbers take 4 to 5 MB; what is much longer than this is not an answer."""

API_BATCH = BatchLimits(max_texts=64, max_chars=200_000)
"""An answer to more would be read in one go for over 10 ms, while every stream of the worker waits. Characters: below
OpenAI's 300,000 tokens a request, whatever the script."""


@dataclass(slots=True)
class ApiEmbedder:
    """One endpoint. `key_setting` names the setting its key comes from; `None` where it asks for no key.

    `timeout_s` is for a whole call: an embedding comes at once or not at all.
    """

    name: str
    http: HttpClient
    base_url: str
    api_key: SecretStr | None
    timeout_s: float
    key_setting: str | None = None
    batch: BatchLimits = API_BATCH

    def unavailable_reason(self, model: ModelEntry) -> str | None:
        if self.key_setting is not None and self.api_key is None:
            return f"{model.id!r} needs the setting {self.key_setting}"
        return None

    async def embed(self, call: EmbeddingCall) -> list[Vector]:
        answer = await self._ask(call)
        with _reading(self.name):
            parsed = orjson.loads(answer)
            call.input_tokens = _input_tokens(parsed)
            return _vectors(parsed, count=len(call.texts), dimensions=call.dimensions or call.model.dimensions)

    async def _ask(self, call: EmbeddingCall) -> bytes:
        """The body of the answer. Raises what the provider's refusal means."""
        url = f"{self.base_url.rstrip('/')}/embeddings"
        payload: dict[str, Any] = {"model": call.model.name_on_wire, "input": list(call.texts)}
        if call.dimensions is not None:
            payload["dimensions"] = call.dimensions
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key.get_secret_value()}"
        with _as_provider_errors(self.name, self.timeout_s):
            async with (
                asyncio.timeout(self.timeout_s),
                self.http.session.post(
                    url,
                    data=orjson.dumps(payload),
                    headers=headers,
                    proxy=self.http.proxy_for(url),
                    # A key goes to the address it was given for, and nowhere else.
                    allow_redirects=False,
                ) as response,
            ):
                if response.status != 200:
                    raise await refusal(self.name, response)
                return await _body_of(self.name, response)


async def _body_of(provider: str, response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > MAX_ANSWER_BYTES:
            raise ProviderCut(f"{provider} sent embeddings of over {MAX_ANSWER_BYTES} bytes", retryable=False)
    return bytes(body)


@contextmanager
def _as_provider_errors(provider: str, timeout_s: float) -> Iterator[None]:
    """What went wrong on the line, as the house's errors."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise ProviderUnreachable(f"{provider} cannot be reached (no connection in time)", retryable=True) from error
    except TimeoutError as error:
        raise ProviderStalled(f"{provider} gave no embeddings in {timeout_s:g} s", retryable=True) from error
    except aiohttp.ClientConnectorError as error:
        reason = error.os_error.strerror or "no route"
        raise ProviderUnreachable(f"{provider} cannot be reached ({reason})", retryable=True) from error
    except (aiohttp.ClientError, OSError) as error:
        raise ProviderCut(f"{provider} broke the connection: {type(error).__name__}", retryable=True) from error


@contextmanager
def _reading(provider: str) -> Iterator[None]:
    """While an answer is read: what no sense can be made of is the provider's fault."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        problem = f"{provider} sent embeddings that cannot be read ({type(error).__name__})"
        raise ProviderCut(problem, retryable=True) from error


def _input_tokens(parsed: Any) -> int | None:
    """What the provider counted; `None` when it did not. A count of nothing for texts that came back is not a count."""
    counted = (parsed.get("usage") or {}).get("prompt_tokens")
    return counted if isinstance(counted, int) and counted > 0 else None


def _vectors(parsed: Any, *, count: int, dimensions: int | None) -> list[Vector]:
    """One vector a text, put in the order of the texts: the answer numbers them and may send them in any order."""
    found: dict[int, Vector] = {}
    for place, item in enumerate(parsed["data"]):
        vector = array("f", item["embedding"])
        if not vector or not math.isfinite(sum(vector)) or len(vector) != (dimensions or len(vector)):
            raise ValueError("a vector of another length, or of no numbers")
        found[item.get("index", place)] = vector
    if len(found) != len(parsed["data"]) or found.keys() != set(range(count)):
        raise ValueError("not one vector a text")
    return [found[place] for place in range(count)]
