"""Projects: whose they are. Every look into one begins here. An id belongs to its owner: others may use the same."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from core.database import Database
from domain.documents import Project, SearchFilter
from domain.errors import Conflict, InvalidParameter, NotFound
from domain.principals import Principal

MAX_PROJECT_ID = 128
DOTS = frozenset({".", ".."})
"""Clients take them out of addresses."""
SHOWN_SOURCES = 100
"""How many unknown sources a refusal names."""

_OWN = "owner = %(owner)s AND coalesce(projects.name, projects.project_id) = %(project)s"
_MINE = """
    owner = %(owner)s
    AND (%(allowed)s::text[] IS NULL OR coalesce(projects.name, projects.project_id) = ANY(%(allowed)s::text[]))
"""
_FIND = f"""
    SELECT project_id AS key, ARRAY(
        SELECT document_id FROM documents
        WHERE documents.project_id = projects.project_id AND document_id = ANY(%(sources)s)
    ) AS found
    FROM projects WHERE {_OWN}
"""  # noqa: S608  # nosec B608 - a constant of ours
# Against a deletion that goes on: it is waited for, and the project is gone then.
_LOOK = f"SELECT project_id AS key, embedding_model FROM projects WHERE {_OWN} FOR KEY SHARE"  # noqa: S608  # nosec B608 - the same
_CLAIM = """
    INSERT INTO projects (project_id, name, owner, embedding_model)
    VALUES (%(key)s, %(project)s, %(owner)s, %(model)s) ON CONFLICT DO NOTHING
"""
_LIST = f"""
    SELECT coalesce(projects.name, projects.project_id) AS project_id, embedding_model, projects.created_at,
        count(document_id) AS documents,
        count(document_id) FILTER (WHERE status IN ('queued', 'running')) AS unfinished,
        count(document_id) FILTER (WHERE status = 'failed') AS failed,
        coalesce(sum(passages), 0) AS passages, coalesce(sum(size_bytes), 0) AS size_bytes
    FROM projects LEFT JOIN documents USING (project_id)
    WHERE {_MINE} GROUP BY projects.project_id ORDER BY projects.created_at, projects.project_id
    LIMIT %(limit)s OFFSET %(offset)s
"""  # noqa: S608  # nosec B608 - a constant of ours
_COUNT = f"SELECT count(*) AS total FROM projects WHERE {_MINE}"  # noqa: S608  # nosec B608 - the same


class Projects:
    """Callers choose their projects' ids; the first upload makes the project. Nobody sees or takes another owner's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open_filter(
        self, principal: Principal, project_id: str, sources: Sequence[str] = ()
    ) -> SearchFilter | None:
        """What a search for this caller may look at; `None` for a project that it does not have: nothing to find.

        Raises `NotFound` for a project that the credential does not extend to, and `InvalidParameter` naming each of
        `sources` that is no document of it.
        """
        row = await self._find_own(principal, project_id, sources)
        found = _found(row, project_id, sources)
        return None if row is None else SearchFilter(row["key"], found, project_id)

    async def open_filter_or_raise(
        self, principal: Principal, project_id: str, sources: Sequence[str] = ()
    ) -> SearchFilter:
        """The same, where a project that the caller does not have is an error: `NotFound`."""
        row = await self._find_own(principal, project_id, sources)
        if row is None:
            raise no_such_project(project_id)
        return SearchFilter(row["key"], _found(row, project_id, sources), project_id)

    async def check_upload(self, principal: Principal, project_id: str) -> None:
        """Raises what would refuse an upload to it, before megabytes are read for nothing."""
        check_project_id(project_id)
        await self._find_own(principal, project_id, ())

    async def find(self, principal: Principal, *, limit: int, offset: int) -> tuple[list[Project], int]:
        """A page of the caller's projects, the oldest first, and how many there are."""
        allowed = None if principal.projects is None else sorted(principal.projects)
        parameters = {"owner": principal.owner, "allowed": allowed, "limit": limit, "offset": offset}
        async with self._database.connection() as connection:
            rows = await (await connection.execute(_LIST, parameters)).fetchall()
            counted = await (await connection.execute(_COUNT, parameters)).fetchone()
        return [Project(**{**row, **_whole(row)}) for row in rows], 0 if counted is None else int(counted["total"])

    async def _find_own(
        self, principal: Principal, project_id: str, sources: Sequence[str]
    ) -> Mapping[str, Any] | None:
        """The project's row, with those of `sources` that are its documents; `None` when the caller has none such."""
        check_allowed(principal, project_id)
        if not is_project_id(project_id):
            return None  # Among them what PostgreSQL cannot hold.
        uuids = [uuid for uuid in map(_as_uuid, sources) if uuid is not None]
        async with self._database.connection() as connection:
            parameters = {"owner": principal.owner, "project": project_id, "sources": uuids}
            return await (await connection.execute(_FIND, parameters)).fetchone()


@dataclass(frozen=True, slots=True)
class Claimed:
    """The caller's project: the server's key of it, and its embedding model."""

    key: str
    embedding_model: str


async def claim_project(
    connection: AsyncConnection[DictRow], principal: Principal, project_id: str, choose_model: Callable[[], str]
) -> Claimed:
    """The caller's project, made if there is none yet, in the caller's transaction.

    `choose_model` names the embedding model of a project that begins.
    """
    check_allowed(principal, project_id)
    parameters = {"owner": principal.owner, "project": project_id}
    row = await (await connection.execute(_LOOK, parameters)).fetchone()
    if row is None:
        await connection.execute(_CLAIM, {**parameters, "key": str(uuid4()), "model": choose_model()})
        # Not what we wrote, perhaps: another request may have been first.
        row = await (await connection.execute(_LOOK, parameters)).fetchone()
    if row is None:
        raise Conflict(f"project {project_id!r} was deleted at this moment; send the document again")
    return Claimed(**row)


def check_allowed(principal: Principal, project_id: str) -> None:
    """Raises `NotFound` for a project that the credential does not extend to."""
    if principal.projects is not None and project_id not in principal.projects:
        raise no_such_project(project_id)


def check_project_id(project_id: str) -> None:
    """Raises `InvalidParameter` for an id that no project may have."""
    if not is_project_id(project_id):
        problem = f"{project_id[:MAX_PROJECT_ID]!r}: 1 to {MAX_PROJECT_ID} printable characters, and no slash"
        raise InvalidParameter("project_id", problem)


def is_project_id(project_id: str) -> bool:
    is_bounded = 0 < len(project_id) <= MAX_PROJECT_ID
    return is_bounded and project_id.isprintable() and "/" not in project_id and project_id not in DOTS


def no_such_project(project_id: str) -> NotFound:
    return NotFound(f"no project {project_id[:MAX_PROJECT_ID]!r}; the first upload to it makes it")


def _whole(row: Mapping[str, Any]) -> dict[str, int]:
    """Sums are numerics in PostgreSQL."""
    return {name: int(row[name]) for name in ("passages", "size_bytes")}


def _found(row: Mapping[str, Any] | None, project_id: str, sources: Sequence[str]) -> tuple[UUID, ...]:
    """The documents that `sources` names. Raises `InvalidParameter` naming those that it does not have."""
    found = set() if row is None else set(row["found"])
    if unknown := [source for source in sources if _as_uuid(source) not in found]:
        named = ", ".join(repr(source[:60]) for source in unknown[:SHOWN_SOURCES])
        more = f" and {len(unknown) - SHOWN_SOURCES} more" if len(unknown) > SHOWN_SOURCES else ""
        raise InvalidParameter("sources", f"no such documents in project {project_id!r}: {named}{more}")
    return tuple(sorted(found))


def _as_uuid(source: str) -> UUID | None:
    """Only as we write them: `UUID` itself would take braces, `urn:uuid:` and hyphens anywhere."""
    try:
        uuid = UUID(source)
    except ValueError:
        return None
    return uuid if str(uuid) == source.lower() else None
