"""Images with digests, prewarms and credentials; the reuse pool; devices of machines.

Frozen: later changes of the schema are later revisions, and nothing of the program is imported here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add tables and columns; what is there keeps its meaning."""
    time = sa.DateTime(timezone=True)
    op.add_column("containers", sa.Column("image_uuid", sa.String(), nullable=True))
    op.add_column("containers", sa.Column("image_reference", sa.String(), server_default="", nullable=False))
    op.add_column("containers", sa.Column("image_digest", sa.String(), server_default="", nullable=False))
    op.add_column("containers", sa.Column("reused_from", sa.String(), nullable=True))
    op.add_column("containers", sa.Column("placed_at", time, nullable=True))
    op.add_column("containers", sa.Column("is_pooled", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("containers", sa.Column("discard_at", time, nullable=True))
    op.create_index("ix_containers_is_pooled_account_id_number", "containers", ["is_pooled", "account_id", "number"])
    op.create_index("ix_containers_reused_from", "containers", ["reused_from"])
    op.add_column("machines", sa.Column("devices", sa.JSON(), server_default="[]", nullable=False))
    op.add_column("machines", sa.Column("problem", sa.String(), server_default="", nullable=False))
    op.add_column("images", sa.Column("digest", sa.String(), server_default="", nullable=False))
    op.add_column("images", sa.Column("status", sa.String(), server_default="finished", nullable=False))
    op.add_column("images", sa.Column("message", sa.String(), server_default="", nullable=False))
    op.add_column("images", sa.Column("source_container", sa.String(), nullable=True))
    op.create_table(
        "held_images",
        sa.Column("machine_id", sa.String(), nullable=False),
        sa.Column("reference", sa.String(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=True),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_held_images_account_id"),
        sa.PrimaryKeyConstraint("machine_id", "reference", name="pk_held_images"),
    )
    op.create_index("ix_held_images_reference", "held_images", ["reference"])
    op.create_table(
        "prewarms",
        sa.Column("image_uuid", sa.String(), nullable=False),
        sa.Column("machine_id", sa.String(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("updated_at", time, nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_prewarms_account_id"),
        sa.PrimaryKeyConstraint("image_uuid", "machine_id", name="pk_prewarms"),
    )
    op.create_index("ix_prewarms_state", "prewarms", ["state"])
    op.create_table(
        "registry_credentials",
        sa.Column("account_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("registry", sa.String(), nullable=False),
        sa.Column("sealed", sa.String(), nullable=False),
        sa.Column("updated_at", time, nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_registry_credentials_account_id"),
        sa.PrimaryKeyConstraint("account_id", "registry", name="pk_registry_credentials"),
    )
