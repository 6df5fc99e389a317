"""A document's way from its bytes to passages that can be found: read, embed, store, a batch at a time.

It may be cut off at any moment and begun again elsewhere: what is stored stays, and the next attempt goes on after it.
"""

import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

from core.database import storable
from core.jobs import RetryLater, TakenAway, TurnOver, turn_is_over
from domain.documents import PassageDraft
from domain.errors import DatabaseUnavailable, RouteurError
from domain.runs import RunStatus
from domain.usage import Call
from services.accounting.totals import add_calls, as_calls
from services.embeddings.runs import EmbeddingRuns, EmbeddingsDone
from services.embeddings.service import EmbeddingRequest, EmbeddingService
from services.job_attempts import MAX_ATTEMPTS, attempt_folder, may_pass, reason_of, wait_before_next_s
from services.rag.extraction.extractor import ExtractedPart, ExtractionLimits, UnreadableDocument
from services.rag.ingest_store import Embedded, IngestStore, Taken, words_of

logger = logging.getLogger("routeur.documents")

JOB = "ingest_document"
BATCH = 8
"""Passages embedded and stored at once: on this machine 60 ms of work, for which a question waits at most."""
ALMOST = 99.0
TIME_S = 20.0
TIME_A_MB_S = 30.0
"""How long reading a file may take grows with its size, up to the limit of any file."""

Extract = Callable[[Path, str, ExtractionLimits], AsyncGenerator[ExtractedPart]]


@dataclass(slots=True)
class _Attempt:
    """What one attempt has under way. `calls` are those whose passages are not stored yet."""

    taken: Taken
    usage: list[dict[str, object]]
    calls: list[Call] = field(default_factory=list)
    batch: list[PassageDraft] = field(default_factory=list)
    stored: int = 0
    pages: int | None = None


class Ingest:
    """Does the jobs named `ingest_document`."""

    def __init__(
        self,
        store: IngestStore,
        embeddings: EmbeddingService,
        runs: EmbeddingRuns,
        *,
        extract: Extract,
        limits: ExtractionLimits,
        directory: Path,
    ) -> None:
        self._store = store
        self._embeddings = embeddings
        self._runs = runs
        self._extract = extract
        self._limits = limits
        self._directory = directory

    async def perform(self, document_id: str, job_id: str) -> None:
        """Raises `RetryLater` when what hinders it may pass."""
        taken = await self._store.take(UUID(document_id), UUID(job_id))
        if taken is None:
            return
        attempt = _Attempt(taken, add_calls(taken.usage, ()))
        status: RunStatus = "cancelled"
        try:
            await self._attempt(attempt)
            status = "succeeded"
        except TurnOver:
            logger.info("document put back for others", extra={"document_id": document_id, "stored": attempt.stored})
            raise
        except TakenAway:
            logger.info("a document was taken away", extra={"document_id": document_id})
        except UnreadableDocument as error:
            status = "failed"
            await self._fail(attempt, error.reason, "unreadable_document")
        except (RouteurError, OSError) as error:
            status = "failed"
            await self._hindered(attempt, error)
        finally:
            # Also reached when the server stops: what was consumed is still counted.
            self._record_unstored(attempt, status)

    async def _attempt(self, attempt: _Attempt) -> None:
        taken = attempt.taken
        if taken.attempts > MAX_ATTEMPTS:
            raise UnreadableDocument(
                f"it was tried {MAX_ATTEMPTS} times in vain: {taken.error or 'each ended abruptly'}"
            )
        async with attempt_folder(self._directory, f"{taken.document_id}-{taken.claim}") as folder:
            path = folder / "document"
            await self._store.write_file(taken.document_id, path)
            limits = replace(self._limits, timeout_s=time_limit_s(taken.size_bytes, self._limits.timeout_s))
            async with aclosing(self._extract(path, taken.title, limits)) as parts:
                async for part in parts:
                    await self._take_in(attempt, part)
        if attempt.batch:
            await self._flush(attempt, ALMOST)
        if taken.next_ordinal + attempt.stored == 0:
            raise UnreadableDocument("no text was found in it")
        # Before the end is written: should this process die between the two, the next attempt's row is this same one.
        self._record(attempt, "succeeded", None)
        await self._store.succeed(taken)

    async def _take_in(self, attempt: _Attempt, part: ExtractedPart) -> None:
        attempt.pages = part.pages_total or attempt.pages
        for passage in part.passages:
            if passage.ordinal < attempt.taken.next_ordinal or not passage.text.strip():
                continue
            attempt.batch.append(passage)
            if len(attempt.batch) == BATCH:
                await self._flush(attempt, _percent(part, passage, attempt.taken))
                if await turn_is_over():
                    raise TurnOver

    async def _flush(self, attempt: _Attempt, percent: float) -> None:
        """Embed and store what waits."""
        batch, attempt.batch = attempt.batch, []
        texts = tuple(storable(words_of(passage)) for passage in batch)
        request = EmbeddingRequest(attempt.taken.embedding_model, texts)
        vectors = (await self._embeddings.embed(request, attempt.calls.append)).vectors
        embedded = [Embedded(passage, vector) for passage, vector in zip(batch, vectors, strict=True)]
        usage = add_calls(attempt.usage, attempt.calls)
        await self._store.add(attempt.taken, embedded, percent=percent, pages=attempt.pages, usage=usage)
        attempt.usage, attempt.calls = usage, []
        attempt.stored += len(batch)

    async def _hindered(self, attempt: _Attempt, error: RouteurError | OSError) -> None:
        taken = attempt.taken
        reason = reason_of(error)
        if not may_pass(error):
            await self._fail(attempt, reason, error.code if isinstance(error, RouteurError) else None)
            return
        # The attempts before this one brought nothing: with progress, the count begins anew.
        tries = 1 if attempt.stored else taken.attempts
        if tries >= MAX_ATTEMPTS:
            await self._fail(attempt, f"it was tried {tries} times in vain: {reason}", None)
            return
        wait_s = wait_before_next_s(tries, error)
        logger.warning("a document has to wait", extra={"reason": reason, "wait_s": wait_s})
        if not isinstance(error, DatabaseUnavailable):
            with contextlib.suppress(TakenAway):
                await self._store.postpone(taken, reason)
        raise RetryLater(wait_s) from error

    async def _fail(self, attempt: _Attempt, reason: str, error_code: str | None) -> None:
        logger.info("a document cannot be taken in", extra={"reason": reason})
        self._record(attempt, "failed", error_code)
        with contextlib.suppress(TakenAway):
            await self._store.fail(attempt.taken, reason)

    def _record(self, attempt: _Attempt, status: RunStatus, error_code: str | None) -> None:
        """The document's row in the ledger, under the job's id: however often it is written, it stays one."""
        if not attempt.usage:
            return
        taken = attempt.taken
        calls = as_calls(attempt.usage)
        run = _row(taken, calls, texts=taken.next_ordinal + attempt.stored)
        run.run_id = taken.job_id
        self._runs.record(run, status, error_code)

    def _record_unstored(self, attempt: _Attempt, status: RunStatus) -> None:
        """Calls that brought nothing which was kept: a row of their own, for they are in no document's account."""
        if attempt.calls:
            self._runs.record(_row(attempt.taken, attempt.calls, texts=0), status)


def time_limit_s(size_bytes: int, most_s: float) -> float:
    return min(most_s, TIME_S + TIME_A_MB_S * size_bytes / 1_000_000)


def _row(taken: Taken, calls: list[Call], *, texts: int) -> EmbeddingsDone:
    return EmbeddingsDone(
        request_id=taken.request_id,
        subject=taken.owner,
        project_id=taken.project_name,
        requested_model=taken.embedding_model,
        model=taken.embedding_model,
        texts=texts,
        latency_s=sum(call.latency_s for call in calls),
        calls=calls,
    )


def _percent(part: ExtractedPart, passage: PassageDraft, taken: Taken) -> float:
    """How much is done; where there are no pages, guessed by the characters that a file of this size would have."""
    if part.pages_total:
        return min(ALMOST, 100 * (passage.page or part.pages_done or 0) / part.pages_total)
    return min(ALMOST, 100 * passage.end_char / max(taken.size_bytes, 1))
