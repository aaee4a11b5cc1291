"""Figures of feedback are counted by day and version; agreement is told only where it can be."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from service import feedback_figures
from service.agreement import FEWEST_PAIRS, Agreement, agreement
from service.database import session
from service.feedback import propose_correction, record_thumb
from service.feedback_figures import FeedbackFigures, Volumes, share
from service.tables import Comparison, Person, now
from service.unanswered import topics
from tests.service.conversations import Talk, make_talk, record_comparison
from tests.service.web_client import Caller, web_app


def figures(engine: Engine, *, simulated: bool = False) -> Any:
    return FeedbackFigures().of(engine, 7, simulated=simulated)


def compare(talk: Talk, *choices: str, since: datetime | None = None) -> None:
    """Let several people choose between the answers of a talk, every second with sides swapped."""
    with session(talk.engine) as opened:
        for place, choice in enumerate(choices):
            voter = Person(name=f"voter {place}")
            opened.add(voter)
            opened.flush()
            sides = [talk.candidate_a, talk.candidate_b]
            if place % 2:
                sides.reverse()
                choice = {"A": "B", "B": "A"}.get(choice, choice)
            vote = Comparison(
                turn_id=talk.turn,
                person_id=voter.id,
                candidate_a_id=sides[0],
                candidate_b_id=sides[1],
                choice=choice,
                created_at=since or now(),
            )
            opened.add(vote)


def agreed(engine: Engine, *votes: tuple[str, ...], times: int = 1) -> Agreement:
    for _ in range(times):
        for choices in votes:
            compare(make_talk(engine), *choices)
    with session(engine) as opened:
        return agreement(opened, now() - timedelta(days=1), simulated=False)


def test_what_was_said_is_counted_by_day_and_version(engine: Engine) -> None:
    thumbed, compared, silent = (make_talk(engine) for _ in range(3))
    with session(engine) as opened:
        first = record_thumb(opened, thumbed.person, thumbed.candidate_a, 1)
        record_thumb(opened, thumbed.person, thumbed.candidate_a, -1, replaces=first.id)
        record_comparison(opened, compared.person, compared.turn, "A")
        propose_correction(opened, compared.person, compared.candidate_a, "28.")
    found = figures(engine)
    expected = Volumes(3, 2, 6, 1, 0, 1, 1)
    assert found.total == expected
    assert found.versions == {0: expected}
    assert len(found.days) == 7
    assert found.days[now().date().isoformat()] == expected
    assert sum(volumes.questions for volumes in found.days.values()) == 3
    assert silent.turn


def test_simulated_people_are_counted_apart(engine: Engine) -> None:
    talk = make_talk(engine, kind="simulated")
    with session(engine) as opened:
        record_thumb(opened, talk.person, talk.candidate_a, -1)
    assert figures(engine).total == Volumes()
    assert figures(engine, simulated=True).total == Volumes(1, 1, 2, 0, 1)


def test_a_skip_is_no_comparison(engine: Engine) -> None:
    compare(make_talk(engine), "skip", "A")
    assert figures(engine).total.comparisons == 1


def test_days_that_are_over_are_counted_on_their_day(engine: Engine) -> None:
    yesterday = now() - timedelta(days=1)
    compare(make_talk(engine), "A", since=yesterday)
    compare(make_talk(engine), "A", since=now() - timedelta(days=40))
    found = figures(engine)
    assert found.days[yesterday.date().isoformat()].comparisons == 1
    assert found.total.comparisons == 1


def test_what_another_servers_clock_puts_after_today_is_counted_when_its_day_comes(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tomorrow = now() + timedelta(days=1)
    compare(make_talk(engine), "A", since=tomorrow)
    assert figures(engine).total.comparisons == 0
    monkeypatch.setattr(feedback_figures, "now", lambda: tomorrow)
    assert figures(engine).days[tomorrow.date().isoformat()].comparisons == 1


def test_new_feedback_of_today_shows_at_once(engine: Engine) -> None:
    kept = FeedbackFigures()
    assert kept.of(engine, 7, simulated=False).total.up == 0
    talk = make_talk(engine)
    with session(engine) as opened:
        record_thumb(opened, talk.person, talk.candidate_a, 1)
    assert kept.of(engine, 7, simulated=False).total.up == 1


@pytest.mark.parametrize(
    ("part", "whole", "low", "high"),
    [(5, 10, 0.2366, 0.7634), (0, 10, 0.0, 0.2775), (1, 1, 0.2065, 1.0)],
)
def test_a_share_has_wilsons_interval(part: int, whole: int, low: float, high: float) -> None:
    found = share(part, whole)
    assert found == pytest.approx((part / whole, low, high), abs=1e-4)
    assert share(0, 0) is None


def test_too_few_votes_are_said_to_be_too_few(engine: Engine) -> None:
    found = agreed(engine, ("A", "A"), ("A",), ("B", "skip"))
    assert (found.pairs, found.alpha) == (1, None)
    assert f"{FEWEST_PAIRS} are needed" in found.sentence


def test_full_agreement_is_one_whatever_side_an_answer_stood_on(engine: Engine) -> None:
    found = agreed(engine, ("A", "A"), ("B", "B"), times=FEWEST_PAIRS // 2)
    assert found.alpha == pytest.approx((1.0, 1.0, 1.0))


def test_alpha_is_krippendorffs(engine: Engine) -> None:
    """16 pairs agree and 16 are chosen both ways, so the observed disagreement is 1/2. Expected are
    2mn of the 64 * 63 ordered pairs of votes, where m votes are for the answer with the smaller id
    and n for the other: near 1/2, and ids are drawn at random."""
    for_smaller = []
    for choices in [("A", "A"), ("B", "B"), ("A", "B"), ("B", "A")] * 8:
        talk = make_talk(engine)
        compare(talk, *choices)
        smaller = "A" if talk.candidate_a < talk.candidate_b else "B"
        for_smaller += [choice == smaller for choice in choices]
    found = agreed(engine)
    m, n = for_smaller.count(True), for_smaller.count(False)
    assert found.pairs == 32
    assert found.alpha is not None
    assert found.alpha[0] == pytest.approx(1 - (1 / 2) / (2 * m * n / (64 * 63)))
    assert found.alpha[1] <= found.alpha[0] <= found.alpha[2]


def test_votes_that_are_all_alike_have_no_alpha(engine: Engine) -> None:
    found = agreed(engine, ("tie", "both_bad"), times=FEWEST_PAIRS)
    assert found.alpha is None
    assert "same way" in found.sentence


def test_questions_without_a_source_are_grouped_by_a_word_they_share() -> None:
    found = topics(
        [
            "How do I reset my laptop?",
            "Are laptops insured?",
            "hello, how do I reset my laptop",
            "Who repairs a broken laptop screen?",
            "Where is parking?",
            "Is parking free?",
            "Who founded us?",
        ]
    )
    assert [(topic.words[:1], topic.questions) for topic in found] == [
        (("laptop",), 4),
        (("parking",), 2),
        ((), 1),
    ]
    assert found[0].examples[0] == "How do I reset my laptop?"
    assert topics([]) == []


def test_figures_and_topics_are_shown_to_reviewers(engine: Engine, tmp_path: Path) -> None:
    talk = make_talk(engine)
    with session(engine) as opened:
        record_thumb(opened, talk.person, talk.candidate_a, 1)
    with web_app(engine, tmp_path) as app:
        caller = Caller(app)
        shown = caller.get("/api/feedback/figures", days="7").json()
        assert (len(shown["days"]), shown["versions"][0]["version"]) == (7, 0)
        assert shown["total"]["feedback_rate"]["value"] == 1.0
        assert shown["agreement"]["alpha"] is None
        assert caller.get("/api/feedback/figures", days="8").status_code == 422
        assert caller.get("/api/feedback/topics").json()["questions"] == 0
    with web_app(engine, tmp_path, visitors="employee") as app:
        assert Caller(app).get("/api/feedback/figures").status_code == 403
