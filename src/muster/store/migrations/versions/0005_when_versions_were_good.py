"""When a version proved itself, so that undo never goes to one that did not.

Frozen: later changes of the schema are later revisions, and nothing of the program is imported here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the time; those that are the last good ones now are known to be."""
    op.add_column("deployment_versions", sa.Column("good_at", sa.DateTime(timezone=True), nullable=True))
    op.execute(
        "UPDATE deployment_versions SET good_at = created_at WHERE EXISTS (SELECT 1 FROM deployments WHERE"
        " deployments.id = deployment_versions.deployment_id AND deployments.stable_version = deployment_versions.name)"
    )
