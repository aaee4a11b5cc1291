"""The tables: Heed's words as rows. Votes and answers are append-only (triggers keep it)."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Index, MetaData, TypeDecorator, text
from sqlmodel import Field, SQLModel

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
SQLModel.metadata.naming_convention = NAMING_CONVENTION
metadata: MetaData = SQLModel.metadata

APPEND_ONLY = ("candidate", "thumb", "comparison")


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, stored in UTC and always returned with its zone (SQLite would lose it)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC; a moment without a zone is refused, since it could be any hour."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Back in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def new_id() -> str:
    """A fresh random id, 16 hexadecimal digits."""
    return secrets.token_hex(8)


def now() -> datetime:
    """This moment in UTC."""
    return datetime.now(UTC)


def _moment(*, null: bool = False) -> Any:
    if null:
        return Field(default=None, sa_type=UtcDateTime, nullable=True)
    return Field(sa_type=UtcDateTime, nullable=False)


def _created() -> Any:
    return Field(default_factory=now, sa_type=UtcDateTime, index=True, nullable=False)


def _json(default: Any) -> Any:
    return Field(default_factory=default, sa_type=JSON, nullable=False)


class Person(SQLModel, table=True):
    """Somebody who asks and votes. `kind` is "person" or "simulated"; `role` one of
    roles.py. The session token itself is not kept, only its SHA-256."""

    id: str = Field(default_factory=new_id, primary_key=True)
    name: str
    kind: str = "person"
    role: str = "employee"
    token_hash: str | None = Field(default=None, unique=True)
    created_at: datetime = _created()


class Conversation(SQLModel, table=True):
    """A tree of turns of one person. `shown_turn_id` is the last turn of the branch they look at,
    None for the newest turn's. A deleted one is there for nobody and is not trained on."""

    __table_args__ = (
        Index(
            "ix_conversation_listed",
            "person_id",
            "pinned",
            "updated_at",
            "id",
            sqlite_where=text("deleted_at IS NULL"),
            postgresql_where=text("deleted_at IS NULL"),
        ),
    )

    id: str = Field(default_factory=new_id, primary_key=True)
    person_id: str = Field(foreign_key="person.id", index=True)
    title: str
    pinned: bool = False
    shown_turn_id: str | None = None
    simulated: bool = False
    created_at: datetime = _created()
    updated_at: datetime = Field(default_factory=now, sa_type=UtcDateTime, nullable=False)
    deleted_at: datetime | None = _moment(null=True)


class Turn(SQLModel, table=True):
    """A question, with one or two candidates. `prompt` is the engine's Prompt as it was rendered:
    question, passages with their texts, earlier exchanges. `compared` says that two were asked.

    `parent_id` is the turn it follows, None at the beginning; turns that follow the same one
    are branches. `position` counts the conversation's turns as they were asked. `restricted` says
    that it, or a turn before it, was answered from what not everybody may read."""

    id: str = Field(default_factory=new_id, primary_key=True)
    conversation_id: str = Field(foreign_key="conversation.id", index=True)
    parent_id: str | None = Field(default=None, foreign_key="turn.id", index=True)
    position: int
    question: str
    prompt: dict[str, Any] = _json(dict)
    compared: bool = False
    restricted: bool = False
    simulated: bool = False
    created_at: datetime = _created()


class Candidate(SQLModel, table=True):
    """One answer, written when it ended; append-only. `side` is "A" or "B" as shown, "" where it
    was alone. `finish_reason` is "stop", "length" or "cancelled". Times in milliseconds.

    `engine` holds what a replay needs besides version, seed and settings (see
    Serving.made_with); `canary` says that the service, not the asker, chose a candidate."""

    __table_args__ = (
        Index(
            "ix_candidate_canary",
            "version_id",
            sqlite_where=text("canary = 1"),
            postgresql_where=text("canary"),
        ),
    )

    id: str = Field(default_factory=new_id, primary_key=True)
    turn_id: str = Field(foreign_key="turn.id", index=True)
    side: str = ""
    version_id: str = Field(foreign_key="policy_version.id", index=True)
    text: str
    token_ids: list[int] = _json(list)
    finish_reason: str
    seed: int = Field(sa_type=BigInteger)
    settings: dict[str, Any] = _json(dict)
    engine: dict[str, Any] = _json(dict)
    canary: bool = False
    first_token_ms: int | None = None
    total_ms: int | None = None
    simulated: bool = False
    created_at: datetime = _created()


class Thumb(SQLModel, table=True):
    """One rater's up (1) or down (-1) on a candidate, or its withdrawal (0); append-only. An edit
    is a new row whose `replaces_id` names the old one."""

    __table_args__ = (
        Index("ix_thumb_person_id_created_at", "person_id", "created_at"),
        Index(
            "uq_thumb_first",
            "candidate_id",
            "person_id",
            unique=True,
            sqlite_where=text("replaces_id IS NULL"),
            postgresql_where=text("replaces_id IS NULL"),
        ),
    )

    id: str = Field(default_factory=new_id, primary_key=True)
    candidate_id: str = Field(foreign_key="candidate.id", index=True)
    person_id: str = Field(foreign_key="person.id", index=True)
    value: int
    reason: str | None = None
    comment: str | None = None
    replaces_id: str | None = Field(default=None, foreign_key="thumb.id", unique=True)
    simulated: bool = False
    created_at: datetime = _created()


class Comparison(SQLModel, table=True):
    """One rater's choice between the two candidates of a turn, sides as shown; append-only.
    `choice` is "A", "B", "tie" or "both_bad", which train, or "skip" or "withdrawn", which do
    not; `strength` "slightly", "much" or null. An edit or withdrawal is a new row whose
    `replaces_id` names the old one.

    Null in votes of before they were kept: both versions, when the pair was shown, the
    milliseconds to each answer's first token, the answers' lengths in tokens, what the page
    was, why there were two answers (`pairing`, see VotePair; "queue" on the voting page) and how
    likely that was. `blind` is false where the rater could know the versions."""

    __table_args__ = (
        Index("ix_comparison_person_id_created_at", "person_id", "created_at"),
        Index(
            "uq_comparison_first",
            "turn_id",
            "person_id",
            unique=True,
            sqlite_where=text("replaces_id IS NULL"),
            postgresql_where=text("replaces_id IS NULL"),
        ),
    )

    id: str = Field(default_factory=new_id, primary_key=True)
    turn_id: str = Field(foreign_key="turn.id", index=True)
    person_id: str = Field(foreign_key="person.id", index=True)
    candidate_a_id: str = Field(foreign_key="candidate.id")
    candidate_b_id: str = Field(foreign_key="candidate.id")
    choice: str
    strength: str | None = None
    reason: str | None = None
    decision_ms: int | None = None
    version_a_id: str | None = None
    version_b_id: str | None = None
    shown_at: datetime | None = _moment(null=True)
    first_token_a_ms: int | None = None
    first_token_b_ms: int | None = None
    length_a: int | None = None
    length_b: int | None = None
    passages: list[str] = _json(list)
    settings: dict[str, Any] = _json(dict)
    interface: str | None = None
    pairing: str | None = None
    probability: float | None = None
    blind: bool = True
    replaces_id: str | None = Field(default=None, foreign_key="comparison.id", unique=True)
    simulated: bool = False
    created_at: datetime = _created()


class DataSource(SQLModel, table=True):
    """A configured source; the cursor is that of the last page that was kept, and `options_hash`
    tells whether it was made with the options of today.

    `unfinished` says that the sync of that page has not come to its end: the next one goes on
    with it. `generation` grows with each page, so that of two syncs at once one gives way."""

    __tablename__ = "data_source"

    id: str = Field(default_factory=new_id, primary_key=True)
    name: str = Field(unique=True)
    plugin: str
    purpose: str = "training"
    options_hash: str = ""
    cursor: dict[str, Any] = _json(dict)
    unfinished: bool = False
    generation: int = 0
    synced_at: datetime | None = _moment(null=True)
    created_at: datetime = _created()


class SyncReport(SQLModel, table=True):
    """What one sync of one source did, or has done so far. `rejected` holds {"where", "reason"}
    objects of the first of `rejected_count` items; `read` counts the items read.

    Without `finished_at` it goes on, unless `alive_until` is past; `waiting` says what for, where
    the source asked to be tried again later."""

    __tablename__ = "sync_report"

    id: str = Field(default_factory=new_id, primary_key=True)
    source_id: str = Field(foreign_key="data_source.id", index=True)
    started_at: datetime = _moment()
    finished_at: datetime | None = _moment(null=True)
    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    rejected: list[dict[str, Any]] = _json(list)
    rejected_count: int = 0
    read: int = 0
    waiting: str | None = None
    alive_until: datetime | None = _moment(null=True)
    error: str | None = None
    created_at: datetime = _created()


class ListedItem(SQLModel, table=True):
    """An item that an earlier page of an unfinished sync listed, so that its end knows what was
    not. `kind` is "document", "gold_pair" or "question", "" for what could not be used."""

    __tablename__ = "listed_item"

    source_id: str = Field(primary_key=True, foreign_key="data_source.id")
    kind: str = Field(primary_key=True)
    external_id: str = Field(primary_key=True)


class SourceQuestion(SQLModel, table=True):
    """A question of a source without an answer, which the policy practises on (PPO)."""

    __tablename__ = "source_question"
    __table_args__ = (
        Index("uq_source_question_source_id_external_id", "source_id", "external_id", unique=True),
    )

    id: str = Field(default_factory=new_id, primary_key=True)
    source_id: str = Field(foreign_key="data_source.id")
    external_id: str
    question: str
    created_at: datetime = _created()


class Document(SQLModel, table=True):
    """A text of a source. `content_hash` decides whether a sync changed it."""

    __table_args__ = (
        Index("uq_document_source_id_external_id", "source_id", "external_id", unique=True),
    )

    id: str = Field(default_factory=new_id, primary_key=True)
    source_id: str = Field(foreign_key="data_source.id", index=True)
    external_id: str
    title: str
    text: str
    url: str | None = None
    updated: datetime | None = _moment(null=True)
    readers: list[str] = _json(list)
    content_hash: str
    created_at: datetime = _created()


class Passage(SQLModel, table=True):
    """A part of a document, short enough for a prompt; indexed for full-text search."""

    id: str = Field(default_factory=new_id, primary_key=True)
    document_id: str = Field(foreign_key="document.id", index=True, ondelete="CASCADE")
    position: int
    heading: str
    text: str
    text_hash: str | None = Field(default=None, index=True)
    """Of title, heading and text, once it was asked for its vector (passage_vectors.py)."""


class TextVector(SQLModel, table=True):
    """What an embedding model makes of a passage's wording: float32, little-endian, of length 1.
    It belongs to the wording and not to a passage, so that a text that moves keeps it."""

    __tablename__ = "text_vector"
    __table_args__ = (Index("uq_text_vector_model_hash", "model", "hash", unique=True),)

    number: int | None = Field(default=None, primary_key=True)
    model: str
    hash: str = Field(index=True)
    vector: bytes


class GoldAnswer(SQLModel, table=True):
    """The right answer to a question, written or accepted by a named person. `state` is
    "accepted", "proposed" or "removed"; `origin` "source" or "correction"."""

    __tablename__ = "gold_answer"
    __table_args__ = (
        Index("uq_gold_answer_source_id_external_id", "source_id", "external_id", unique=True),
        Index("ix_gold_answer_person_id_created_at", "person_id", "created_at"),
    )

    id: str = Field(default_factory=new_id, primary_key=True)
    source_id: str | None = Field(default=None, foreign_key="data_source.id", index=True)
    external_id: str
    question: str
    answer: str
    author: str | None = None
    updated: datetime | None = _moment(null=True)
    purpose: str = "training"
    origin: str = "source"
    state: str = "accepted"
    person_id: str | None = Field(default=None, foreign_key="person.id")
    candidate_id: str | None = Field(default=None, foreign_key="candidate.id")
    content_hash: str
    created_at: datetime = _created()


class PolicyVersion(SQLModel, table=True):
    """An immutable policy, named by its content hash. `state` is "candidate", "live", "retired"
    or "rejected"; `number` is what people read. Version 0 is the base policy untouched."""

    __tablename__ = "policy_version"

    id: str = Field(primary_key=True)
    number: int = Field(unique=True)
    kind: str = "base"
    """ "base", "sft" or "ppo": the last stage that shaped it."""
    state: str = "candidate"
    parent_id: str | None = Field(default=None, foreign_key="policy_version.id")
    run_id: str | None = Field(default=None, index=True)
    snapshot_hash: str | None = None
    figures: dict[str, Any] = _json(dict)
    created_at: datetime = _created()


class Alias(SQLModel, table=True):
    """A name that points to a version ("live", "candidate", "previous"), moved by compare-and-swap
    on `generation` or on the version it named."""

    name: str = Field(primary_key=True)
    version_id: str = Field(foreign_key="policy_version.id")
    generation: int = 1
    moved_at: datetime = Field(default_factory=now, sa_type=UtcDateTime, nullable=False)


class Promotion(SQLModel, table=True):
    """What replaced what, by whom, on what evidence. `state` is "requested", "done" or
    "refused"; a running server picks requested rows up, loads, smoke-tests and moves the alias."""

    id: str = Field(default_factory=new_id, primary_key=True)
    kind: str = "promote"
    """ "promote" or "rollback"."""
    version_id: str = Field(foreign_key="policy_version.id", index=True)
    replaced_id: str | None = Field(default=None, foreign_key="policy_version.id")
    by: str
    evidence: str
    run_id: str | None = Field(default=None, foreign_key="training_run.id")
    state: str = Field(default="requested", index=True)
    error: str | None = None
    finished_at: datetime | None = _moment(null=True)
    created_at: datetime = _created()


class TrainingRun(SQLModel, table=True):
    """One training run. `state` is "queued", "running", "interrupted", "awaiting_approval",
    "promoted", "refused", "failed" or "cancelled". Whoever holds the lease (until
    `lease_expires_at`) conducts it; `fencing` grows with each holder."""

    __tablename__ = "training_run"

    id: str = Field(default_factory=new_id, primary_key=True)
    state: str = Field(default="queued", index=True)
    folder: str
    plan: dict[str, Any] = _json(dict)
    snapshot_hash: str | None = None
    comparisons: int = 0
    """How many comparisons existed when the snapshot was frozen."""
    requested_by: str
    reason: str
    cancel_requested: bool = False
    lease_holder: str | None = None
    lease_expires_at: datetime | None = _moment(null=True)
    fencing: int = 0
    candidate_id: str | None = Field(default=None, foreign_key="policy_version.id")
    error: str | None = None
    started_at: datetime | None = _moment(null=True)
    finished_at: datetime | None = _moment(null=True)
    created_at: datetime = _created()


class StageReport(SQLModel, table=True):
    """What a stage of a run measured, copied from its marker."""

    __tablename__ = "stage_report"
    __table_args__ = (Index("uq_stage_report_run_id_stage", "run_id", "stage", unique=True),)

    id: str = Field(default_factory=new_id, primary_key=True)
    run_id: str = Field(foreign_key="training_run.id", index=True)
    stage: str
    seconds: float
    figures: dict[str, Any] = _json(dict)
    created_at: datetime = _created()


class GateReport(SQLModel, table=True):
    """Why the candidate of a run was or was not let through."""

    __tablename__ = "gate_report"

    id: str = Field(default_factory=new_id, primary_key=True)
    run_id: str = Field(foreign_key="training_run.id", unique=True)
    passed: bool
    sentence: str
    figures: dict[str, Any] = _json(dict)
    created_at: datetime = _created()


class JobRun(SQLModel, table=True):
    """One due time of one scheduled job; the primary key lets a single scheduler take it."""

    __tablename__ = "job_run"

    job: str = Field(primary_key=True)
    slot: datetime = Field(primary_key=True, sa_type=UtcDateTime)
    holder: str
    lease_expires_at: datetime = _moment()
    finished_at: datetime | None = _moment(null=True)
    error: str | None = None


class ServiceInstance(SQLModel, table=True):
    """A running server's sign of life; promotions are left to it while it is fresh."""

    __tablename__ = "service_instance"

    id: str = Field(primary_key=True)
    address: str
    started_at: datetime = Field(default_factory=now, sa_type=UtcDateTime, nullable=False)
    seen_at: datetime = Field(default_factory=now, sa_type=UtcDateTime, nullable=False)
