"""Syncs that keep what they read page by page, and questions without answers."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from service.tables import UtcDateTime

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

Columns = tuple[tuple[str, sa.types.TypeEngine[Any], Any], ...]

SOURCE: Columns = (("unfinished", sa.Boolean(), sa.false()), ("generation", sa.Integer(), "0"))
REPORT: Columns = (
    ("rejected_count", sa.Integer(), "0"),
    ("read", sa.Integer(), "0"),
    ("waiting", sa.String(), None),
    ("alive_until", UtcDateTime(), None),
)


def upgrade() -> None:
    """To this version."""
    for name, kind, default in SOURCE:
        column = sa.Column(name, kind, nullable=False, server_default=default)
        op.add_column("data_source", column)
    for name, kind, default in REPORT:
        column = sa.Column(name, kind, nullable=default is None, server_default=default)
        op.add_column("sync_report", column)
    op.execute("UPDATE sync_report SET rejected_count = json_array_length(rejected)")
    op.create_table(
        "listed_item",
        sa.Column("source_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("external_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["source_id"], ["data_source.id"], name="fk_listed_item_source_id_data_source"
        ),
        sa.PrimaryKeyConstraint("source_id", "kind", "external_id", name="pk_listed_item"),
    )
    op.create_table(
        "source_question",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("source_id", sa.String(), nullable=False),
        sa.Column("external_id", sa.String(), nullable=False),
        sa.Column("question", sa.String(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["source_id"], ["data_source.id"], name="fk_source_question_source_id_data_source"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_source_question"),
    )
    op.create_index("ix_source_question_created_at", "source_question", ["created_at"])
    op.create_index(
        "uq_source_question_source_id_external_id",
        "source_question",
        ["source_id", "external_id"],
        unique=True,
    )


def downgrade() -> None:
    """Back to syncs of one page."""
    op.drop_table("source_question")
    op.drop_table("listed_item")
    for name, _kind, _default in REPORT:
        op.drop_column("sync_report", name)
    for name, _kind, _default in SOURCE:
        op.drop_column("data_source", name)
