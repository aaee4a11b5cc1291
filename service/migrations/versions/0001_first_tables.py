"""The first tables, the append-only triggers, and the full-text index over passages."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

APPEND_ONLY = ("candidate", "thumb", "comparison")
TABLES = (
    "data_source",
    "document",
    "passage",
    "sync_report",
    "person",
    "policy_version",
    "alias",
    "training_run",
    "stage_report",
    "gate_report",
    "promotion",
    "job_run",
    "service_instance",
    "conversation",
    "turn",
    "candidate",
    "comparison",
    "thumb",
    "gold_answer",
)
"""In an order where each refers to earlier ones only."""


def upgrade() -> None:
    """To this version."""
    _create_sources()
    _create_people_and_policies()
    _create_runs()
    _create_operations()
    _create_conversations()
    _create_feedback()
    if op.get_bind().dialect.name == "postgresql":
        _create_postgresql_triggers()
        _create_postgresql_search()
    else:
        _create_sqlite_triggers()
        _create_sqlite_search()


def downgrade() -> None:
    """Back to an empty database."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TABLE passage_search")
    else:
        op.execute("DROP TABLE passage_search_row")
        op.execute("DROP TABLE passage_search")
    for table in reversed(TABLES):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION heed_append_only()")
        op.execute("DROP FUNCTION heed_index_passage()")


def _create_sources() -> None:
    op.create_table(
        "data_source",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("plugin", sa.String(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("options_hash", sa.String(), nullable=False),
        sa.Column("cursor", sa.JSON(), nullable=False),
        sa.Column("synced_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_data_source"),
        sa.UniqueConstraint("name", name="uq_data_source_name"),
    )
    op.create_index("ix_data_source_created_at", "data_source", ["created_at"])
    op.create_table(
        "document",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("source_id", sa.String(), nullable=False),
        sa.Column("external_id", sa.String(), nullable=False),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=True),
        sa.Column("updated", sa.DateTime(timezone=True), nullable=True),
        sa.Column("readers", sa.JSON(), nullable=False),
        sa.Column("content_hash", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["source_id"], ["data_source.id"], name="fk_document_source_id_data_source"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_document"),
    )
    op.create_index("ix_document_created_at", "document", ["created_at"])
    op.create_index("ix_document_source_id", "document", ["source_id"])
    op.create_index(
        "uq_document_source_id_external_id", "document", ["source_id", "external_id"], unique=True
    )
    op.create_table(
        "passage",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("document_id", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("heading", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["document_id"],
            ["document.id"],
            name="fk_passage_document_id_document",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_passage"),
    )
    op.create_index("ix_passage_document_id", "passage", ["document_id"])
    op.create_table(
        "sync_report",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("source_id", sa.String(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("added", sa.Integer(), nullable=False),
        sa.Column("changed", sa.Integer(), nullable=False),
        sa.Column("removed", sa.Integer(), nullable=False),
        sa.Column("unchanged", sa.Integer(), nullable=False),
        sa.Column("rejected", sa.JSON(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["source_id"], ["data_source.id"], name="fk_sync_report_source_id_data_source"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_sync_report"),
    )
    op.create_index("ix_sync_report_created_at", "sync_report", ["created_at"])
    op.create_index("ix_sync_report_source_id", "sync_report", ["source_id"])


def _create_people_and_policies() -> None:
    op.create_table(
        "person",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("token_hash", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_person"),
        sa.UniqueConstraint("token_hash", name="uq_person_token_hash"),
    )
    op.create_index("ix_person_created_at", "person", ["created_at"])
    op.create_table(
        "policy_version",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("parent_id", sa.String(), nullable=True),
        sa.Column("run_id", sa.String(), nullable=True),
        sa.Column("snapshot_hash", sa.String(), nullable=True),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["policy_version.id"], name="fk_policy_version_parent_id_policy_version"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_policy_version"),
        sa.UniqueConstraint("number", name="uq_policy_version_number"),
    )
    op.create_index("ix_policy_version_created_at", "policy_version", ["created_at"])
    op.create_index("ix_policy_version_run_id", "policy_version", ["run_id"])
    op.create_table(
        "alias",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version_id", sa.String(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["policy_version.id"], name="fk_alias_version_id_policy_version"
        ),
        sa.PrimaryKeyConstraint("name", name="pk_alias"),
    )


def _create_runs() -> None:
    op.create_table(
        "training_run",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("folder", sa.String(), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("snapshot_hash", sa.String(), nullable=True),
        sa.Column("comparisons", sa.Integer(), nullable=False),
        sa.Column("requested_by", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("lease_holder", sa.String(), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("fencing", sa.Integer(), nullable=False),
        sa.Column("candidate_id", sa.String(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["candidate_id"],
            ["policy_version.id"],
            name="fk_training_run_candidate_id_policy_version",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_training_run"),
    )
    op.create_index("ix_training_run_created_at", "training_run", ["created_at"])
    op.create_index("ix_training_run_state", "training_run", ["state"])
    op.create_table(
        "stage_report",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("stage", sa.String(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["training_run.id"], name="fk_stage_report_run_id_training_run"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_stage_report"),
    )
    op.create_index("ix_stage_report_created_at", "stage_report", ["created_at"])
    op.create_index("ix_stage_report_run_id", "stage_report", ["run_id"])
    op.create_index(
        "uq_stage_report_run_id_stage", "stage_report", ["run_id", "stage"], unique=True
    )
    op.create_table(
        "gate_report",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("sentence", sa.String(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["training_run.id"], name="fk_gate_report_run_id_training_run"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_gate_report"),
        sa.UniqueConstraint("run_id", name="uq_gate_report_run_id"),
    )
    op.create_index("ix_gate_report_created_at", "gate_report", ["created_at"])
    op.create_table(
        "promotion",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("version_id", sa.String(), nullable=False),
        sa.Column("replaced_id", sa.String(), nullable=True),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("evidence", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["replaced_id"], ["policy_version.id"], name="fk_promotion_replaced_id_policy_version"
        ),
        sa.ForeignKeyConstraint(
            ["run_id"], ["training_run.id"], name="fk_promotion_run_id_training_run"
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["policy_version.id"], name="fk_promotion_version_id_policy_version"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_promotion"),
    )
    op.create_index("ix_promotion_created_at", "promotion", ["created_at"])
    op.create_index("ix_promotion_state", "promotion", ["state"])
    op.create_index("ix_promotion_version_id", "promotion", ["version_id"])


def _create_operations() -> None:
    op.create_table(
        "job_run",
        sa.Column("job", sa.String(), nullable=False),
        sa.Column("slot", sa.DateTime(timezone=True), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("job", "slot", name="pk_job_run"),
    )
    op.create_table(
        "service_instance",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_service_instance"),
    )


def _create_conversations() -> None:
    op.create_table(
        "conversation",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("person_id", sa.String(), nullable=False),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["person_id"], ["person.id"], name="fk_conversation_person_id_person"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_conversation"),
    )
    op.create_index("ix_conversation_created_at", "conversation", ["created_at"])
    op.create_index("ix_conversation_person_id", "conversation", ["person_id"])
    op.create_table(
        "turn",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("conversation_id", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("question", sa.String(), nullable=False),
        sa.Column("prompt", sa.JSON(), nullable=False),
        sa.Column("compared", sa.Boolean(), nullable=False),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversation.id"], name="fk_turn_conversation_id_conversation"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_turn"),
    )
    op.create_index("ix_turn_conversation_id", "turn", ["conversation_id"])
    op.create_index("ix_turn_created_at", "turn", ["created_at"])
    op.create_table(
        "candidate",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("turn_id", sa.String(), nullable=False),
        sa.Column("side", sa.String(), nullable=False),
        sa.Column("version_id", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("token_ids", sa.JSON(), nullable=False),
        sa.Column("finish_reason", sa.String(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("first_token_ms", sa.Integer(), nullable=True),
        sa.Column("total_ms", sa.Integer(), nullable=True),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["turn_id"], ["turn.id"], name="fk_candidate_turn_id_turn"),
        sa.ForeignKeyConstraint(
            ["version_id"], ["policy_version.id"], name="fk_candidate_version_id_policy_version"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_candidate"),
    )
    op.create_index("ix_candidate_created_at", "candidate", ["created_at"])
    op.create_index("ix_candidate_turn_id", "candidate", ["turn_id"])
    op.create_index("ix_candidate_version_id", "candidate", ["version_id"])


def _create_feedback() -> None:
    op.create_table(
        "comparison",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("turn_id", sa.String(), nullable=False),
        sa.Column("person_id", sa.String(), nullable=False),
        sa.Column("candidate_a_id", sa.String(), nullable=False),
        sa.Column("candidate_b_id", sa.String(), nullable=False),
        sa.Column("choice", sa.String(), nullable=False),
        sa.Column("strength", sa.String(), nullable=True),
        sa.Column("decision_ms", sa.Integer(), nullable=True),
        sa.Column("replaces_id", sa.String(), nullable=True),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["candidate_a_id"], ["candidate.id"], name="fk_comparison_candidate_a_id_candidate"
        ),
        sa.ForeignKeyConstraint(
            ["candidate_b_id"], ["candidate.id"], name="fk_comparison_candidate_b_id_candidate"
        ),
        sa.ForeignKeyConstraint(
            ["person_id"], ["person.id"], name="fk_comparison_person_id_person"
        ),
        sa.ForeignKeyConstraint(
            ["replaces_id"], ["comparison.id"], name="fk_comparison_replaces_id_comparison"
        ),
        sa.ForeignKeyConstraint(["turn_id"], ["turn.id"], name="fk_comparison_turn_id_turn"),
        sa.PrimaryKeyConstraint("id", name="pk_comparison"),
        sa.UniqueConstraint("replaces_id", name="uq_comparison_replaces_id"),
    )
    op.create_index("ix_comparison_created_at", "comparison", ["created_at"])
    op.create_index("ix_comparison_person_id", "comparison", ["person_id"])
    op.create_index("ix_comparison_turn_id", "comparison", ["turn_id"])
    op.create_index(
        "uq_comparison_first",
        "comparison",
        ["turn_id", "person_id"],
        unique=True,
        sqlite_where=sa.text("replaces_id IS NULL"),
        postgresql_where=sa.text("replaces_id IS NULL"),
    )
    op.create_table(
        "thumb",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("candidate_id", sa.String(), nullable=False),
        sa.Column("person_id", sa.String(), nullable=False),
        sa.Column("value", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("comment", sa.String(), nullable=True),
        sa.Column("replaces_id", sa.String(), nullable=True),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["candidate_id"], ["candidate.id"], name="fk_thumb_candidate_id_candidate"
        ),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_thumb_person_id_person"),
        sa.ForeignKeyConstraint(["replaces_id"], ["thumb.id"], name="fk_thumb_replaces_id_thumb"),
        sa.PrimaryKeyConstraint("id", name="pk_thumb"),
        sa.UniqueConstraint("replaces_id", name="uq_thumb_replaces_id"),
    )
    op.create_index("ix_thumb_candidate_id", "thumb", ["candidate_id"])
    op.create_index("ix_thumb_created_at", "thumb", ["created_at"])
    op.create_index("ix_thumb_person_id", "thumb", ["person_id"])
    op.create_index(
        "uq_thumb_first",
        "thumb",
        ["candidate_id", "person_id"],
        unique=True,
        sqlite_where=sa.text("replaces_id IS NULL"),
        postgresql_where=sa.text("replaces_id IS NULL"),
    )
    op.create_table(
        "gold_answer",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("source_id", sa.String(), nullable=True),
        sa.Column("external_id", sa.String(), nullable=False),
        sa.Column("question", sa.String(), nullable=False),
        sa.Column("answer", sa.String(), nullable=False),
        sa.Column("author", sa.String(), nullable=True),
        sa.Column("updated", sa.DateTime(timezone=True), nullable=True),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("person_id", sa.String(), nullable=True),
        sa.Column("candidate_id", sa.String(), nullable=True),
        sa.Column("content_hash", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["candidate_id"], ["candidate.id"], name="fk_gold_answer_candidate_id_candidate"
        ),
        sa.ForeignKeyConstraint(
            ["person_id"], ["person.id"], name="fk_gold_answer_person_id_person"
        ),
        sa.ForeignKeyConstraint(
            ["source_id"], ["data_source.id"], name="fk_gold_answer_source_id_data_source"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_gold_answer"),
    )
    op.create_index("ix_gold_answer_created_at", "gold_answer", ["created_at"])
    op.create_index("ix_gold_answer_source_id", "gold_answer", ["source_id"])
    op.create_index(
        "uq_gold_answer_source_id_external_id",
        "gold_answer",
        ["source_id", "external_id"],
        unique=True,
    )


def _create_sqlite_triggers() -> None:
    for table in APPEND_ONLY:
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, 'rows of {table} are append-only'); END"
            )


def _create_postgresql_triggers() -> None:
    op.execute(
        "CREATE FUNCTION heed_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION 'rows of % are append-only', TG_TABLE_NAME; END $$"
    )
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION heed_append_only()"
        )


def _create_sqlite_search() -> None:
    # The index needs whole-number row ids that stay; those of `passage` may change in a VACUUM.
    op.execute(
        "CREATE TABLE passage_search_row "
        "(number INTEGER PRIMARY KEY AUTOINCREMENT, passage_id VARCHAR NOT NULL UNIQUE)"
    )
    op.execute(
        "CREATE VIRTUAL TABLE passage_search USING fts5"
        "(title, heading, text, tokenize = 'porter unicode61 remove_diacritics 2')"
    )
    op.execute(
        "CREATE TRIGGER passage_indexed AFTER INSERT ON passage BEGIN "
        "INSERT INTO passage_search_row (passage_id) VALUES (new.id); "
        "INSERT INTO passage_search (rowid, title, heading, text) "
        "SELECT r.number, d.title, new.heading, new.text FROM passage_search_row r, document d "
        "WHERE r.passage_id = new.id AND d.id = new.document_id; END"
    )
    op.execute(
        "CREATE TRIGGER passage_unindexed AFTER DELETE ON passage BEGIN "
        "DELETE FROM passage_search WHERE rowid = "
        "(SELECT number FROM passage_search_row WHERE passage_id = old.id); "
        "DELETE FROM passage_search_row WHERE passage_id = old.id; END"
    )


def _create_postgresql_search() -> None:
    op.execute(
        "CREATE TABLE passage_search (passage_id VARCHAR PRIMARY KEY "
        "REFERENCES passage (id) ON DELETE CASCADE, words TSVECTOR NOT NULL)"
    )
    op.execute("CREATE INDEX ix_passage_search_words ON passage_search USING gin (words)")
    op.execute(
        "CREATE FUNCTION heed_index_passage() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO passage_search (passage_id, words) SELECT new.id, "
        "setweight(to_tsvector('english', d.title || ' ' || new.heading), 'A') || "
        "setweight(to_tsvector('english', new.text), 'B') "
        "FROM document d WHERE d.id = new.document_id; RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER passage_indexed AFTER INSERT ON passage "
        "FOR EACH ROW EXECUTE FUNCTION heed_index_passage()"
    )
