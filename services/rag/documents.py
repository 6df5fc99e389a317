"""The documents of a project: taken in, listed, looked at, deleted. Only their owner sees that they exist."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any
from uuid import UUID, uuid4

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from core.database import Database
from core.jobs import Jobs
from domain.documents import Document
from domain.errors import NotFound, TooManyJobs
from domain.principals import Principal
from services.accounting.totals import as_calls
from services.embeddings.runs import EmbeddingRuns, EmbeddingsDone
from services.embeddings.service import EmbeddingService
from services.rag.ingest import JOB
from services.rag.ingest_store import FILES
from services.rag.projects import check_allowed, check_project_id, claim_project, is_project_id, no_such_project
from services.rag.uploads import Upload

logger = logging.getLogger("routeur.documents")

SMALL_BYTES = 131_072
"""Such a document waits for no larger one. Reading it may take 24 s, so that small ones delay each other little."""

# `project` is the id that the owner uses, `key` the server's.
_FIELDS = ", ".join(
    "%(project)s::text AS project_id" if field.name == "project_id" else f"documents.{field.name}"
    for field in fields(Document)
)
_OWN = """
    documents JOIN projects USING (project_id)
    WHERE owner = %(owner)s AND coalesce(projects.name, projects.project_id) = %(project)s
"""
_SAME_BYTES = f"""
    SELECT {_FIELDS}, queue_job FROM documents WHERE project_id = %(key)s AND sha256 = %(sha256)s FOR UPDATE
"""  # noqa: S608  # nosec B608 - constants of ours
_ADD = f"""
    INSERT INTO documents (document_id, project_id, job_id, request_id, title, media_type, size_bytes, sha256)
    VALUES (%(document)s, %(key)s, %(job)s, %(request_id)s, %(title)s, %(media_type)s, %(size)s, %(sha256)s)
    ON CONFLICT (project_id, sha256) DO NOTHING RETURNING {_FIELDS}
"""  # noqa: S608  # nosec B608 - constants of ours
_TRY_AGAIN = f"""
    UPDATE documents SET job_id = %(job)s, request_id = %(request_id)s, title = %(title)s,
        media_type = %(media_type)s, status = 'queued', progress_percent = 0, pages = NULL, passages = 0, error = NULL,
        attempts = 0, usage = '[]', finished_at = NULL, claim = NULL
    WHERE document_id = %(document)s RETURNING {_FIELDS}
"""  # noqa: S608  # nosec B608 - constants of ours
# One caller's at a time, until the transaction ends: two at once could both find the last free place.
_LOCK_CALLER = "SELECT pg_advisory_xact_lock(hashtextextended(%(owner)s, 7))"
_UNFINISHED = """
    SELECT count(*) AS total FROM documents JOIN projects USING (project_id)
    WHERE owner = %(owner)s AND status IN ('queued', 'running') AND document_id IS DISTINCT FROM %(but)s::uuid
"""
_COUNT = """
    SELECT count(documents.document_id) AS total FROM projects LEFT JOIN documents USING (project_id)
    WHERE owner = %(owner)s AND coalesce(projects.name, projects.project_id) = %(project)s
    GROUP BY projects.project_id
"""
_LIST = f"""
    SELECT {_FIELDS} FROM {_OWN} ORDER BY documents.created_at, document_id LIMIT %(limit)s OFFSET %(offset)s
"""  # noqa: S608  # nosec B608 - constants of ours
_GET = f"SELECT {_FIELDS} FROM {_OWN} AND document_id = %(document)s"  # noqa: S608  # nosec B608 - constants of ours
_TO_DELETE = f"{_FIELDS}, queue_job, request_id, usage, embedding_model"
_GET_TO_DELETE = f"""
    SELECT {_TO_DELETE} FROM {_OWN} AND document_id = %(document)s FOR UPDATE OF documents
"""  # noqa: S608  # nosec B608 - constants of ours
# Uploads to the project wait from here on.
_HOLD_PROJECT = """
    SELECT project_id AS key FROM projects
    WHERE owner = %(owner)s AND coalesce(name, project_id) = %(project)s FOR UPDATE
"""
_ALL_TO_DELETE = f"""
    SELECT {_TO_DELETE} FROM documents JOIN projects USING (project_id) WHERE project_id = %(key)s
    FOR UPDATE OF documents
"""  # noqa: S608  # nosec B608 - constants of ours


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of an upload; `is_new` says whether it gives work to do."""

    document: Document
    is_new: bool


class Documents:
    """An upload is stored with its job in one transaction: there is no document without somebody to work on it."""

    def __init__(
        self,
        database: Database,
        jobs: Jobs,
        embeddings: EmbeddingService,
        runs: EmbeddingRuns,
        *,
        embedding_model: str,
        most_unfinished: int = 200,
    ) -> None:
        self._database = database
        self._jobs = jobs
        self._embeddings = embeddings
        self._runs = runs
        self._embedding_model = embedding_model
        self._most_unfinished = most_unfinished

    async def check_room(self, principal: Principal) -> None:
        """Raises `TooManyJobs` before megabytes are read for nothing."""
        async with self._database.connection() as connection:
            await self._check_room(connection, principal)

    async def add(self, upload: Upload, principal: Principal, project_id: str, request_id: str) -> Accepted:
        """Store an upload and queue the work on it. The same bytes are recognised; of a failure, tried again.

        Raises `TooManyJobs` when the caller has as many unfinished as it may, `ModelUnavailable` when nothing can embed
        for the project.
        """
        check_project_id(project_id)
        asked = {
            **_of(principal, project_id),
            "document": uuid4(),
            "job": uuid4(),
            "request_id": request_id,
            "title": upload.title,
            "media_type": upload.media_type,
            "size": upload.size_bytes,
            "sha256": upload.sha256,
        }
        async with self._database.connection() as connection, connection.transaction():
            project = await claim_project(connection, principal, project_id, self._choose_model)
            self._embeddings.resolve(project.embedding_model)
            asked["key"] = project.key
            known = await _one(connection, _SAME_BYTES, asked)
            if known is not None and known["status"] != "failed":
                return Accepted(_document(known), is_new=False)
            if known is not None:
                row = await _one(connection, _TRY_AGAIN, {**asked, "document": known["document_id"]})
            else:
                row = await _one(connection, _ADD, asked)
            if row is None:
                # The same bytes were stored a moment ago by another request, which we have waited for.
                return Accepted(_document(await _one_or_raise(connection, _SAME_BYTES, asked)), is_new=False)
            await self._store(connection, row, upload, principal)
        return Accepted(_document(row), is_new=True)

    def _choose_model(self) -> str:
        """For a project that begins: from then on, whatever the setting says later."""
        return self._embeddings.resolve(self._embedding_model).id

    async def _store(
        self, connection: AsyncConnection[DictRow], row: DictRow, upload: Upload, principal: Principal
    ) -> None:
        document_id, job_id = row["document_id"], row["job_id"]
        await FILES.store(connection, document_id, upload.file)
        await connection.execute(_LOCK_CALLER, {"owner": principal.owner})
        await self._check_room(connection, principal, but=document_id)
        arguments = {"document_id": str(document_id), "job_id": str(job_id)}
        small = upload.size_bytes <= SMALL_BYTES
        job = await self._jobs.defer(connection, JOB, principal.owner, small=small, **arguments)
        await connection.execute("UPDATE documents SET queue_job = %s WHERE document_id = %s", (job, document_id))

    async def _check_room(
        self, connection: AsyncConnection[DictRow], principal: Principal, but: UUID | None = None
    ) -> None:
        counted = await _one(connection, _UNFINISHED, {"owner": principal.owner, "but": but})
        unfinished = 0 if counted is None else int(counted["total"])
        if unfinished >= self._most_unfinished:
            problem = f"{unfinished} of your documents are not finished, and {self._most_unfinished} may be"
            raise TooManyJobs(f"{problem} (DOCUMENTS_PER_CALLER): wait for one to end, or delete one")

    async def find(
        self, principal: Principal, project_id: str, *, limit: int, offset: int
    ) -> tuple[list[Document], int]:
        """A page of the project's documents, the oldest first, and how many there are. Raises `NotFound`."""
        asked: dict[str, object] = {**_of(principal, project_id), "limit": limit, "offset": offset}
        async with self._database.connection() as connection:
            counted = await _one(connection, _COUNT, asked)
            if counted is None:
                raise no_such_project(project_id)
            rows = await (await connection.execute(_LIST, asked)).fetchall()
        return [_document(row) for row in rows], int(counted["total"])

    async def get_or_raise(self, principal: Principal, project_id: str, document_id: str) -> Document:
        """Raises `NotFound`."""
        asked = {**_of(principal, project_id), "document": _uuid(document_id, project_id)}
        async with self._database.connection() as connection:
            row = await _one(connection, _GET, asked)
        if row is None:
            raise _no_such_document(document_id, project_id)
        return _document(row)

    async def delete(self, principal: Principal, project_id: str, document_id: str) -> None:
        """Remove it with its passages, its bytes and its job; work going on stops. Raises `NotFound`."""
        asked = {**_of(principal, project_id), "document": _uuid(document_id, project_id)}
        async with self._database.connection() as connection, connection.transaction():
            row = await _one(connection, _GET_TO_DELETE, asked)
            if row is None:
                raise _no_such_document(document_id, project_id)
            await self._delete(connection, [row])
        self._record(principal, row)

    async def delete_project(self, principal: Principal, project_id: str) -> None:
        """Remove a project with all of its documents, as `delete` does one. Raises `NotFound`."""
        asked = _of(principal, project_id)
        async with self._database.connection() as connection, connection.transaction():
            project = await _one(connection, _HOLD_PROJECT, asked)
            if project is None:
                raise no_such_project(project_id)
            rows = await (await connection.execute(_ALL_TO_DELETE, {**asked, **project})).fetchall()
            await self._delete(connection, rows)
            await connection.execute("DELETE FROM projects WHERE project_id = %(key)s", project)
        for row in rows:
            self._record(principal, row)

    async def _delete(self, connection: AsyncConnection[DictRow], rows: Sequence[Mapping[str, Any]]) -> None:
        """Their passages and bytes go with them."""
        await self._jobs.remove(connection, *(row["queue_job"] for row in rows if row["queue_job"] is not None))
        ids = [row["document_id"] for row in rows]
        await connection.execute("DELETE FROM documents WHERE document_id = ANY(%s)", (ids,))

    def _record(self, principal: Principal, row: Mapping[str, Any]) -> None:
        """What was consumed for a document that is deleted before it was done."""
        if row["status"] not in {"queued", "running"} or not row["usage"]:
            return
        calls = as_calls(row["usage"])
        run = EmbeddingsDone(
            run_id=row["job_id"],
            request_id=row["request_id"],
            subject=principal.subject,
            project_id=row["project_id"],
            requested_model=row["embedding_model"],
            model=row["embedding_model"],
            texts=row["passages"],
            latency_s=sum(call.latency_s for call in calls),
            calls=calls,
        )
        self._runs.record(run, "cancelled")


def _of(principal: Principal, project_id: str) -> dict[str, object]:
    check_allowed(principal, project_id)
    if not is_project_id(project_id):
        raise no_such_project(project_id)
    return {"project": project_id, "owner": principal.owner}


def _uuid(document_id: str, project_id: str) -> UUID:
    try:
        return UUID(document_id)
    except ValueError as error:
        raise _no_such_document(document_id, project_id) from error


def _no_such_document(document_id: str, project_id: str) -> NotFound:
    return NotFound(f"no document {document_id[:60]!r} in project {project_id!r}")


async def _one(connection: AsyncConnection[DictRow], query: Any, values: Mapping[str, Any]) -> DictRow | None:
    return await (await connection.execute(query, values)).fetchone()


async def _one_or_raise(connection: AsyncConnection[DictRow], query: Any, values: Mapping[str, Any]) -> DictRow:
    row = await _one(connection, query, values)
    if row is None:
        raise NotFound("the document was deleted at this moment; send it again")
    return row


def _document(row: Mapping[str, Any]) -> Document:
    return Document(**{field.name: row[field.name] for field in fields(Document)})
