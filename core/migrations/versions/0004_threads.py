"""Threads: whose they are, who runs on them now, and the tables of LangGraph's checkpointer."""

from alembic import op
from langgraph.checkpoint.postgres.base import BasePostgresSaver

revision = "0004"
down_revision = "0003"

CHECKPOINTER_STEPS = 10
"""How many of the checkpointer's own migrations this one runs; a version of it with more needs one of ours."""


def upgrade() -> None:
    """One run at a time holds a thread, by a lease that a dead process lets go of in time."""
    op.execute("""
        CREATE TABLE threads (
            thread_id text PRIMARY KEY,
            owner text NOT NULL,
            agent text NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            used_at timestamptz NOT NULL DEFAULT now(),
            turns bigint NOT NULL DEFAULT 0,
            messages bigint NOT NULL DEFAULT 0,
            waits boolean NOT NULL DEFAULT false,
            run_id uuid,
            leased_until timestamptz
        )
    """)
    op.execute("CREATE INDEX threads_owner_used_at ON threads (owner, used_at DESC)")
    op.execute("CREATE INDEX threads_used_at ON threads (used_at)")
    for number, step in enumerate(BasePostgresSaver.MIGRATIONS[:CHECKPOINTER_STEPS]):
        # The tables are new: their indexes need not be built beside running transactions, and cannot inside ours.
        op.execute(step.replace("CONCURRENTLY ", ""))
        op.execute(f"INSERT INTO checkpoint_migrations (v) VALUES ({number})")  # noqa: S608  # nosec B608 - a number of ours


def downgrade() -> None:
    """Every conversation goes."""
    tables = ("checkpoint_writes", "checkpoint_blobs", "checkpoints", "checkpoint_migrations", "threads")
    op.execute(f"DROP TABLE {', '.join(tables)}")
