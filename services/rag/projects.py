"""Projects: whose they are. Every look into one begins here, and somebody else's is as one that does not exist."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from core.database import Database
from domain.documents import SearchFilter
from domain.errors import InvalidParameter, NotFound
from domain.principals import Principal

MAX_PROJECT_ID = 128
SHOWN_SOURCES = 100
"""How many unknown sources a refusal names."""

_FIND = """
    SELECT owner, ARRAY(
        SELECT document_id FROM documents WHERE project_id = %(project)s AND document_id = ANY(%(sources)s)
    ) AS found
    FROM projects WHERE project_id = %(project)s
"""
_LOOK = "SELECT owner, embedding_model FROM projects WHERE project_id = %s"
_CLAIM = """
    INSERT INTO projects (project_id, owner, embedding_model) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING
"""


class Projects:
    """Callers choose their projects' ids. The first upload makes an id its caller's, for good."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open_filter(
        self, principal: Principal, project_id: str, sources: Sequence[str] = ()
    ) -> SearchFilter | None:
        """What a search for this caller may look at; `None` for a project that nobody has: there is nothing to find.

        Raises `NotFound` for a project that is not the caller's, and `InvalidParameter` naming each of `sources` that
        is no document of it.
        """
        row = await self._find_own(principal, project_id, sources)
        found = _found(row, project_id, sources)
        return None if row is None else SearchFilter(project_id, found)

    async def open_filter_or_raise(
        self, principal: Principal, project_id: str, sources: Sequence[str] = ()
    ) -> SearchFilter:
        """The same, where a project that nobody has is an error: `NotFound`."""
        row = await self._find_own(principal, project_id, sources)
        if row is None:
            raise no_such_project(project_id)
        return SearchFilter(project_id, _found(row, project_id, sources))

    async def check_upload(self, principal: Principal, project_id: str) -> None:
        """Raises `NotFound` when the project is somebody else's; before megabytes are read for nothing."""
        check_project_id(project_id)
        await self._find_own(principal, project_id, ())

    async def _find_own(
        self, principal: Principal, project_id: str, sources: Sequence[str]
    ) -> Mapping[str, Any] | None:
        """The project's row, with those of `sources` that are its documents; `None` when nobody has it."""
        check_allowed(principal, project_id)
        if not is_project_id(project_id):
            return None  # Among them what PostgreSQL could not even be asked for.
        uuids = [uuid for uuid in map(_as_uuid, sources) if uuid is not None]
        async with self._database.connection() as connection:
            cursor = await connection.execute(_FIND, {"project": project_id, "sources": uuids})
            row = await cursor.fetchone()
        if row is not None and row["owner"] != principal.subject:
            raise no_such_project(project_id)
        return row


async def claim_project(
    connection: AsyncConnection[DictRow], principal: Principal, project_id: str, choose_model: Callable[[], str]
) -> str:
    """Make the project the caller's unless it has an owner, in the caller's transaction. Gives the project's model.

    `choose_model` names the embedding model of a project that begins. Raises `NotFound` when it is somebody else's.
    """
    check_allowed(principal, project_id)
    row = await (await connection.execute(_LOOK, (project_id,))).fetchone()
    if row is None:
        await connection.execute(_CLAIM, (project_id, principal.subject, choose_model()))
        # Not what we wrote, perhaps: another caller may have been first.
        row = await (await connection.execute(_LOOK, (project_id,))).fetchone()
    if row is None or row["owner"] != principal.subject:
        raise no_such_project(project_id)
    return str(row["embedding_model"])


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
    return 0 < len(project_id) <= MAX_PROJECT_ID and project_id.isprintable() and "/" not in project_id


def no_such_project(project_id: str) -> NotFound:
    return NotFound(f"no project {project_id[:MAX_PROJECT_ID]!r}; the first upload to it makes it")


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
