"""A call that answers in one piece (embeddings, transcripts): its body up to a bound, its faults as our errors."""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from pydantic import SecretStr

from core.http_client import HttpClient
from domain.errors import ProviderCut, ProviderStalled, ProviderUnreachable
from services.llm.providers.refusals import refusal
from services.llm.providers.wire import broken_connection

logger = logging.getLogger("routeur.router")


@dataclass(frozen=True, slots=True)
class WholeCall:
    """Where a call goes, what it asks for in words (`embeddings`), and how much and how long its answer may be."""

    provider: str
    url: str
    api_key: SecretStr | None
    what: str
    timeout_s: float
    max_bytes: int


async def post_whole(http: HttpClient, call: WholeCall, data: Any, headers: Mapping[str, str]) -> bytes:
    """The body of the answer. Raises what the provider's refusal, or its silence, means."""
    sent = {"Accept": "application/json", **headers}
    if call.api_key is not None:
        sent["Authorization"] = f"Bearer {call.api_key.get_secret_value()}"
    with _as_provider_errors(call):
        async with (
            asyncio.timeout(call.timeout_s),
            http.session.post(
                call.url,
                data=data,
                headers=sent,
                proxy=http.proxy_for(call.url),
                # A key goes to the address it was given for, and nowhere else.
                allow_redirects=False,
            ) as response,
        ):
            if response.status != 200:
                raise await refusal(call.provider, response)
            return await _body_of(call, response)


@contextmanager
def reading(provider: str, what: str) -> Iterator[None]:
    """While an answer is read: what no sense can be made of is the provider's fault."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        logger.warning("answer not readable", extra={"provider": provider, "error": type(error).__name__})
        raise ProviderCut(f"{provider} sent {what} that cannot be read", retryable=True) from error


async def _body_of(call: WholeCall, response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > call.max_bytes:
            raise ProviderCut(f"{call.provider} sent {call.what} of over {call.max_bytes} bytes", retryable=False)
    return bytes(body)


@contextmanager
def _as_provider_errors(call: WholeCall) -> Iterator[None]:
    """What went wrong on the line."""
    provider = call.provider
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise ProviderUnreachable(f"{provider} cannot be reached (no connection in time)", retryable=True) from error
    except TimeoutError as error:
        raise ProviderStalled(f"{provider} gave no {call.what} in {call.timeout_s:g} s", retryable=True) from error
    except aiohttp.ClientConnectorError as error:
        reason = error.os_error.strerror or "no route"
        raise ProviderUnreachable(f"{provider} cannot be reached ({reason})", retryable=True) from error
    except (aiohttp.ClientError, OSError) as error:
        raise broken_connection(provider, error) from error
