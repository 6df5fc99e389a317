"""What the work on a document reads and writes. Only the attempt that took the document last may write."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from core.database import Database, storable
from core.jobs import TakenAway
from core.stored_files import StoredFiles
from domain.documents import PassageDraft
from services.rag.search_text import halfvec, scope_lexemes, without_accents

FILES = StoredFiles("document_files", "document_id")

_TAKE = """
    UPDATE documents SET claim = %(claim)s, status = 'running', attempts = attempts + 1
    FROM projects
    WHERE projects.project_id = documents.project_id AND document_id = %(document)s AND job_id = %(job)s
        AND status IN ('queued', 'running')
    RETURNING documents.project_id, coalesce(projects.name, projects.project_id) AS project_name, owner,
        embedding_model, title, size_bytes, request_id, attempts, error, usage, documents.created_at,
        (SELECT coalesce(max(ordinal) + 1, 0) FROM passages WHERE document_id = %(document)s) AS next_ordinal
"""
_ADVANCE = """
    UPDATE documents SET passages = passages + %(count)s, pages = coalesce(%(pages)s, pages), attempts = 0,
        error = NULL, usage = %(usage)s, progress_percent = greatest(progress_percent, %(percent)s)
    WHERE document_id = %(document)s AND claim = %(claim)s
"""
_ADD = """
    INSERT INTO passages (
        project_id, document_id, ordinal, text, headings, page, start_char, end_char, embedding, code, lexemes
    )
    SELECT %(project)s, %(document)s, ordinal, text, headings, page, start_char, end_char, embedding::halfvec,
        binary_quantize(embedding::halfvec)::bit(512),
        array_to_tsvector(%(scopes)s::text[]) || to_tsvector('french', words) || to_tsvector('english', plain)
    FROM jsonb_to_recordset(%(passages)s::jsonb) AS added (
        ordinal integer, text text, headings text[], page integer, start_char integer, end_char integer,
        embedding text, words text, plain text
    )
"""
_SUCCEED = """
    UPDATE documents SET status = 'succeeded', progress_percent = 100, error = NULL, finished_at = now(), claim = NULL
    WHERE document_id = %(document)s AND claim = %(claim)s
"""
_FAIL = """
    UPDATE documents SET status = 'failed', error = %(error)s, passages = 0, finished_at = now(), claim = NULL
    WHERE document_id = %(document)s AND claim = %(claim)s
"""
_POSTPONE = """
    UPDATE documents SET status = 'queued', error = %(error)s, claim = NULL
    WHERE document_id = %(document)s AND claim = %(claim)s
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """A document that this attempt works on. `usage` is what its embeddings consumed in attempts before.

    `project_id` is the server's key of the project, `project_name` the id that its owner uses.
    """

    document_id: UUID
    job_id: UUID
    claim: UUID
    project_id: str
    project_name: str
    owner: str
    embedding_model: str
    title: str
    size_bytes: int
    request_id: str
    attempts: int
    error: str | None
    usage: Sequence[Mapping[str, Any]]
    created_at: datetime
    next_ordinal: int


@dataclass(frozen=True, slots=True)
class Embedded:
    """A passage and its vector."""

    passage: PassageDraft
    vector: Sequence[float]


class IngestStore:
    """Each step is a transaction, and the first statement of each proves that the document is still this attempt's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, document_id: UUID, job_id: UUID) -> Taken | None:
        """Make the document this attempt's; `None` when it is gone or done."""
        claim = uuid4()
        async with self._database.connection() as connection:
            cursor = await connection.execute(_TAKE, {"claim": claim, "document": document_id, "job": job_id})
            row = await cursor.fetchone()
        return None if row is None else Taken(document_id=document_id, job_id=job_id, claim=claim, **row)

    async def write_file(self, document_id: UUID, path: Path) -> None:
        """The uploaded bytes, at this path."""
        await FILES.write(self._database, document_id, path)

    async def add(
        self,
        taken: Taken,
        passages: Sequence[Embedded],
        *,
        percent: float,
        pages: int | None,
        usage: Sequence[Mapping[str, Any]],
    ) -> None:
        """Store passages, and how far this is. Raises `TakenAway`."""
        progress = {"count": len(passages), "percent": percent, "pages": pages, "usage": Jsonb(list(usage))}
        async with self._own(taken, _ADVANCE, **progress) as connection:
            added = {
                "project": taken.project_id,
                "document": taken.document_id,
                "scopes": scope_lexemes([taken.project_id, str(taken.document_id)]),
                "passages": orjson.dumps([_row(embedded) for embedded in passages]).decode(),
            }
            await connection.execute(_ADD, added)

    async def succeed(self, taken: Taken) -> None:
        """Done: the bytes go."""
        async with self._own(taken, _SUCCEED) as connection:
            await FILES.delete(connection, taken.document_id)

    async def fail(self, taken: Taken, reason: str) -> None:
        """Nothing of the document stays but the reason."""
        async with self._own(taken, _FAIL, error=storable(reason)) as connection:
            await FILES.delete(connection, taken.document_id)
            await connection.execute("DELETE FROM passages WHERE document_id = %s", (taken.document_id,))

    async def postpone(self, taken: Taken, reason: str) -> None:
        """What is stored stays; the next attempt goes on after it."""
        async with self._own(taken, _POSTPONE, error=storable(reason)):
            pass

    @asynccontextmanager
    async def _own(self, taken: Taken, first: Any, **values: Any) -> AsyncIterator[AsyncConnection[DictRow]]:
        async with self._database.connection() as connection, connection.transaction():
            cursor = await connection.execute(first, {"document": taken.document_id, "claim": taken.claim, **values})
            if cursor.rowcount != 1:
                raise TakenAway
            yield connection


def words_of(passage: PassageDraft) -> str:
    """What a passage is found by: the headings that lead to it, and its text."""
    return "\n".join((*passage.headings, passage.text))


def _row(embedded: Embedded) -> dict[str, Any]:
    passage = embedded.passage
    words = storable(words_of(passage))
    return {
        "ordinal": passage.ordinal,
        "text": storable(passage.text),
        "headings": [storable(heading) for heading in passage.headings],
        "page": passage.page,
        "start_char": passage.start_char,
        "end_char": passage.end_char,
        "embedding": halfvec(embedded.vector),
        "words": words,
        "plain": without_accents(words),
    }
