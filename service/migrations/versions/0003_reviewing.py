"""Reviewing: decisions, verified answers, notices, and sources made on the page."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = ("review", "verified_answer", "verified_shown", "notice", "plugin_setting")

PEOPLES = "NOT simulated"
WAITING = (
    (
        "ix_turn_without_source",
        "turn",
        f"coalesce(json_array_length(prompt, '$.passages'), 0) = 0 AND {PEOPLES}",
        f"coalesce(json_array_length(prompt -> 'passages'), 0) = 0 AND {PEOPLES}",
    ),
    ("ix_thumb_down", "thumb", f"value < 0 AND {PEOPLES}", f"value < 0 AND {PEOPLES}"),
    ("ix_gold_answer_proposed", "gold_answer", "state = 'proposed'", "state = 'proposed'"),
)
"""Indexes of what waits for a reviewer: name, table, and which rows, on SQLite and PostgreSQL."""


def upgrade() -> None:
    """To this version. Corrections accepted before it are trained on, as they were, and are not
    shown as verified."""
    _create_reviews()
    _create_verified_answers()
    _create_notices()
    _create_plugin_settings()
    for name, table, sqlite, postgresql in WAITING:
        op.create_index(
            name,
            table,
            ["created_at"],
            sqlite_where=sa.text(sqlite),
            postgresql_where=sa.text(postgresql),
        )


def downgrade() -> None:
    """Back to corrections that are only trained on."""
    for name, table, _sqlite, _postgresql in WAITING:
        op.drop_index(name, table)
    for table in reversed(TABLES):
        op.drop_table(table)


def _moment(name: str, *, null: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=null)


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=null)


def _refers(table: str, column: str, other: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{other}.id"], name=f"fk_{table}_{column}_{other}")


def _create_reviews() -> None:
    op.create_table(
        "review",
        _text("id"),
        _text("kind"),
        _text("target_id"),
        _text("decision"),
        _text("reason", null=True),
        sa.Column("details", sa.JSON(), nullable=False),
        _text("person_id", null=True),
        _text("by"),
        _moment("created_at"),
        _refers("review", "person_id", "person"),
        sa.PrimaryKeyConstraint("id", name="pk_review"),
    )
    op.create_index("ix_review_kind_target_id", "review", ["kind", "target_id"])
    op.create_index("ix_review_person_id", "review", ["person_id"])
    op.create_index("ix_review_created_at", "review", ["created_at"])


def _create_verified_answers() -> None:
    op.create_table(
        "verified_answer",
        _text("id"),
        _text("gold_answer_id"),
        _text("wording"),
        _text("question"),
        _text("answer"),
        sa.Column("rests_on", sa.JSON(), nullable=False),
        _text("by"),
        _text("person_id", null=True),
        _moment("created_at"),
        _moment("withdrawn_at", null=True),
        _refers("verified_answer", "gold_answer_id", "gold_answer"),
        _refers("verified_answer", "person_id", "person"),
        sa.PrimaryKeyConstraint("id", name="pk_verified_answer"),
    )
    op.create_index("ix_verified_answer_wording", "verified_answer", ["wording", "withdrawn_at"])
    for column in ("gold_answer_id", "person_id", "created_at"):
        op.create_index(f"ix_verified_answer_{column}", "verified_answer", [column])
    op.create_table(
        "verified_shown",
        _text("turn_id"),
        _text("verified_id"),
        _moment("created_at"),
        _refers("verified_shown", "turn_id", "turn"),
        _refers("verified_shown", "verified_id", "verified_answer"),
        sa.PrimaryKeyConstraint("turn_id", name="pk_verified_shown"),
    )
    op.create_index("ix_verified_shown_verified_id", "verified_shown", ["verified_id"])


def _create_notices() -> None:
    op.create_table(
        "notice",
        _text("id"),
        _text("person_id"),
        _text("about"),
        _text("text"),
        _text("link", null=True),
        _moment("created_at"),
        _moment("read_at", null=True),
        _refers("notice", "person_id", "person"),
        sa.PrimaryKeyConstraint("id", name="pk_notice"),
    )
    op.create_index("uq_notice_person_id_about", "notice", ["person_id", "about"], unique=True)
    op.create_index("ix_notice_person_id_created_at", "notice", ["person_id", "created_at"])


def _create_plugin_settings() -> None:
    op.create_table(
        "plugin_setting",
        _text("id"),
        _text("kind"),
        _text("name"),
        _text("plugin"),
        sa.Column("fields", sa.JSON(), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        _text("changed_by"),
        _moment("changed_at"),
        _moment("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_plugin_setting"),
    )
    op.create_index("uq_plugin_setting_kind_name", "plugin_setting", ["kind", "name"], unique=True)
