"""Each answer tells whether it was a canary, and on which engine it was made."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this version. Answers from before it were no canaries; their engine is not known."""
    op.add_column(
        "candidate",
        sa.Column("canary", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    op.add_column("candidate", sa.Column("engine", sa.JSON(), nullable=False, server_default="{}"))


def downgrade() -> None:
    """Back to answers that tell neither."""
    op.drop_column("candidate", "engine")
    op.drop_column("candidate", "canary")
