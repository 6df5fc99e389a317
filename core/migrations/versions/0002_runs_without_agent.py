"""A plain model's run has no agent."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Older servers, which always name one, go on as before."""
    op.execute("ALTER TABLE runs ALTER COLUMN agent DROP NOT NULL")


def downgrade() -> None:
    """The runs of plain models go, for the older schema has no place for them."""
    op.execute("DELETE FROM runs WHERE agent IS NULL")
    op.execute("ALTER TABLE runs ALTER COLUMN agent SET NOT NULL")
