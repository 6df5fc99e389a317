"""Projects, their documents and passages, and the queue of background jobs."""

from typing import Any

import psycopg
from alembic import op
from procrastinate.schema import SchemaManager

from core.migration import MissingExtensionError

revision = "0003"
down_revision = "0002"

PROCRASTINATE_VERSION = "3.10.0"
"""Whose schema this migration lays down. A later version brings migrations of its own, for a migration of ours."""

MIN_PGVECTOR = (0, 7, 0)
"""The first with `halfvec` and `binary_quantize`."""


def upgrade() -> None:
    """In one transaction, as every migration."""
    _create_vector_extension()
    _create_documents()
    _create_passages()
    # By the driver itself: the text is full of per cent signs and colons, which SQLAlchemy would read.
    _driver().execute(SchemaManager.get_schema())


def downgrade() -> None:
    """Only a developer goes back: it deletes every document. The extension stays, for it may be someone else's too."""
    for table in ("passages", "document_files", "documents", "projects"):
        op.execute(f"DROP TABLE {table}")
    for table in (
        "procrastinate_events",
        "procrastinate_periodic_defers",
        "procrastinate_jobs",
        "procrastinate_workers",
    ):
        op.execute(f"DROP TABLE {table} CASCADE")
    op.execute("""
        DO $$ DECLARE made record; BEGIN
            FOR made IN SELECT oid::regprocedure AS name FROM pg_proc WHERE proname LIKE 'procrastinate\\_%' LOOP
                EXECUTE 'DROP FUNCTION ' || made.name;
            END LOOP;
        END $$
    """)
    op.execute("DROP TYPE procrastinate_job_to_defer_v1, procrastinate_job_event_type, procrastinate_job_status")


def _create_vector_extension() -> None:
    connection = _driver()
    found = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
    is_there = found is not None
    if not is_there:
        found = connection.execute(
            "SELECT default_version FROM pg_available_extensions WHERE name = 'vector'"
        ).fetchone()
    if found is None:
        raise MissingExtensionError("the PostgreSQL of DATABASE_URL lacks pgvector: install it there (0.7 or newer)")
    if tuple(int(part) for part in found[0].split(".")) < MIN_PGVECTOR:
        raise MissingExtensionError(f"the pgvector of DATABASE_URL is {found[0]}: 0.7 or newer is needed")
    if not is_there:
        _enable(connection)


def _driver() -> psycopg.Connection[tuple[Any, ...]]:
    """The connection beneath SQLAlchemy's, in the same transaction."""
    connection: psycopg.Connection[tuple[Any, ...]] | None = op.get_bind().connection.driver_connection
    if connection is None:
        raise RuntimeError("the migration has no connection")
    return connection


def _enable(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    try:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except psycopg.errors.InsufficientPrivilege as error:
        problem = "the user of DATABASE_URL may not enable pgvector: have an administrator run CREATE EXTENSION vector"
        raise MissingExtensionError(problem) from error


def _create_documents() -> None:
    op.execute("""
        CREATE TABLE projects (
            project_id text PRIMARY KEY,
            owner text NOT NULL,
            embedding_model text NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now()
        )
    """)
    # `queue_job` is procrastinate's id of the job. `claim` is the attempt that may write now, `attempts` counts those
    # since the last progress, `usage` is what the embeddings consumed so far.
    op.execute("""
        CREATE TABLE documents (
            document_id uuid PRIMARY KEY,
            project_id text NOT NULL REFERENCES projects,
            job_id uuid NOT NULL,
            queue_job bigint,
            request_id text NOT NULL,
            title text NOT NULL,
            media_type text NOT NULL,
            size_bytes bigint NOT NULL,
            sha256 bytea NOT NULL,
            status text NOT NULL DEFAULT 'queued' CHECK (status IN ('queued', 'running', 'succeeded', 'failed')),
            progress_percent double precision NOT NULL DEFAULT 0,
            pages integer,
            passages integer NOT NULL DEFAULT 0,
            error text,
            claim uuid,
            attempts integer NOT NULL DEFAULT 0,
            usage jsonb NOT NULL DEFAULT '[]',
            created_at timestamptz NOT NULL DEFAULT now(),
            finished_at timestamptz,
            UNIQUE (project_id, sha256)
        )
    """)
    op.execute("CREATE INDEX documents_project_created_at ON documents (project_id, created_at, document_id)")
    op.execute("""
        CREATE TABLE document_files (
            document_id uuid NOT NULL REFERENCES documents ON DELETE CASCADE,
            ordinal integer NOT NULL,
            content bytea NOT NULL,
            PRIMARY KEY (document_id, ordinal)
        )
    """)
    # The bytes of PDFs, DOCX and PPTX are compressed already.
    op.execute("ALTER TABLE document_files ALTER COLUMN content SET STORAGE EXTERNAL")


def _create_passages() -> None:
    """What was measured, over 20,000 passages of one project: services/rag/search.py."""
    op.execute("""
        CREATE TABLE passages (
            passage_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            project_id text NOT NULL,
            document_id uuid NOT NULL REFERENCES documents ON DELETE CASCADE,
            ordinal integer NOT NULL,
            text text NOT NULL,
            headings text[] NOT NULL,
            page integer,
            start_char integer NOT NULL,
            end_char integer NOT NULL,
            embedding halfvec NOT NULL,
            code bit(512) NOT NULL,
            lexemes tsvector NOT NULL,
            UNIQUE (document_id, ordinal)
        )
    """)
    # In the row itself: 400 of them are read for a question.
    op.execute("ALTER TABLE passages ALTER COLUMN embedding SET STORAGE MAIN")
    # Read alone, without the table, by the coarse step of each search.
    op.execute("CREATE INDEX passages_codes ON passages (project_id) INCLUDE (passage_id, document_id, code)")
    op.execute("CREATE INDEX passages_lexemes ON passages USING gin (lexemes) WITH (fastupdate = off)")
