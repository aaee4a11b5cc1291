"""A passage is judged by its own words and, for less, by those of the section around it."""

from __future__ import annotations

import math

import pytest
from sqlalchemy import Engine

from service.database import session
from service.retrieval import SECTION_WEIGHT, ranked, retrieve
from service.section_words import SectionWords, held, section_words
from tests.service.sources import store

FILLER = "Nothing else of note is told in this sentence, which fills the page with words. " * 5


def test_of_passages_alike_the_one_comes_first_whose_section_has_the_other_words(
    engine: Engine,
) -> None:
    line = "Send the form to the third floor."
    store(
        engine,
        f"# Parking\n{line} {FILLER}\n\nA bicycle needs no permit. {FILLER}",
        f"# Travel\n{line} {FILLER}\n\nA hotel needs a receipt. {FILLER}",
    )
    with session(engine) as opened:
        for asked, title in (("form bicycle", "Parking"), ("form receipt", "Travel")):
            found = retrieve(opened, asked, 10)
            with_form = [one.title for one in found if "form" in one.text]
            assert len(with_form) == 2
            assert title in with_form[0]


def test_a_section_is_scored_as_bm25_does_by_hand() -> None:
    a, b = ("document", "A"), ("document", "B")
    where = SectionWords(
        rarities={"car": 2.0, "park": 1.0},
        holders={"car": {"p"}, "park": {"p", "r"}},
        counts={"car": {a: 1}, "park": {a: 2, b: 1}},
        sections={"p": a, "q": a, "r": b},
        sizes={a: 3, b: 1},
    )
    # The mean length is 2: a's is 1.5 times that, b's half of it.
    norm_a, norm_b = 1.2 * (0.25 + 0.75 * 1.5), 1.2 * (0.25 + 0.75 * 0.5)
    score_a = 2.0 * 2.2 / (1 + norm_a) + 1.0 * 4.4 / (2 + norm_a)
    scores = where.section_scores()
    assert scores["p"] == scores["q"] == pytest.approx(score_a)
    assert scores["r"] == pytest.approx(1.0 * 2.2 / (1 + norm_b))
    assert where.shares() == pytest.approx({"p": 1.0, "q": 0.0, "r": 1 / 3})


def test_words_are_counted_in_the_passages_of_one_heading(engine: Engine) -> None:
    pages = f"# Cars\nPark the car here. {FILLER}\n\nThe car park closes. {FILLER}\n# Gym\nNo car."
    store(engine, pages, "# Yoga\nA mat.")
    with session(engine) as opened:
        found = retrieve(opened, "car", 10)
        where = section_words(opened, ["car", "mat"], [one.id for one in found])
        cars = next(one.id for one in found if "Park the" in one.text)
        gym = next(one.id for one in found if "No car" in one.text)
        assert where.counts["car"][where.sections[cars]] == 2
        assert where.sizes[where.sections[cars]] == 2
        assert where.counts["car"][where.sections[gym]] == 1
        assert where.sections[cars] != where.sections[gym]
        assert not where.holders["mat"]
        # 3 of the 4 passages hold "car", 1 holds "mat".
        rarities = {"car": math.log(1 + 1.5 / 3.5), "mat": math.log(1 + 3.5 / 1.5)}
        assert where.rarities == pytest.approx(rarities)
        share = rarities["car"] / sum(rarities.values())
        assert held(opened, ["car", "mat"], [gym]) == pytest.approx({gym: share})


def test_scores_are_shares_of_the_best(engine: Engine) -> None:
    store(engine, "# A\nParking and cars.", f"# B\nParking. {FILLER}")
    with session(engine) as opened:
        scores = [score for _, score in ranked(opened, ["parking", "cars"], 5, ("everyone",))]
    assert scores[0] == pytest.approx(1.0)
    assert 0 < scores[1] < 1
    assert 0 < SECTION_WEIGHT < 1
