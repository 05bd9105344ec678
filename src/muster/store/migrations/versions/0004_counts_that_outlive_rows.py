"""Counts that need no rows: how many events there are, and what pruned containers were good for.

Frozen: later changes of the schema are later revisions, and nothing of the program is imported here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the counts; those of events begin with what the log holds now."""
    op.create_table(
        "event_counts",
        sa.Column("account_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("deployment_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "deployment_id", "kind", name="pk_event_counts"),
    )
    op.execute(
        "INSERT INTO event_counts (account_id, deployment_id, kind, total)"
        " SELECT account_id, deployment_id, kind, COUNT(*) FROM events GROUP BY account_id, deployment_id, kind"
    )
    op.create_table(
        "fresh_starts",
        sa.Column("account_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("image_uuid", sa.String(), nullable=False),
        sa.Column("image_reference", sa.String(), nullable=False),
        sa.Column("starts", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "image_uuid", "image_reference", name="pk_fresh_starts"),
    )
    op.add_column("deployments", sa.Column("pruned_starts", sa.Integer(), server_default="0", nullable=False))
    op.add_column("deployments", sa.Column("pruned_reuses", sa.Integer(), server_default="0", nullable=False))
    op.add_column("deployments", sa.Column("pruned_seconds_saved", sa.Float(), server_default="0", nullable=False))
