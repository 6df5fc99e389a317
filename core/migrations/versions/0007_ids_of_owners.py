"""Ids of threads and projects belong to their owner: two owners may use the same one."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """`thread_id` and `project_id` stay the keys that other tables refer to; new ones are made by the server.

    `name` is the id that the owner uses; rows without one, those of former versions too, are known by their key.
    """
    for table, key in (("threads", "thread_id"), ("projects", "project_id")):
        op.execute(f"ALTER TABLE {table} ADD COLUMN name text")
        op.execute(f"CREATE UNIQUE INDEX {table}_owner_name ON {table} (owner, (coalesce(name, {key})))")


def downgrade() -> None:
    """Only a developer goes back: the server's keys become the ids that owners use."""
    for table in ("threads", "projects"):
        op.execute(f"DROP INDEX {table}_owner_name")
        op.execute(f"ALTER TABLE {table} DROP COLUMN name")
