"""The tables of reviewing: decisions, verified answers, and what people were told of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Index, text
from sqlmodel import Field, SQLModel, col

from service.tables import GoldAnswer, Thumb, Turn, UtcDateTime, new_id, now

WITHOUT_SOURCE = {
    "sqlite": "coalesce(json_array_length(prompt, '$.passages'), 0) = 0 AND NOT simulated",
    "postgresql": "coalesce(json_array_length(prompt -> 'passages'), 0) = 0 AND NOT simulated",
}
"""Turns of people that had no passage to answer from, in each database's words."""
DOWN = "value < 0 AND NOT simulated"
"""Thumbs down of people."""
PROPOSED = "state = 'proposed'"
"""Gold answers that wait for a decision."""


def _partial(name: str, column: Any, sqlite: str, postgresql: str) -> Index:
    """An index of the few rows of a large table that wait for a reviewer; a query must hold its
    condition word by word to be answered from it."""
    return Index(name, column, sqlite_where=text(sqlite), postgresql_where=text(postgresql))


_partial("ix_turn_without_source", col(Turn.created_at), *WITHOUT_SOURCE.values())
_partial("ix_thumb_down", col(Thumb.created_at), DOWN, DOWN)
_partial("ix_gold_answer_proposed", col(GoldAnswer.created_at), PROPOSED, PROPOSED)


def _moment(*, index: bool = False) -> Any:
    return Field(default_factory=now, sa_type=UtcDateTime, index=index, nullable=False)


def _later() -> Any:
    return Field(default=None, sa_type=UtcDateTime, nullable=True)


class Review(SQLModel, table=True):
    """One reviewer's decision on something of the queue; the newest on a target stands.

    `kind` is "correction" (of a gold answer), "answer" (with thumbs down), "question" (without a
    source) or "verified" (an answer in force). `decision` is "accepted", "rejected", "settled",
    "confirmed" or "withdrawn". `details` keeps the texts as they were before an edit."""

    __table_args__ = (Index("ix_review_kind_target_id", "kind", "target_id"),)

    id: str = Field(default_factory=new_id, primary_key=True)
    kind: str
    target_id: str
    decision: str
    reason: str | None = None
    details: dict[str, Any] = Field(default_factory=dict, sa_type=JSON, nullable=False)
    person_id: str | None = Field(default=None, foreign_key="person.id", index=True)
    by: str
    created_at: datetime = _moment(index=True)


class VerifiedAnswer(SQLModel, table=True):
    """A gold answer that is shown to whoever asks its question, until it is withdrawn.

    `wording` is the question as wording.py compares it; at most one answer of a wording is in
    force. `rests_on` holds the passages, as {"document_id", "text"}, that were shown with the
    answer that was corrected."""

    __tablename__ = "verified_answer"
    __table_args__ = (Index("ix_verified_answer_wording", "wording", "withdrawn_at"),)

    id: str = Field(default_factory=new_id, primary_key=True)
    gold_answer_id: str = Field(foreign_key="gold_answer.id", index=True)
    wording: str
    question: str
    answer: str
    rests_on: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSON, nullable=False)
    by: str
    person_id: str | None = Field(default=None, foreign_key="person.id", index=True)
    created_at: datetime = _moment(index=True)
    withdrawn_at: datetime | None = _later()


class VerifiedShown(SQLModel, table=True):
    """That a turn's asker was shown a verified answer."""

    __tablename__ = "verified_shown"

    turn_id: str = Field(foreign_key="turn.id", primary_key=True)
    verified_id: str = Field(foreign_key="verified_answer.id", index=True)
    created_at: datetime = _moment()


class Notice(SQLModel, table=True):
    """Something a person is told about what they gave: at most once for each thing it is about.

    `link` is a path of the pages."""

    __table_args__ = (
        Index("uq_notice_person_id_about", "person_id", "about", unique=True),
        Index("ix_notice_person_id_created_at", "person_id", "created_at"),
    )

    id: str = Field(default_factory=new_id, primary_key=True)
    person_id: str = Field(foreign_key="person.id")
    about: str
    """What happened to what, such as "fixed:ID": the same is never told twice."""
    text: str
    link: str | None = None
    created_at: datetime = _moment()
    read_at: datetime | None = _later()


class PluginSetting(SQLModel, table=True):
    """A data source or reward signal that was made on the page, beside those of the settings
    file. `kind` is "source" or "signal"; `fields` are those of SourceSettings or SignalSettings
    besides name, plugin and options. No secret is in it: options name where one stands."""

    __tablename__ = "plugin_setting"
    __table_args__ = (Index("uq_plugin_setting_kind_name", "kind", "name", unique=True),)

    id: str = Field(default_factory=new_id, primary_key=True)
    kind: str
    name: str
    plugin: str
    fields: dict[str, Any] = Field(default_factory=dict, sa_type=JSON, nullable=False)
    options: dict[str, Any] = Field(default_factory=dict, sa_type=JSON, nullable=False)
    generation: int = 1
    """Grows with each change, so that nobody overwrites a change they have not seen."""
    changed_by: str
    changed_at: datetime = _moment()
    created_at: datetime = _moment()
