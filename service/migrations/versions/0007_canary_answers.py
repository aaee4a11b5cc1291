"""Canary answers are counted by an index, not by reading every answer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this version."""
    op.create_index(
        "ix_candidate_canary",
        "candidate",
        ["version_id"],
        sqlite_where=sa.text("canary = 1"),
        postgresql_where=sa.text("canary"),
    )


def downgrade() -> None:
    """Back to counting without it."""
    op.drop_index("ix_candidate_canary", table_name="candidate")
