"""Which process holds a thread, and what became of its last run."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """`holder` numbers an advisory lock that lives as long as its process; where it is null the lease alone counts.

    `whole_at` is the number of turns after which the state was seen at rest, with nothing asked and nothing open.
    """
    op.execute("""
        ALTER TABLE threads ADD COLUMN holder integer, ADD COLUMN last_run uuid, ADD COLUMN last_status text,
            ADD COLUMN whole_at bigint
    """)


def downgrade() -> None:
    """Holds are leases again."""
    op.execute("ALTER TABLE threads DROP COLUMN holder, DROP COLUMN last_run, DROP COLUMN last_status, DROP whole_at")
