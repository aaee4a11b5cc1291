"""Accounts, sessions, one-time links, API keys, and the record of who did what."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLES = (
    "account",
    "sign_in_session",
    "one_time_link",
    "provider_visit",
    "api_key",
    "audit_entry",
)


def upgrade() -> None:
    """To this version. Who came before it stays signed in for as long as a visitor may."""
    _create_account()
    _create_sessions()
    _create_links()
    _create_keys()
    _create_audit()
    op.execute("UPDATE person SET kind = 'visitor' WHERE token_hash IS NOT NULL")


def downgrade() -> None:
    """Back to visitors alone."""
    op.execute("UPDATE person SET kind = 'person' WHERE kind = 'visitor'")
    for table in reversed(TABLES):
        op.drop_table(table)


def _moment(name: str, *, null: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=null)


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=null)


def _person(table: str, name: str = "person_id") -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([name], ["person.id"], name=f"fk_{table}_{name}_person")


def _index(table: str, *columns: str) -> None:
    for column in columns:
        op.create_index(f"ix_{table}_{column}", table, [column])


def _create_account() -> None:
    op.create_table(
        "account",
        _text("person_id"),
        _text("sign_in_name", null=True),
        _text("password_hash", null=True),
        _moment("password_at", null=True),
        _text("issuer", null=True),
        _text("subject", null=True),
        _text("email", null=True),
        _moment("disabled_at", null=True),
        _moment("created_at"),
        _person("account"),
        sa.PrimaryKeyConstraint("person_id", name="pk_account"),
        sa.UniqueConstraint("sign_in_name", name="uq_account_sign_in_name"),
    )
    op.create_index("uq_account_issuer_subject", "account", ["issuer", "subject"], unique=True)


def _create_sessions() -> None:
    op.create_table(
        "sign_in_session",
        _text("id"),
        _text("person_id"),
        _text("token_hash"),
        _text("method"),
        _text("browser"),
        _moment("created_at"),
        _moment("seen_at"),
        _moment("expires_at"),
        _person("sign_in_session"),
        sa.PrimaryKeyConstraint("id", name="pk_sign_in_session"),
        sa.UniqueConstraint("token_hash", name="uq_sign_in_session_token_hash"),
    )
    _index("sign_in_session", "person_id", "expires_at")


def _create_links() -> None:
    op.create_table(
        "one_time_link",
        _text("id"),
        _text("kind"),
        _text("token_hash"),
        _text("role", null=True),
        _text("name", null=True),
        _text("person_id", null=True),
        _text("made_by", null=True),
        _moment("used_at", null=True),
        _moment("created_at"),
        _moment("expires_at"),
        _person("one_time_link"),
        _person("one_time_link", "made_by"),
        sa.PrimaryKeyConstraint("id", name="pk_one_time_link"),
        sa.UniqueConstraint("token_hash", name="uq_one_time_link_token_hash"),
    )
    _index("one_time_link", "person_id", "expires_at")
    op.create_table(
        "provider_visit",
        _text("state_hash"),
        _text("browser_hash"),
        _text("nonce"),
        _text("verifier"),
        _text("next_path"),
        _moment("expires_at"),
        sa.PrimaryKeyConstraint("state_hash", name="pk_provider_visit"),
    )
    _index("provider_visit", "expires_at")


def _create_keys() -> None:
    op.create_table(
        "api_key",
        _text("id"),
        _text("person_id"),
        _text("name"),
        _text("prefix"),
        _text("token_hash"),
        sa.Column("scopes", sa.JSON(), nullable=False),
        _moment("expires_at", null=True),
        _moment("used_at", null=True),
        _moment("revoked_at", null=True),
        _moment("created_at"),
        _person("api_key"),
        sa.PrimaryKeyConstraint("id", name="pk_api_key"),
        sa.UniqueConstraint("token_hash", name="uq_api_key_token_hash"),
    )
    _index("api_key", "person_id", "created_at")


def _create_audit() -> None:
    op.create_table(
        "audit_entry",
        _text("id"),
        _moment("created_at"),
        _text("person_id", null=True),
        _text("by", null=True),
        _text("action"),
        _text("target", null=True),
        sa.Column("details", sa.JSON(), nullable=False),
        _person("audit_entry"),
        sa.PrimaryKeyConstraint("id", name="pk_audit_entry"),
    )
    _index("audit_entry", "created_at", "person_id", "action")
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE TRIGGER audit_entry_append_only BEFORE UPDATE OR DELETE OR TRUNCATE "
            "ON audit_entry FOR EACH STATEMENT EXECUTE FUNCTION heed_append_only()"
        )
        return
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_entry_no_{verb.lower()} BEFORE {verb} ON audit_entry "
            "BEGIN SELECT RAISE(ABORT, 'rows of audit_entry are append-only'); END"
        )
