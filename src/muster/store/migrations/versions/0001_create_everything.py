"""Create everything.

Frozen: later changes of the schema are later revisions, and nothing of the program is imported here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create all tables; going back is restoring a copy of the file."""
    event_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "accounts",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_accounts"),
        sa.UniqueConstraint("name", name="uq_accounts_name"),
    )
    op.create_table(
        "event_horizon",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("pruned_through", event_id, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_event_horizon"),
    )
    op.create_table(
        "events",
        sa.Column("id", event_id, autoincrement=True, nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("deployment_id", sa.String(), nullable=False),
        sa.Column("container_id", sa.String(), nullable=False),
        sa.Column("container_uuid", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_events_account_id_container_uuid_kind_id", "events", ["account_id", "container_uuid", "kind", "id"]
    )
    op.create_index(
        "ix_events_account_id_deployment_id_kind_id", "events", ["account_id", "deployment_id", "kind", "id"]
    )
    op.create_index("ix_events_account_id_id", "events", ["account_id", "id"])
    op.create_index("ix_events_account_id_kind_id", "events", ["account_id", "kind", "id"])
    op.create_table(
        "deployments",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("edited_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_deployments_account_id"),
        sa.PrimaryKeyConstraint("number", name="pk_deployments"),
        sa.UniqueConstraint("id", name="uq_deployments_id"),
    )
    op.create_index("ix_deployments_account_id_name_number", "deployments", ["account_id", "name", "number"])
    op.create_index("ix_deployments_account_id_number", "deployments", ["account_id", "number"])
    op.create_index("ix_deployments_status_number", "deployments", ["status", "number"])
    op.create_table(
        "images",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("uuid", sa.String(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("reference", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_images_account_id"),
        sa.PrimaryKeyConstraint("number", name="pk_images"),
        sa.UniqueConstraint("uuid", name="uq_images_uuid"),
    )
    op.create_index("ix_images_account_id_number", "images", ["account_id", "number"])
    op.create_table(
        "machines",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=True),
        sa.Column("data_center", sa.String(), nullable=False),
        sa.Column("gpu_name", sa.String(), nullable=False),
        sa.Column("gpu_num", sa.Integer(), nullable=False),
        sa.Column("cpu_num", sa.Integer(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("cuda", sa.Integer(), nullable=False),
        sa.Column("price_milliyuan", sa.Integer(), nullable=False),
        sa.Column("disk_bytes", sa.BigInteger(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("chip_corp", sa.String(), nullable=False),
        sa.Column("cpu_arch", sa.String(), nullable=False),
        sa.Column("is_retired", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_machines_account_id"),
        sa.PrimaryKeyConstraint("id", name="pk_machines"),
    )
    op.create_table(
        "tokens",
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("prefix", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_tokens_account_id"),
        sa.PrimaryKeyConstraint("hash", name="pk_tokens"),
    )
    op.create_table(
        "containers",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("deployment_id", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("stop_reason", sa.String(), nullable=True),
        sa.Column("stop_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stop_no_cache", sa.Boolean(), nullable=True),
        sa.Column("stop_cmd_before_shutdown", sa.String(), nullable=True),
        sa.Column("machine_id", sa.String(), nullable=True),
        sa.Column("data_center", sa.String(), nullable=True),
        sa.Column("gpu_name", sa.String(), nullable=True),
        sa.Column("gpu_indices", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("gpu_num", sa.Integer(), nullable=True),
        sa.Column("cpu_num", sa.Integer(), nullable=True),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("price_milliyuan", sa.Integer(), nullable=True),
        sa.Column("uuid", sa.String(), nullable=True),
        sa.Column("status", sa.String(), nullable=True),
        sa.Column("addresses", sa.JSON(), nullable=False),
        sa.Column("is_ready", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_containers_account_id"),
        sa.ForeignKeyConstraint(["deployment_id"], ["deployments.id"], name="fk_containers_deployment_id"),
        sa.PrimaryKeyConstraint("number", name="pk_containers"),
        sa.UniqueConstraint("id", name="uq_containers_id"),
        sa.UniqueConstraint("uuid", name="uq_containers_uuid"),
    )
    op.create_index(
        "ix_containers_account_id_deployment_id_number", "containers", ["account_id", "deployment_id", "number"]
    )
    op.create_index("ix_containers_account_id_number", "containers", ["account_id", "number"])
    op.create_index(
        "ix_containers_deployment_id_finished_at_number", "containers", ["deployment_id", "finished_at", "number"]
    )
    op.create_index("ix_containers_deployment_id_status", "containers", ["deployment_id", "status"])
    op.create_index("ix_containers_finished_at_number", "containers", ["finished_at", "number"])
    op.create_index("ix_containers_released_at_number", "containers", ["released_at", "number"])
    op.create_table(
        "gpu_claims",
        sa.Column("machine_id", sa.String(), nullable=False),
        sa.Column("gpu_index", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("container_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_gpu_claims_account_id"),
        sa.ForeignKeyConstraint(["container_id"], ["containers.id"], name="fk_gpu_claims_container_id"),
        sa.PrimaryKeyConstraint("machine_id", "gpu_index", name="pk_gpu_claims"),
    )
    op.create_index("ix_gpu_claims_container_id", "gpu_claims", ["container_id"])
