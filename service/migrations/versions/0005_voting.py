"""Votes that say how they came about; the voting page's queue, checks, and what came of votes."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

BY_PERSON = ("comparison", "thumb", "gold_answer")

PAIRS_OF_BEFORE = """
INSERT INTO vote_pair
    (turn_id, person_id, pool, pairing, certainty, votes, wanted, state, created_at)
SELECT turn.id, conversation.person_id,
    CASE WHEN turn.simulated THEN 'everyone' ELSE conversation.person_id END,
    CASE WHEN turn.simulated THEN 'simulated' ELSE 'unknown' END,
    0, counted.votes, 1, CASE WHEN counted.votes > 0 THEN 'done' ELSE 'waiting' END,
    turn.created_at
FROM turn
JOIN conversation ON conversation.id = turn.conversation_id
JOIN (
    SELECT turn.id AS turn_id, count(comparison.id) AS votes
    FROM turn LEFT JOIN comparison
        ON comparison.turn_id = turn.id AND comparison.replaces_id IS NULL
    WHERE turn.compared GROUP BY turn.id
) AS counted ON counted.turn_id = turn.id
"""


def upgrade() -> None:
    """To this version. Votes from before it do not say how they came about, and their pairs not
    why there were two answers."""
    for column in _circumstances():
        op.add_column("comparison", column)
    for table in BY_PERSON:
        op.create_index(f"ix_{table}_person_id_created_at", table, ["person_id", "created_at"])
    _create_pairs()
    _create_offers()
    _create_uses()
    op.execute(PAIRS_OF_BEFORE)
    if op.get_bind().dialect.name == "sqlite":
        _create_sqlite_triggers()
    else:
        op.execute(
            "CREATE TRIGGER check_vote_append_only BEFORE UPDATE OR DELETE OR TRUNCATE "
            "ON check_vote FOR EACH STATEMENT EXECUTE FUNCTION heed_append_only()"
        )


def downgrade() -> None:
    """Back to votes without their circumstances."""
    for table in ("run_voter", "learnt_vote", "check_vote", "vote_offer", "vote_pair"):
        op.drop_table(table)
    for table in BY_PERSON:
        op.drop_index(f"ix_{table}_person_id_created_at", table)
    for column in reversed(_circumstances()):
        op.drop_column("comparison", column.name)


def _circumstances() -> list[sa.Column[Any]]:
    numbers = ("first_token_a_ms", "first_token_b_ms", "length_a", "length_b")
    texts = ("reason", "version_a_id", "version_b_id", "interface", "pairing")
    return [
        *(_text(name, null=True) for name in texts),
        _moment("shown_at", null=True),
        *(sa.Column(name, sa.Integer(), nullable=True) for name in numbers),
        sa.Column("passages", sa.JSON(), nullable=False, server_default="[]"),
        sa.Column("settings", sa.JSON(), nullable=False, server_default="{}"),
        sa.Column("probability", sa.Float(), nullable=True),
        sa.Column("blind", sa.Boolean(), nullable=False, server_default=sa.true()),
    ]


def _create_pairs() -> None:
    op.create_table(
        "vote_pair",
        _text("turn_id"),
        _text("person_id"),
        _text("pool"),
        _text("pairing"),
        sa.Column("probability", sa.Float(), nullable=True),
        sa.Column("certainty", sa.Float(), nullable=False),
        sa.Column("votes", sa.Integer(), nullable=False),
        sa.Column("wanted", sa.Integer(), nullable=False),
        _text("state"),
        _text("lease_holder", null=True),
        _moment("lease_expires_at", null=True),
        _moment("created_at"),
        _refers("vote_pair", "turn_id", "turn"),
        _refers("vote_pair", "person_id", "person"),
        sa.PrimaryKeyConstraint("turn_id", name="pk_vote_pair"),
    )
    order = ["state", "certainty", "votes", "created_at", "turn_id"]
    op.create_index("ix_vote_pair_queue", "vote_pair", ["pool", *order])
    op.create_index("ix_vote_pair_waiting", "vote_pair", order)
    op.create_index("ix_vote_pair_person_id_created_at", "vote_pair", ["person_id", "created_at"])


def _create_offers() -> None:
    op.create_table(
        "vote_offer",
        _text("id"),
        _text("person_id"),
        _text("kind"),
        _text("turn_id", null=True),
        _text("first_id"),
        _text("second_id"),
        _text("expected", null=True),
        sa.Column("probability", sa.Float(), nullable=False),
        _moment("decided_at", null=True),
        _moment("created_at"),
        _refers("vote_offer", "person_id", "person"),
        _refers("vote_offer", "turn_id", "turn"),
        sa.PrimaryKeyConstraint("id", name="pk_vote_offer"),
    )
    op.create_index("ix_vote_offer_turn_id", "vote_offer", ["turn_id"])
    op.create_index("ix_vote_offer_person_id_created_at", "vote_offer", ["person_id", "created_at"])
    op.create_table(
        "check_vote",
        _text("id"),
        _text("offer_id"),
        _text("person_id"),
        _text("kind"),
        _text("choice"),
        sa.Column("passed", sa.Boolean(), nullable=True),
        sa.Column("decision_ms", sa.Integer(), nullable=True),
        _text("interface", null=True),
        _text("replaces_id", null=True),
        _moment("created_at"),
        _refers("check_vote", "offer_id", "vote_offer"),
        _refers("check_vote", "person_id", "person"),
        _refers("check_vote", "replaces_id", "check_vote"),
        sa.PrimaryKeyConstraint("id", name="pk_check_vote"),
        sa.UniqueConstraint("replaces_id", name="uq_check_vote_replaces_id"),
    )
    op.create_index("ix_check_vote_offer_id", "check_vote", ["offer_id"])
    op.create_index("ix_check_vote_person_id_created_at", "check_vote", ["person_id", "created_at"])


def _create_uses() -> None:
    op.create_table(
        "learnt_vote",
        _text("kind"),
        _text("vote_id"),
        _text("person_id"),
        _text("run_id"),
        _text("use"),
        _refers("learnt_vote", "person_id", "person"),
        _refers("learnt_vote", "run_id", "training_run"),
        sa.PrimaryKeyConstraint("kind", "vote_id", name="pk_learnt_vote"),
    )
    op.create_index("ix_learnt_vote_run_id", "learnt_vote", ["run_id"])
    op.create_index("ix_learnt_vote_person_id_run_id", "learnt_vote", ["person_id", "run_id"])
    op.create_table(
        "run_voter",
        _text("run_id"),
        _text("person_id"),
        sa.Column("trained", sa.Integer(), nullable=False),
        sa.Column("measured", sa.Integer(), nullable=False),
        _refers("run_voter", "run_id", "training_run"),
        _refers("run_voter", "person_id", "person"),
        sa.PrimaryKeyConstraint("run_id", "person_id", name="pk_run_voter"),
    )
    op.create_index("ix_run_voter_person_id", "run_voter", ["person_id"])


def _create_sqlite_triggers() -> None:
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER check_vote_no_{verb.lower()} BEFORE {verb} ON check_vote "
            "BEGIN SELECT RAISE(ABORT, 'rows of check_vote are append-only'); END"
        )


def _text(name: str, *, null: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.String(), nullable=null)


def _moment(name: str, *, null: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=null)


def _refers(table: str, column: str, other: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{other}.id"], name=f"fk_{table}_{column}_{other}")
