"""The tables of the voting page: waiting pairs, what was offered to whom, hidden checks, and
which run learnt from which vote. Votes themselves stand in `comparison` and `thumb`."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index
from sqlmodel import Field, SQLModel

from service.tables import UtcDateTime, new_id, now


class VotePair(SQLModel, table=True):
    """The two answers of a turn as something to vote on. Why and how likely the turn got two is
    kept for whoever weighs the votes; the rest is the queue's own bookkeeping.

    `pairing` is "ordinary" (drawn by chance, `probability`), "requested" (the asker wanted two),
    "simulated" or "unknown" (from before it was kept). `pool` is the id of the person whose
    conversation it is, or "everyone" for simulated ones. `certainty` is minus the spread of the
    reward heads' opinions, 0 where there is none, so that the least certain sorts first.
    `state` is "waiting", "done" or "unusable"."""

    __tablename__ = "vote_pair"
    __table_args__ = (
        Index("ix_vote_pair_queue", "pool", "state", "certainty", "votes", "created_at", "turn_id"),
        Index("ix_vote_pair_waiting", "state", "certainty", "votes", "created_at", "turn_id"),
        Index("ix_vote_pair_person_id_created_at", "person_id", "created_at"),
    )

    turn_id: str = Field(foreign_key="turn.id", primary_key=True)
    person_id: str = Field(foreign_key="person.id")
    pool: str
    pairing: str
    probability: float | None = None
    certainty: float = 0.0
    votes: int = 0
    wanted: int = 1
    """How many people shall vote on it; 2 for the share that measures agreement."""
    state: str = "waiting"
    lease_holder: str | None = None
    lease_expires_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    created_at: datetime = Field(default_factory=now, sa_type=UtcDateTime, nullable=False)


class VoteOffer(SQLModel, table=True):
    """Two answers that the voting page showed to one person, sides as shown.

    `kind` is "pair", or a hidden check: "gold" (a right answer beside one to another question)
    or "repeat" (a pair the person voted on, sides changed). `first_id` and `second_id` are
    candidates, of a "gold" check gold answers; `expected` is the side that a check should get."""

    __tablename__ = "vote_offer"
    __table_args__ = (Index("ix_vote_offer_person_id_created_at", "person_id", "created_at"),)

    id: str = Field(default_factory=new_id, primary_key=True)
    person_id: str = Field(foreign_key="person.id")
    kind: str = "pair"
    turn_id: str | None = Field(default=None, foreign_key="turn.id", index=True)
    first_id: str
    second_id: str
    expected: str | None = None
    probability: float
    """How likely the next offer was one of this kind."""
    decided_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    created_at: datetime = Field(default_factory=now, sa_type=UtcDateTime, nullable=False)


class CheckVote(SQLModel, table=True):
    """What somebody chose in a hidden check; append-only, never trained on. `passed` is null for a
    skip; a withdrawal is a row of its own, "withdrawn", that names the row it replaces."""

    __tablename__ = "check_vote"
    __table_args__ = (Index("ix_check_vote_person_id_created_at", "person_id", "created_at"),)

    id: str = Field(default_factory=new_id, primary_key=True)
    offer_id: str = Field(foreign_key="vote_offer.id", index=True)
    person_id: str = Field(foreign_key="person.id")
    kind: str
    choice: str
    passed: bool | None = None
    decision_ms: int | None = None
    interface: str | None = None
    replaces_id: str | None = Field(default=None, foreign_key="check_vote.id", unique=True)
    created_at: datetime = Field(default_factory=now, sa_type=UtcDateTime, nullable=False)


class LearntVote(SQLModel, table=True):
    """The first finished run that used a vote or a correction. `kind` is "comparison", "thumb" or
    "correction"; `use` is "trained", or "measured" where its question is held out."""

    __tablename__ = "learnt_vote"
    __table_args__ = (Index("ix_learnt_vote_person_id_run_id", "person_id", "run_id"),)

    kind: str = Field(primary_key=True)
    vote_id: str = Field(primary_key=True)
    person_id: str = Field(foreign_key="person.id")
    run_id: str = Field(foreign_key="training_run.id", index=True)
    use: str = "trained"


class RunVoter(SQLModel, table=True):
    """How many votes and corrections of one person stood in a finished run's snapshot."""

    __tablename__ = "run_voter"

    run_id: str = Field(foreign_key="training_run.id", primary_key=True)
    person_id: str = Field(foreign_key="person.id", primary_key=True, index=True)
    trained: int = 0
    measured: int = 0
