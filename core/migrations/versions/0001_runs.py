"""The ledger: one row a run. Figures that are not known are NULL."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """The columns of `domain.runs.RunRecord`, in its order."""
    op.execute("""
        CREATE TABLE runs (
            run_id uuid PRIMARY KEY,
            created_at timestamptz NOT NULL,
            request_id text NOT NULL,
            subject text NOT NULL,
            project_id text,
            agent text NOT NULL,
            requested_model text,
            model text NOT NULL,
            stream boolean NOT NULL,
            status text NOT NULL,
            error_code text,
            message_count bigint NOT NULL,
            input_tokens bigint,
            output_tokens bigint,
            estimated boolean NOT NULL,
            latency_s double precision NOT NULL,
            time_to_first_token_s double precision,
            cost_eur double precision,
            energy_kwh double precision,
            gwp_kgco2eq double precision,
            wcf_liters double precision,
            calls jsonb NOT NULL
        )
    """)
    op.execute("CREATE INDEX runs_created_at ON runs (created_at)")
    op.execute("CREATE INDEX runs_subject_created_at ON runs (subject, created_at)")


def downgrade() -> None:
    """Only a developer goes back: it deletes the ledger."""
    op.execute("DROP TABLE runs")
