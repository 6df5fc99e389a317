"""The real local embedding model, loaded once for all tests: it takes over half a second."""

from functools import lru_cache
from typing import Any

from services.embeddings import local
from services.embeddings.local import LocalEmbedder


def loaded_embedder(timeout_s: float = 60.0) -> LocalEmbedder:
    """An embedder with a thread of its own and the shared model. One at a time works with it."""
    embedder = LocalEmbedder(timeout_s=timeout_s)
    embedder._encoder = _encoder()
    return embedder


@lru_cache(maxsize=1)
def _encoder() -> Any:
    return local._load()
