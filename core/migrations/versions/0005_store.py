"""What agents remember over threads: the table of LangGraph's store."""

from alembic import op
from langgraph.store.postgres.base import MIGRATIONS

revision = "0005"
down_revision = "0004"

STORE_STEPS = 4
"""How many of the store's own migrations this one runs; a version of it with more needs one of ours."""


def upgrade() -> None:
    """The table is new: its index need not be built beside running transactions, and cannot inside ours."""
    for step in MIGRATIONS[:STORE_STEPS]:
        op.execute(step.replace("CONCURRENTLY ", ""))


def downgrade() -> None:
    """Only a developer goes back: it deletes all that agents have remembered."""
    op.execute("DROP TABLE store")
