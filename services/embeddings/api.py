"""Embeddings over HTTP, in OpenAI's format: OpenAI, Mistral, and every endpoint that speaks it."""

import math
from array import array
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import SecretStr

from config.catalogue import ModelEntry
from core.http_client import HttpClient
from services.embeddings.embedder import BatchLimits, EmbeddingCall, Vector
from services.llm.providers.surrogates import json_of
from services.llm.providers.whole_call import WholeCall, post_whole, reading

WHAT = "embeddings"
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
        with reading(self.name, WHAT):
            parsed = orjson.loads(answer)
            call.input_tokens = _input_tokens(parsed)
            return _vectors(parsed, count=len(call.texts), dimensions=call.dimensions or call.model.dimensions)

    async def _ask(self, call: EmbeddingCall) -> bytes:
        """The body of the answer. Raises what the provider's refusal means."""
        url = f"{self.base_url.rstrip('/')}/embeddings"
        asked = WholeCall(self.name, url, self.api_key, WHAT, self.timeout_s, MAX_ANSWER_BYTES)
        payload: dict[str, Any] = {"model": call.model.name_on_wire, "input": list(call.texts)}
        if call.dimensions is not None:
            payload["dimensions"] = call.dimensions
        return await post_whole(self.http, asked, json_of(payload), {"Content-Type": "application/json"})


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
