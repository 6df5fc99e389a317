"""Runs whose process died: how long they took is not known."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """The status `lost` needs no change: the column is text."""
    op.execute("ALTER TABLE runs ALTER COLUMN latency_s DROP NOT NULL")


def downgrade() -> None:
    """Only a developer goes back."""
    op.execute("DELETE FROM runs WHERE latency_s IS NULL")
    op.execute("ALTER TABLE runs ALTER COLUMN latency_s SET NOT NULL")
