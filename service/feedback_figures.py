"""How much people say about answers, by day and by version, and how far they agree.

Days are UTC. A vote counts on the day it was first given, a question has feedback if anything was
said of one of its answers. Days that are over are counted once in a while, today each time.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, String, exists, literal_column, type_coerce
from sqlalchemy import select as select_columns
from sqlmodel import Session, col, func, select

from service.agreement import Agreement, agreement
from service.database import session
from service.refreshed import Refreshed
from service.tables import Candidate, Comparison, GoldAnswer, PolicyVersion, Thumb, Turn, now

PERIODS_DAYS = (7, 30, 90)
KEPT = timedelta(minutes=10)
"""How long figures of days that are over are kept; feedback on an old answer shows after it."""

_Cell = tuple[str, str]


@dataclass(slots=True)
class Volumes:
    """What was asked, answered and said: of a day, a version, or a whole period. A question has a
    row under each version that answered it."""

    questions: int = 0
    with_feedback: int = 0
    answers: int = 0
    up: int = 0
    down: int = 0
    comparisons: int = 0
    corrections: int = 0

    def add(self, other: Volumes) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a period of days up to today, each day named, also one without anything."""

    days: dict[str, Volumes]
    versions: dict[int, Volumes]
    total: Volumes
    agreement: Agreement
    at: datetime


_Past = tuple[dict[_Cell, Volumes], Agreement]


class FeedbackFigures:
    """Counts feedback, and keeps what cannot have changed much since."""

    def __init__(self) -> None:
        self._counted: Refreshed[tuple[int, bool, str], _Past] = Refreshed("feedback figures")

    def of(self, database: Engine, days: int, *, simulated: bool) -> Figures:
        """The figures of the last `days` days, today among them; of simulated people, or of all
        others."""
        at = now()
        today = at.replace(hour=0, minute=0, second=0, microsecond=0)
        first = today - timedelta(days=days - 1)
        past, agreed = self._past(database, days, simulated, first, today)
        with session(database) as opened:
            # Midnight may pass meanwhile, another server's clock be ahead, or a version come.
            fresh = _count(opened, today, today + timedelta(days=1), simulated)
            numbers = dict(opened.exec(select(PolicyVersion.id, PolicyVersion.number)).all())
        by_day = {_name(first + timedelta(days=day)): Volumes() for day in range(days)}
        by_version: dict[int, Volumes] = defaultdict(Volumes)
        total = Volumes()
        for (day, version), volumes in [*past.items(), *fresh.items()]:
            if not version:
                by_day[day].add(volumes)
                total.add(volumes)
            else:
                by_version[numbers[version]].add(volumes)
        newest = dict(sorted(by_version.items(), reverse=True))
        return Figures(by_day, newest, total, agreed, at)

    def _past(
        self, database: Engine, days: int, simulated: bool, first: datetime, today: datetime
    ) -> _Past:
        def count() -> _Past:
            with session(database) as opened:
                counted = _count(opened, first, today, simulated)
                return counted, agreement(opened, first, simulated)

        key, period = (days, simulated, _name(today)), now().timestamp() // KEPT.total_seconds()
        return self._counted.value(key, period, count)


def share(part: int, whole: int) -> tuple[float, float, float] | None:
    """A share with its interval of 95% (Wilson); None of nothing."""
    if whole == 0:
        return None
    z2 = 1.959964**2
    middle = (part + z2 / 2) / (whole + z2)
    half = math.sqrt(z2 * (part * (whole - part) / whole + z2 / 4)) / (whole + z2)
    return part / whole, max(0.0, middle - half), min(1.0, middle + half)


def _count(
    opened: Session, since: datetime, until: datetime, simulated: bool
) -> dict[_Cell, Volumes]:
    """The volumes by day and version id; under the version "" those of the whole day."""
    cells: dict[_Cell, Volumes] = defaultdict(Volumes)

    def put(name: str, query: Any) -> None:
        for day, version, number in opened.connection().execute(query):
            setattr(cells[day, version], name, number)
            if name not in ("questions", "with_feedback"):
                whole = cells[day, ""]
                setattr(whole, name, getattr(whole, name) + number)

    def within(query: Any, kind: Any) -> Any:
        return query.where(col(kind.created_at) >= since, col(kind.created_at) < until)

    day_of = _day_of(opened)
    person = {kind: col(kind.simulated).is_(simulated) for kind in (Turn, Thumb, Comparison)}
    version = col(Candidate.version_id)

    answered = select_columns(day_of(Turn), version, func.count(col(Turn.id).distinct()))
    answered = answered.join(Candidate, col(Candidate.turn_id) == col(Turn.id)).where(person[Turn])
    answered = within(answered, Turn).group_by(day_of(Turn), version)
    put("questions", answered)
    put("with_feedback", answered.where(_has_feedback()))
    whole = within(select_columns(day_of(Turn), func.count()).where(person[Turn]), Turn)
    whole = whole.group_by(day_of(Turn))
    for day, number in opened.connection().execute(whole):
        cells[day, ""].questions = number
    for day, number in opened.connection().execute(whole.where(_has_feedback())):
        cells[day, ""].with_feedback = number

    answers = select_columns(day_of(Candidate), version, func.count())
    answers = answers.where(col(Candidate.simulated).is_(simulated))
    put("answers", within(answers, Candidate).group_by(day_of(Candidate), version))
    for name, value in (("up", 1), ("down", -1)):
        thumbs = select_columns(day_of(Thumb), version, func.count())
        thumbs = thumbs.join(Candidate, col(Candidate.id) == col(Thumb.candidate_id))
        thumbs = thumbs.where(
            person[Thumb], col(Thumb.replaces_id).is_(None), col(Thumb.value) == value
        )
        put(name, within(thumbs, Thumb).group_by(day_of(Thumb), version))
    votes = select_columns(day_of(Comparison), version, func.count())
    votes = votes.join(Candidate, col(Candidate.id) == col(Comparison.candidate_a_id))
    votes = votes.where(
        person[Comparison],
        col(Comparison.replaces_id).is_(None),
        col(Comparison.choice) != "skip",
    )
    put("comparisons", within(votes, Comparison).group_by(day_of(Comparison), version))
    rights = select_columns(day_of(GoldAnswer), version, func.count())
    rights = rights.join(Candidate, col(Candidate.id) == col(GoldAnswer.candidate_id))
    rights = rights.where(
        col(GoldAnswer.origin) == "correction", col(Candidate.simulated).is_(simulated)
    )
    put("corrections", within(rights, GoldAnswer).group_by(day_of(GoldAnswer), version))
    return dict(cells)


def _has_feedback() -> Any:
    of_turn = col(Candidate.turn_id) == col(Turn.id)
    compared = exists().where(col(Comparison.turn_id) == col(Turn.id))
    answer = select_columns(1).select_from(Candidate).where(of_turn).correlate(Turn)
    judged = answer.join(Thumb, col(Thumb.candidate_id) == col(Candidate.id)).exists()
    corrected = answer.join(GoldAnswer, col(GoldAnswer.candidate_id) == col(Candidate.id)).exists()
    return compared | judged | corrected


def _day_of(opened: Session) -> Any:
    """The UTC day of a row, as "2026-11-23"."""
    if opened.get_bind().dialect.name == "postgresql":
        utc: Any = literal_column("'UTC'")
        form: Any = literal_column("'YYYY-MM-DD'")
        return lambda kind: func.to_char(func.timezone(utc, col(kind.created_at)), form)
    # SQLite keeps moments as text that begins with the day.
    return lambda kind: func.substr(type_coerce(col(kind.created_at), String), 1, 10)


def _name(day: datetime) -> str:
    return day.astimezone(UTC).date().isoformat()
