"""A sync writes what changed and nothing else; a source that fails changes nothing."""

from __future__ import annotations

import dataclasses
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlmodel import col, select

from plugins.contract import (
    Complete,
    Document,
    GoldPair,
    Item,
    Partial,
    Rejected,
    Removal,
    SourceError,
)
from service.database import session
from service.plugin_host import PluginHost
from service.retrieval import retrieve
from service.settings import Settings, SourceSettings
from service.sync import sync_all, sync_source
from service.tables import DataSource, GoldAnswer, Passage, SyncReport, now
from service.tables import Document as DocumentRow
from tests.service.sources import Shelf

LEAVE = Document("leave", "Leave", "Everybody has 25 days of leave.")
HOTELS = Document("hotels", "Hotels", "The limit is 135 pounds.")
PAIR = GoldPair("q1", "How much leave is there?", "25 days.", author="HR")


def counts(report: SyncReport) -> tuple[int, int, int, int]:
    assert report.error is None
    return report.added, report.changed, report.removed, report.unchanged


def documents(engine: Engine) -> dict[str, str]:
    with session(engine) as opened:
        return {row.external_id: row.text for row in opened.exec(select(DocumentRow))}


def gold(engine: Engine) -> dict[str, tuple[str, str]]:
    with session(engine) as opened:
        return {row.external_id: (row.state, row.answer) for row in opened.exec(select(GoldAnswer))}


def searched(engine: Engine, question: str) -> list[str]:
    with session(engine) as opened:
        return [passage.text for passage in retrieve(opened, question, 5)]


def test_a_first_sync_brings_everything(engine: Engine) -> None:
    report = Shelf().sync(engine, LEAVE, HOTELS, PAIR, Complete())
    assert counts(report) == (3, 0, 0, 0)
    assert documents(engine) == {"leave": LEAVE.text, "hotels": HOTELS.text}
    assert gold(engine) == {"q1": ("accepted", "25 days.")}
    assert searched(engine, "leave") == [LEAVE.text]


def test_what_did_not_change_is_not_written(engine: Engine) -> None:
    shelf = Shelf()
    shelf.sync(engine, LEAVE, PAIR, Complete())
    with session(engine) as opened:
        before = opened.exec(select(DocumentRow.created_at)).one()
    assert counts(shelf.sync(engine, LEAVE, PAIR, Complete())) == (0, 0, 0, 2)
    with session(engine) as opened:
        assert opened.exec(select(DocumentRow.created_at)).one() == before


@pytest.mark.parametrize(
    "change",
    [
        {"text": "Everybody has 30 days of leave."},
        {"title": "Holidays"},
        {"url": "leave.html"},
        {"readers": ("board", "everyone")},
        {"updated": datetime(2026, 1, 1, tzinfo=UTC)},
    ],
)
def test_any_changed_field_is_a_change(engine: Engine, change: dict[str, Any]) -> None:
    shelf = Shelf()
    shelf.sync(engine, LEAVE, Complete())
    changed = dataclasses.replace(LEAVE, **change)
    assert counts(shelf.sync(engine, changed, Complete())) == (0, 1, 0, 0)
    assert documents(engine) == {"leave": changed.text}


def test_a_changed_document_is_found_by_its_new_words_only(engine: Engine) -> None:
    shelf = Shelf()
    shelf.sync(engine, LEAVE, Complete())
    shelf.sync(engine, dataclasses.replace(LEAVE, text="Holidays are 30."), Complete())
    assert searched(engine, "holidays") == ["Holidays are 30."]
    assert searched(engine, "everybody") == []


def test_what_a_complete_sync_no_longer_lists_is_gone(engine: Engine) -> None:
    shelf = Shelf()
    shelf.sync(engine, LEAVE, HOTELS, PAIR, Complete())
    assert counts(shelf.sync(engine, LEAVE, Complete())) == (0, 0, 2, 1)
    assert documents(engine) == {"leave": LEAVE.text}
    assert gold(engine) == {"q1": ("removed", "25 days.")}
    assert searched(engine, "pounds") == []


def test_a_partial_sync_removes_only_what_it_names(engine: Engine) -> None:
    shelf = Shelf()
    shelf.sync(engine, LEAVE, HOTELS, PAIR, Complete())
    report = shelf.sync(engine, Removal("hotels"), Removal("never known"), Partial())
    assert counts(report) == (0, 0, 1, 0)
    assert documents(engine) == {"leave": LEAVE.text}
    assert gold(engine) == {"q1": ("accepted", "25 days.")}


def test_a_removed_gold_pair_may_come_back(engine: Engine) -> None:
    shelf = Shelf()
    shelf.sync(engine, PAIR, Complete())
    shelf.sync(engine, Complete())
    assert counts(shelf.sync(engine, PAIR, Complete())) == (0, 1, 0, 0)
    assert gold(engine) == {"q1": ("accepted", "25 days.")}


def test_a_gold_pair_without_a_date_was_updated_when_its_words_changed(engine: Engine) -> None:
    shelf = Shelf()

    def updated(*pairs: GoldPair) -> list[datetime | None]:
        assert shelf.sync(engine, *pairs, Complete()).error is None
        with session(engine) as opened:
            return list(opened.exec(select(GoldAnswer.updated).order_by(GoldAnswer.external_id)))

    began = now()
    other = GoldPair("q2", "Is there a gym?", "Yes.")
    assert updated(PAIR, other) == [None, None]
    corrected = dataclasses.replace(PAIR, answer="28 days.")
    moment, untouched = updated(corrected, other)
    assert moment is not None
    assert began <= moment <= now()
    assert untouched is None
    signed = dataclasses.replace(corrected, author="The board")
    assert updated(signed, other) == [moment, None]
    assert updated() == [moment, None]
    assert updated(signed, other) == [moment, None]
    dated = dataclasses.replace(other, updated=datetime(2026, 1, 1, tzinfo=UTC))
    assert updated(signed, dated) == [moment, dated.updated]
    assert updated(signed, other) == [moment, dated.updated]


def test_the_search_index_holds_exactly_the_passages(engine: Engine) -> None:
    shelf = Shelf()
    long = Document("long", "Long", "\n".join(f"# Part {n}\nSome text {n}." for n in range(50)))
    shelf.sync(engine, long, LEAVE, Complete())
    shelf.sync(engine, dataclasses.replace(long, text="Short now."), HOTELS, Complete())
    with session(engine) as opened:
        assert len(opened.exec(select(Passage)).all()) == 2
        indexed = opened.connection().execute(text("SELECT count(*) FROM passage_search"))
        assert indexed.scalar_one() == 2


def test_the_cursor_comes_back_at_the_next_sync(engine: Engine) -> None:
    shelf = Shelf()
    shelf.sync(engine, LEAVE, Complete({"page": 7, "seen": ["a"]}))
    shelf.sync(engine, SourceError("the server does not answer"))
    shelf.sync(engine, Partial({"page": 8}))
    assert shelf.cursors == [{}, {"page": 7, "seen": ["a"]}, {"page": 7, "seen": ["a"]}]


def test_a_cursor_of_other_options_is_forgotten(engine: Engine) -> None:
    shelf = Shelf()
    shelf.sync(engine, Complete({"page": 7}), options={"path": "a"})
    shelf.sync(engine, Complete({"page": 1}), options={"path": "b"})
    assert shelf.cursors == [{}, {}]


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ([HOTELS, SourceError("the folder is gone; check path")], "the folder is gone"),
        ([HOTELS, RuntimeError("a bug")], "plugin shelf.*RuntimeError: a bug"),
        ([HOTELS], "without Complete or Partial"),
        ([HOTELS, Complete(), LEAVE], "after Complete"),
        ([HOTELS, Complete({"when": datetime.now(UTC)})], "no plain JSON"),
        ([HOTELS, Complete({"share": float("nan")})], "no plain JSON"),
        ([HOTELS, Complete([1])], "dict|mapping|list"),  # type: ignore[arg-type]
    ],
)
def test_a_failing_source_changes_nothing_and_leaves_a_report(
    engine: Engine, contents: list[Item | Exception], said: str
) -> None:
    shelf = Shelf()
    shelf.sync(engine, LEAVE, Complete({"page": 7}))
    report = shelf.sync(engine, *contents)
    assert report.error is not None
    assert re.search(said, report.error)
    with session(engine) as opened:
        stored = opened.exec(select(SyncReport).where(col(SyncReport.error).is_not(None))).one()
        assert stored.error == report.error
        assert stored.finished_at is not None
        assert opened.exec(select(DataSource)).one().cursor == {"page": 7}
    assert documents(engine) == {"leave": LEAVE.text}


def test_one_failing_source_does_not_stop_another(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# Leave\n\nEverybody has 25 days.", encoding="utf-8")
    sources = (
        SourceSettings(name="gone", plugin="markdown_folder", options={"path": "/no/such"}),
        SourceSettings(name="unknown", plugin="no_such_plugin"),
        SourceSettings(name="here", plugin="markdown_folder", options={"path": str(tmp_path)}),
    )
    settings = Settings(home=tmp_path / "home", sources=sources)
    gone, unknown, here = sync_all(engine, PluginHost.load(), settings)
    assert gone.error is not None
    assert "/no/such" in gone.error
    assert unknown.error is not None
    assert "no_such_plugin" in unknown.error
    assert counts(here) == (1, 0, 0, 0)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (Document("", "t", "text"), "id is empty"),
        (Document("x", " ", "text"), "title is empty"),
        (Document("x", "t", ""), "text is empty"),
        (Document("x", "t", "a\x00b"), "no text"),
        (Document("x", "t", "a\ud800b"), "no text"),
        (Document("x", "t" * 501, "text"), "at most 500"),
        (Document("x", "t", 7), "text is a int"),  # type: ignore[arg-type]
        (Document("x", "t", "text", readers=()), "at least one group"),
        (Document("x", "t", "text", readers="everyone"), "at least one group"),  # type: ignore[arg-type]
        (Document("x", "t", "text", updated="2026"), "must be a datetime"),  # type: ignore[arg-type]
        (GoldPair("x", "?" * 2_001, "answer"), "at most 2000"),
        (GoldPair("x", "Why?", "\n"), "answer is empty"),
        (dataclasses.replace(LEAVE, text="another"), "listed twice"),
    ],
)
def test_an_item_that_cannot_be_used_is_rejected_and_the_others_kept(
    engine: Engine, bad: Item, said: str
) -> None:
    report = Shelf().sync(engine, LEAVE, bad, HOTELS, Complete())
    assert counts(report) == (2, 0, 0, 0)
    assert documents(engine) == {"leave": LEAVE.text, "hotels": HOTELS.text}
    [rejected] = report.rejected
    assert said in rejected["reason"]


def test_what_the_source_rejected_is_reported(engine: Engine) -> None:
    report = Shelf().sync(engine, Rejected("faq.csv line\x00 7 \ud800", "no answer"), Complete())
    assert report.rejected == [{"where": "faq.csv line� 7 ?", "reason": "no answer"}]


def test_an_item_that_became_unusable_keeps_its_last_good_form(engine: Engine) -> None:
    shelf = Shelf()
    shelf.sync(engine, LEAVE, HOTELS, Complete())
    report = shelf.sync(
        engine, dataclasses.replace(LEAVE, text=""), Rejected("hotels", "not UTF-8"), Complete()
    )
    assert counts(report) == (0, 0, 0, 0)
    assert documents(engine) == {"leave": LEAVE.text, "hotels": HOTELS.text}


def test_a_report_does_not_grow_without_end(engine: Engine) -> None:
    many = [Rejected(str(n), "bad") for n in range(1_500)]
    report = Shelf().sync(engine, *many, Complete())
    assert len(report.rejected) == 1_000
    assert report.rejected_count == 1_500


def test_gold_pairs_take_the_purpose_of_their_source(engine: Engine) -> None:
    shelf = Shelf()
    shelf.sync(engine, PAIR, Complete(), purpose="evaluation")
    with session(engine) as opened:
        assert opened.exec(select(GoldAnswer)).one().purpose == "evaluation"
    report = shelf.sync(engine, PAIR, Complete(), purpose="training")
    assert counts(report) == (0, 0, 0, 1)
    with session(engine) as opened:
        assert opened.exec(select(GoldAnswer)).one().purpose == "training"


def test_sources_do_not_touch_each_others_items(engine: Engine) -> None:
    shelf = Shelf()
    shelf.sync(engine, LEAVE, PAIR, Complete(), name="one")
    shelf.sync(engine, dataclasses.replace(LEAVE, text="Other."), PAIR, Complete(), name="two")
    shelf.sync(engine, Complete(), name="two")
    assert documents(engine) == {"leave": LEAVE.text}


def test_a_moment_without_a_zone_is_taken_for_utc(engine: Engine) -> None:
    naive = datetime.fromisoformat("2026-01-02")
    Shelf().sync(engine, dataclasses.replace(PAIR, updated=naive), Complete())
    with session(engine) as opened:
        updated = opened.exec(select(GoldAnswer)).one().updated
    assert updated == datetime(2026, 1, 2, tzinfo=UTC)
    assert updated.utcoffset() == timedelta(0)


def test_a_sync_that_was_overtaken_changes_nothing(engine: Engine) -> None:
    slow, fast = Shelf(), Shelf()
    done: list[SyncReport] = []

    def overtake(count: int) -> None:
        if not done:
            done.append(fast.sync(engine, HOTELS, Complete()))

    slow.contents = [LEAVE, Complete()]
    settings = SourceSettings(name="shelf", plugin="shelf")
    report = sync_source(engine, slow.host, settings, overtake)
    assert report.error is not None
    assert "went on meanwhile" in report.error
    assert documents(engine) == {"hotels": HOTELS.text}


def test_progress_counts_the_items(engine: Engine) -> None:
    seen: list[int] = []
    shelf = Shelf()
    shelf.contents = [LEAVE, HOTELS, Complete()]
    settings = SourceSettings(name="shelf", plugin="shelf")
    sync_source(engine, shelf.host, settings, seen.append)
    assert seen == [1, 2, 3]
