"""The feedback's figures over HTTP, for reviewers."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import get
from litestar.params import QueryParameter

from service.database import session
from service.errors import InvalidInputError
from service.feedback_figures import PERIODS_DAYS, Volumes, share
from service.unanswered import unanswered
from service.web.parts import GivenParts
from service.web.rights import needs
from service.web.sessions import GivenPerson

ADVICE: Any = {"tags": ["Review"], "sync_to_thread": True, "security": needs("reviewer", "read")}

Days = Annotated[int, QueryParameter(description="Period up to today: 7, 30 or 90 days.")]


class Rate(msgspec.Struct):
    """A share from 0 to 1 with the ends of its interval of 95%."""

    value: float
    low: float
    high: float


class Line(msgspec.Struct):
    """What was asked, answered and said. `feedback_rate` is the share of questions with any
    feedback, `up_rate` the share of thumbs that are up; null of nothing."""

    questions: int
    with_feedback: int
    answers: int
    up: int
    down: int
    comparisons: int
    corrections: int
    feedback_rate: Rate | None
    up_rate: Rate | None


class Day(Line):
    """The figures of a UTC day."""

    day: str = ""


class Version(Line):
    """The figures of a policy version's answers."""

    version: int = 0


class Agreed(msgspec.Struct):
    """How far people agree, in words too; `alpha` is null where there are too few votes."""

    pairs: int
    alpha: Rate | None
    sentence: str


class Figures(msgspec.Struct):
    """Feedback by day and by version, and agreement."""

    days: list[Day]
    versions: list[Version]
    total: Line
    agreement: Agreed
    at: datetime


class TopicEntry(msgspec.Struct):
    """A group of questions that share words; the most asked of them."""

    words: list[str]
    questions: int
    examples: list[str]


class Topics(msgspec.Struct):
    """The questions that no source could answer, by topic; `more` says that there are more than
    were read."""

    questions: int
    topics: list[TopicEntry]
    more: bool


@get("/api/feedback/figures", **ADVICE)
def show_figures(
    reviewer: GivenPerson,  # noqa: ARG001 - the role is asked for
    parts: GivenParts,
    days: Days = 30,
    simulated: Annotated[bool, QueryParameter(description="Those of simulated people.")] = False,
) -> Figures:
    """Volumes and rates by day and by version, and how far people agree."""
    found = parts.figures.of(parts.database, _period(days), simulated=simulated)
    alpha = found.agreement.alpha
    return Figures(
        [Day(**_line(volumes), day=day) for day, volumes in found.days.items()],
        [Version(**_line(volumes), version=number) for number, volumes in found.versions.items()],
        Line(**_line(found.total)),
        Agreed(found.agreement.pairs, Rate(*alpha) if alpha else None, found.agreement.sentence),
        found.at,
    )


@get("/api/feedback/topics", **ADVICE)
def show_topics(reviewer: GivenPerson, parts: GivenParts, days: Days = 30) -> Topics:  # noqa: ARG001 - as above
    """What people asked that no source could answer."""
    with session(parts.database) as opened:
        found = unanswered(opened, _period(days))
    listed = [TopicEntry(list(t.words), t.questions, list(t.examples)) for t in found.topics]
    return Topics(found.questions, listed, found.more)


def _period(days: int) -> int:
    if days not in PERIODS_DAYS:
        known = ", ".join(map(str, PERIODS_DAYS))
        raise InvalidInputError(f"days is {days}; it must be one of {known}")
    return days


def _line(volumes: Volumes) -> dict[str, Any]:
    feedback = share(volumes.with_feedback, volumes.questions)
    up = share(volumes.up, volumes.up + volumes.down)
    rates = {"feedback_rate": Rate(*feedback) if feedback else None}
    return {**asdict(volumes), **rates, "up_rate": Rate(*up) if up else None}
