"""Conversations as trees, pinned, deleted, and searched for by their owners."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this version. Turns of before it follow one another in one branch."""
    # A column that must not be null needs a value for the rows that are there.
    moment = sa.DateTime(timezone=True)
    then = sa.text("'1970-01-01 00:00:00'")
    op.add_column(
        "conversation", sa.Column("updated_at", moment, nullable=False, server_default=then)
    )
    op.add_column(
        "conversation",
        sa.Column("pinned", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    op.add_column("conversation", sa.Column("shown_turn_id", sa.String(), nullable=True))
    op.add_column("conversation", sa.Column("deleted_at", moment, nullable=True))
    op.execute(
        "ALTER TABLE turn ADD COLUMN parent_id VARCHAR "
        "CONSTRAINT fk_turn_parent_id_turn REFERENCES turn (id)"
    )
    op.execute("UPDATE conversation SET updated_at = created_at")
    op.execute(
        "UPDATE turn SET parent_id = (SELECT before.id FROM turn AS before "
        "WHERE before.conversation_id = turn.conversation_id AND before.position < turn.position "
        "ORDER BY before.position DESC LIMIT 1)"
    )
    op.create_index("ix_turn_parent_id", "turn", ["parent_id"])
    op.create_index(
        "ix_conversation_listed",
        "conversation",
        ["person_id", "pinned", "updated_at", "id"],
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    if op.get_bind().dialect.name == "postgresql":
        _create_postgresql_search()
    else:
        _create_sqlite_search()


def downgrade() -> None:
    """Back to rows of turns; those of deleted conversations can be seen again."""
    if op.get_bind().dialect.name == "postgresql":
        for table in ("conversation", "turn", "candidate"):
            op.execute(f"DROP TRIGGER {table}_search ON {table}")
            op.execute(f"DROP FUNCTION heed_search_{table}()")
        op.execute("DROP TABLE conversation_search")
    else:
        for trigger in ("begun", "renamed", "asked", "answered", "deleted"):
            op.execute(f"DROP TRIGGER conversation_search_{trigger}")
        op.execute("DROP TABLE conversation_search")
        op.execute("DROP TABLE conversation_search_row")
    op.drop_index("ix_conversation_listed", "conversation")
    op.drop_index("ix_turn_parent_id", "turn")
    op.execute("ALTER TABLE turn DROP COLUMN parent_id")
    for column in ("deleted_at", "shown_turn_id", "pinned", "updated_at"):
        op.drop_column("conversation", column)


def _create_sqlite_search() -> None:
    # One row of words for a title, and one for each turn with its answers. The owner stands in
    # each, so that a search never looks at what others asked.
    op.execute(
        "CREATE TABLE conversation_search_row (number INTEGER PRIMARY KEY AUTOINCREMENT, "
        "conversation_id VARCHAR NOT NULL, turn_id VARCHAR UNIQUE)"
    )
    op.execute(
        "CREATE INDEX ix_conversation_search_row ON conversation_search_row (conversation_id)"
    )
    op.execute(
        "CREATE VIRTUAL TABLE conversation_search USING fts5"
        "(owner, words, tokenize = 'porter unicode61 remove_diacritics 2', prefix = '2 3')"
    )
    op.execute(
        "CREATE TRIGGER conversation_search_begun AFTER INSERT ON conversation "
        "WHEN NOT new.simulated BEGIN "
        "INSERT INTO conversation_search_row (conversation_id) VALUES (new.id); "
        "INSERT INTO conversation_search (rowid, owner, words) "
        "SELECT number, new.person_id, new.title FROM conversation_search_row "
        "WHERE conversation_id = new.id AND turn_id IS NULL; END"
    )
    op.execute(
        "CREATE TRIGGER conversation_search_renamed AFTER UPDATE OF title ON conversation BEGIN "
        "UPDATE conversation_search SET words = new.title WHERE rowid = "
        "(SELECT number FROM conversation_search_row "
        "WHERE conversation_id = new.id AND turn_id IS NULL); END"
    )
    op.execute(
        "CREATE TRIGGER conversation_search_asked AFTER INSERT ON turn "
        "WHEN NOT new.simulated BEGIN "
        "INSERT INTO conversation_search_row (conversation_id, turn_id) "
        "VALUES (new.conversation_id, new.id); "
        "INSERT INTO conversation_search (rowid, owner, words) "
        "SELECT r.number, c.person_id, new.question "
        "FROM conversation_search_row r, conversation c "
        "WHERE r.turn_id = new.id AND c.id = new.conversation_id; END"
    )
    op.execute(
        "CREATE TRIGGER conversation_search_answered AFTER INSERT ON candidate "
        "WHEN NOT new.simulated BEGIN "
        "UPDATE conversation_search SET words = words || char(10) || new.text WHERE rowid = "
        "(SELECT number FROM conversation_search_row WHERE turn_id = new.turn_id); END"
    )
    op.execute(
        "CREATE TRIGGER conversation_search_deleted AFTER UPDATE OF deleted_at ON conversation "
        "WHEN new.deleted_at IS NOT NULL BEGIN "
        "DELETE FROM conversation_search WHERE rowid IN "
        "(SELECT number FROM conversation_search_row WHERE conversation_id = new.id); "
        "DELETE FROM conversation_search_row WHERE conversation_id = new.id; END"
    )
    op.execute(
        "INSERT INTO conversation_search_row (conversation_id, turn_id) "
        "SELECT conversation_id, turn_id FROM ("
        "SELECT id AS conversation_id, NULL AS turn_id, created_at FROM conversation "
        "WHERE NOT simulated UNION ALL "
        "SELECT conversation_id, id, created_at FROM turn WHERE NOT simulated"
        ") ORDER BY created_at, turn_id"
    )
    op.execute(
        "INSERT INTO conversation_search (rowid, owner, words) "
        "SELECT r.number, c.person_id, CASE WHEN t.id IS NULL THEN c.title ELSE t.question || "
        "coalesce((SELECT char(10) || group_concat(text, char(10)) FROM candidate "
        "WHERE turn_id = t.id), '') END "
        "FROM conversation_search_row r JOIN conversation c ON c.id = r.conversation_id "
        "LEFT JOIN turn t ON t.id = r.turn_id"
    )


# No word that is searched for begins with the sign that marks an owner.
_OWNED = "array_to_tsvector(ARRAY['=' || {owner}]) || to_tsvector('english', {text})"


def _create_postgresql_search() -> None:
    op.execute(
        "CREATE TABLE conversation_search (number BIGSERIAL PRIMARY KEY, "
        "conversation_id VARCHAR NOT NULL REFERENCES conversation (id) ON DELETE CASCADE, "
        "turn_id VARCHAR UNIQUE, words TSVECTOR NOT NULL)"
    )
    op.execute("CREATE INDEX ix_conversation_search_words ON conversation_search USING gin (words)")
    op.execute(
        "CREATE INDEX ix_conversation_search_conversation_id "
        "ON conversation_search (conversation_id)"
    )
    titled = _OWNED.format(owner="NEW.person_id", text="NEW.title")
    _postgresql_trigger(
        "conversation",
        "INSERT OR UPDATE OF title, deleted_at",
        "IF NEW.deleted_at IS NOT NULL THEN "  # noqa: S608 - constants of this file
        "DELETE FROM conversation_search WHERE conversation_id = NEW.id; "
        "ELSIF TG_OP = 'UPDATE' THEN "
        f"UPDATE conversation_search SET words = {titled} "
        "WHERE conversation_id = NEW.id AND turn_id IS NULL; "
        "ELSE INSERT INTO conversation_search (conversation_id, words) "
        f"VALUES (NEW.id, {titled}); END IF;",
    )
    asked = _OWNED.format(owner="c.person_id", text="NEW.question")
    _postgresql_trigger(
        "turn",
        "INSERT",
        "INSERT INTO conversation_search (conversation_id, turn_id, words) "  # noqa: S608 - as above
        f"SELECT c.id, NEW.id, {asked} FROM conversation c WHERE c.id = NEW.conversation_id;",
    )
    _postgresql_trigger(
        "candidate",
        "INSERT",
        "UPDATE conversation_search SET words = words || to_tsvector('english', NEW.text) "
        "WHERE turn_id = NEW.turn_id;",
    )
    told = _OWNED.format(
        owner="c.person_id",
        text="CASE WHEN t.id IS NULL THEN c.title ELSE t.question || coalesce((SELECT E'\\n' || "
        "string_agg(a.text, E'\\n') FROM candidate a WHERE a.turn_id = t.id), '') END",
    )
    op.execute(
        "INSERT INTO conversation_search (conversation_id, turn_id, words) "  # noqa: S608 - as above
        f"SELECT c.id, r.turn_id, {told} FROM ("
        "SELECT id AS conversation_id, NULL AS turn_id, created_at FROM conversation "
        "WHERE NOT simulated UNION ALL "
        "SELECT conversation_id, id, created_at FROM turn WHERE NOT simulated"
        ") r JOIN conversation c ON c.id = r.conversation_id LEFT JOIN turn t ON t.id = r.turn_id "
        "ORDER BY r.created_at, r.turn_id"
    )


def _postgresql_trigger(table: str, when: str, body: str) -> None:
    op.execute(
        f"CREATE FUNCTION heed_search_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF NEW.simulated THEN RETURN NULL; END IF; {body} RETURN NULL; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_search AFTER {when} ON {table} "
        f"FOR EACH ROW EXECUTE FUNCTION heed_search_{table}()"
    )
