"""The best passages come first, only from what the asker may read, whatever is asked."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from service.database import session
from service.retrieval import content_words, retrieve
from tests.service.sources import store

LEAVE = "# Annual leave\nEverybody has 25 days of annual leave a year."
HOTELS = "# Hotels\nThe hotel limit in Leeds is 135 pounds a night. Book days before you leave."
PARKING = "# Parking\nCars park at the lock. The office in Leeds has no parking."


def found(engine: Engine, question: str, limit: int = 5, **groups: tuple[str, ...]) -> list[str]:
    with session(engine) as opened:
        return [passage.title for passage in retrieve(opened, question, limit, **groups)]


def test_the_best_fitting_passage_comes_first(engine: Engine) -> None:
    store(engine, LEAVE, HOTELS, PARKING)
    assert found(engine, "How many days of annual leave do I have?")[0] == "page 0: Annual leave"
    assert found(engine, "hotel limit leeds")[0] == "page 1: Hotels"
    assert found(engine, "Where can I park my car in Leeds?")[0] == "page 2: Parking"


def test_a_rare_word_counts_more_than_a_common_one(engine: Engine) -> None:
    pages = [f"# Rules {n}\nThe office office office rules." for n in range(8)]
    store(engine, *pages, "# Yoga\nYoga is in the office on Monday and needs no mat.")
    assert found(engine, "office yoga", limit=1) == ["page 8: Yoga"]


def test_at_most_as_many_as_asked_for_come_back(engine: Engine) -> None:
    store(engine, LEAVE, HOTELS, PARKING)
    assert len(found(engine, "leeds", limit=1)) == 1
    assert found(engine, "leeds", limit=0) == []


def test_nothing_comes_back_where_nothing_fits(engine: Engine) -> None:
    store(engine, LEAVE)
    assert found(engine, "zeppelin") == []
    assert found(engine, "") == []
    assert found(engine, "??? !!!") == []


def test_other_forms_of_a_word_are_found(engine: Engine) -> None:
    store(engine, LEAVE, PARKING)
    assert found(engine, "parked cars") == ["page 1: Parking"]


def test_only_readable_documents_are_searched(engine: Engine) -> None:
    store(engine, "# Secret\nThe salary of the board.", readers=("board", "hr"))
    store(engine, "# Open\nThe salary is paid monthly.")
    assert found(engine, "salary") == ["page 0: Open"]
    assert found(engine, "salary", limit=1, reader_groups=("hr",)) == ["page 0: Secret"]
    assert len(found(engine, "salary", reader_groups=("everyone", "board"))) == 2
    assert found(engine, "salary", reader_groups=()) == []
    assert found(engine, "salary", reader_groups=("' OR 1=1 --",)) == []


def test_a_long_title_is_shortened(engine: Engine) -> None:
    store(engine, f"# {'long heading ' * 30}\nThe salary is paid monthly.")
    assert len(found(engine, "salary")[0]) <= 100


@pytest.mark.parametrize(
    "question",
    [
        'leave" OR "hotel',
        "leave AND NOT (hotel*) NEAR/2 title:",
        "leave'; DROP TABLE passage; --",
        "leave\x00hotel",
        "leave \ud800",
        "leave & | ! <-> :* \\ %s :words $1 ?",
        "leave " * 20_000,
        "x" * 100_000 + " leave",
        "- leave ^ + {leave} [leave]",
        "ＬＥＡＶＥ leave ﷺ İ ß",
    ],
)
def test_any_text_is_a_question(engine: Engine, question: str) -> None:
    store(engine, LEAVE, HOTELS)
    titles = found(engine, question)
    assert titles or "leave" not in question[:4_000]


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(question=st.text(max_size=60))
def test_no_text_breaks_the_search(engine: Engine, question: str) -> None:
    with session(engine) as opened:
        assert retrieve(opened, question, 3) == []


def test_everyday_words_are_left_out_unless_there_are_no_others() -> None:
    assert content_words("What is the limit?") == ["limit"]
    assert content_words("Who are you?") == ["who", "are", "you"]
    assert content_words("What's the CEO's limit, and why isn’t it in o'clock?") == [
        "ceo",
        "limit",
        "why",
        "o",
        "clock",
    ]
    assert content_words("snake_case Straße") == ["snake", "case", "strasse"]
