"""Recordings to transcribe: the jobs, what was heard so far, the uploaded bytes; and seconds of audio in the ledger."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """In one transaction, as every migration."""
    # At the table's end, as in `domain.runs.RunRecord`: the ledger writes whole rows in this order.
    op.execute("ALTER TABLE runs ADD COLUMN audio_s double precision")
    _create_jobs()
    _create_pieces_and_files()


def downgrade() -> None:
    """Only a developer goes back: it deletes every transcript."""
    for table in ("transcription_pieces", "transcription_files", "transcription_jobs"):
        op.execute(f"DROP TABLE {table}")
    op.execute("ALTER TABLE runs DROP COLUMN audio_s")


def _create_jobs() -> None:
    """The columns of `services.audio.job.Job` and what the work on it needs besides."""
    # `queue_job` is procrastinate's id of the job. `claim` is the attempt that may write now, `attempts` counts those
    # since the last progress, `calls` is what was consumed so far. `target_s` and `max_s` say how the recording is cut:
    # the same way by every attempt.
    op.execute("""
        CREATE TABLE transcription_jobs (
            job_id uuid PRIMARY KEY,
            owner text NOT NULL,
            job_type text NOT NULL CHECK (job_type IN ('transcription_audio', 'transcription_meeting')),
            status text NOT NULL DEFAULT 'queued'
                CHECK (status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
            request_id text NOT NULL,
            project_id text,
            filename text NOT NULL,
            size_bytes bigint NOT NULL,
            duration_s double precision NOT NULL,
            requested_model text,
            language text,
            prompt text,
            context text NOT NULL CHECK (context IN ('chained', 'parallel')),
            target_s double precision NOT NULL,
            max_s double precision NOT NULL,
            progress_percent double precision NOT NULL DEFAULT 0,
            transcript jsonb,
            error text,
            queue_job bigint,
            claim uuid,
            attempts integer NOT NULL DEFAULT 0,
            calls jsonb NOT NULL DEFAULT '[]',
            created_at timestamptz NOT NULL DEFAULT now(),
            finished_at timestamptz
        )
    """)
    op.execute("CREATE INDEX transcription_jobs_owner ON transcription_jobs (owner, created_at DESC, job_id)")
    op.execute("CREATE INDEX transcription_jobs_finished_at ON transcription_jobs (finished_at)")


def _create_pieces_and_files() -> None:
    """What was heard so far, and the uploaded bytes: both go when the job ends."""
    op.execute("""
        CREATE TABLE transcription_pieces (
            job_id uuid NOT NULL REFERENCES transcription_jobs ON DELETE CASCADE,
            ordinal integer NOT NULL,
            start_s double precision NOT NULL,
            end_s double precision NOT NULL,
            overlap_s double precision NOT NULL,
            text text NOT NULL,
            language text,
            model text,
            segments jsonb,
            hops jsonb NOT NULL DEFAULT '[]',
            PRIMARY KEY (job_id, ordinal)
        )
    """)
    op.execute("""
        CREATE TABLE transcription_files (
            job_id uuid NOT NULL REFERENCES transcription_jobs ON DELETE CASCADE,
            ordinal integer NOT NULL,
            content bytea NOT NULL,
            PRIMARY KEY (job_id, ordinal)
        )
    """)
    # Audio is compressed already.
    op.execute("ALTER TABLE transcription_files ALTER COLUMN content SET STORAGE EXTERNAL")
