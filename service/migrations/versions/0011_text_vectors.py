"""Vectors of passages' wordings."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this version."""
    op.add_column("passage", sa.Column("text_hash", sa.String(), nullable=True))
    op.create_index("ix_passage_text_hash", "passage", ["text_hash"])
    op.create_table(
        "text_vector",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_text_vector"),
    )
    op.create_index("ix_text_vector_hash", "text_vector", ["hash"])
    op.create_index("uq_text_vector_model_hash", "text_vector", ["model", "hash"], unique=True)


def downgrade() -> None:
    """Back to full text alone."""
    op.drop_table("text_vector")
    op.drop_index("ix_passage_text_hash", table_name="passage")
    op.drop_column("passage", "text_hash")
