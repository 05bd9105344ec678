"""Versions of deployments and their rollout; blacklists, the audit log; tokens, quotas and states of machines.

Frozen: later changes of the schema are later revisions, and nothing of the program is imported here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add tables and columns; what each deployment is now becomes its present version, which is not called good."""
    time = sa.DateTime(timezone=True)
    whole_or_integer = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("accounts", sa.Column("quota_gpu_num", sa.Integer(), nullable=True))
    op.add_column("accounts", sa.Column("quota_container_num", sa.Integer(), nullable=True))
    op.add_column("tokens", sa.Column("name", sa.String(), server_default="", nullable=False))
    op.add_column("tokens", sa.Column("last_used_at", time, nullable=True))
    op.add_column("tokens", sa.Column("expires_at", time, nullable=True))
    op.create_index("ix_tokens_account_id_created_at", "tokens", ["account_id", "created_at"])
    op.add_column("deployments", sa.Column("stable_version", sa.String(), nullable=True))
    op.add_column("deployments", sa.Column("is_paused", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("deployments", sa.Column("failure", sa.String(), server_default="", nullable=False))
    op.add_column("deployments", sa.Column("pruned_finished", sa.Integer(), server_default="0", nullable=False))
    op.add_column("deployments", sa.Column("pruned_completed", sa.Integer(), server_default="0", nullable=False))
    op.create_table(
        "deployment_versions",
        sa.Column("deployment_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("created_at", time, nullable=False),
        sa.Column("replaces_all", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_deployment_versions_account_id"),
        sa.ForeignKeyConstraint(["deployment_id"], ["deployments.id"], name="fk_deployment_versions_deployment_id"),
        sa.PrimaryKeyConstraint("deployment_id", "name", name="pk_deployment_versions"),
    )
    op.create_index("ix_deployment_versions_deployment_id_number", "deployment_versions", ["deployment_id", "number"])
    op.execute(
        "INSERT INTO deployment_versions (deployment_id, name, account_id, number, spec, created_at)"
        " SELECT id, version, account_id, 1, spec, edited_at FROM deployments"
    )
    op.add_column("containers", sa.Column("ready_at", time, nullable=True))
    op.add_column("machines", sa.Column("unreachable_since", time, nullable=True))
    op.add_column("machines", sa.Column("lost_at", time, nullable=True))
    op.add_column("machines", sa.Column("is_cordoned", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("machines", sa.Column("drain", sa.String(), server_default="none", nullable=False))
    op.create_index("ix_machines_drain", "machines", ["drain"])
    op.create_index("ix_machines_lost_at", "machines", ["lost_at"])
    op.create_table(
        "blacklist",
        sa.Column("account_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("machine_id", sa.String(), nullable=False),
        sa.Column("data_center", sa.String(), nullable=False),
        sa.Column("comment", sa.String(), nullable=False),
        sa.Column("created_at", time, nullable=False),
        sa.Column("updated_at", time, nullable=False),
        sa.Column("expires_at", time, nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_blacklist_account_id"),
        sa.PrimaryKeyConstraint("account_id", "machine_id", name="pk_blacklist"),
    )
    op.create_table(
        "audit",
        sa.Column("id", whole_or_integer, autoincrement=True, nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("token_id", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("detail", sa.String(), nullable=False),
        sa.Column("created_at", time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_account_id_id", "audit", ["account_id", "id"])
    op.create_index("ix_audit_target_id", "audit", ["target", "id"])
