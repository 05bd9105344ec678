"""The ingress's ports, root passwords, how far drains have come, and public SSH keys.

Frozen: later changes of the schema are later revisions, and nothing of the program is imported here.

Containers that are there get no addresses: they keep their own until they are replaced.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add them."""
    time = sa.DateTime(timezone=True)
    op.add_column("containers", sa.Column("listen_ports", sa.JSON(), server_default="{}", nullable=False))
    op.add_column("containers", sa.Column("ssh_port", sa.Integer(), nullable=True))
    for name in ("host_address", "password", "password_hash"):
        op.add_column("containers", sa.Column(name, sa.String(), server_default="", nullable=False))
    op.add_column("containers", sa.Column("drain", sa.String(), server_default="none", nullable=False))
    op.create_table(
        "listen_ports",
        sa.Column("port", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("container_id", sa.String(), nullable=True),
        sa.Column("freed_at", time, nullable=True),
        sa.PrimaryKeyConstraint("port", name="pk_listen_ports"),
    )
    op.create_index("ix_listen_ports_container_id", "listen_ports", ["container_id"])
    op.create_index("ix_listen_ports_freed_at", "listen_ports", ["freed_at"])
    op.create_table(
        "ssh_keys",
        sa.Column("account_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("created_at", time, nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_ssh_keys_account_id"),
        sa.PrimaryKeyConstraint("account_id", "fingerprint", name="pk_ssh_keys"),
    )
