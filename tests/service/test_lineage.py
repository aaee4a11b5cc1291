"""Every served answer resolves to its version, run, snapshot and votes; on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlmodel import col, select

from rlhf_engine.snapshot import Snapshot
from service import lineage
from service.database import session
from service.errors import InvalidInputError, NotFoundError
from service.tables import (
    Candidate,
    Comparison,
    Conversation,
    Document,
    GoldAnswer,
    PolicyVersion,
    Thumb,
    TrainingRun,
    now,
)
from tests.service.trained import SECRET, Trained, train
from tests.service.web_client import Caller, web_app


@pytest.fixture
def trained(engine: Engine, tmp_path: Path) -> Trained:
    return train(engine, tmp_path / "run", votes=30)


@pytest.fixture
def reviewer(engine: Engine, tmp_path: Path) -> Iterator[Caller]:
    with web_app(engine, tmp_path / "home") as app:
        yield Caller(app)


def every_row(reviewer: Caller, path: str) -> list[dict[str, object]]:
    rows, after = [], "0"
    while after is not None:
        page = reviewer.get(path, after=after).json()
        rows += page["rows"]
        after = None if page["next"] is None else str(page["next"])
    return rows


def test_every_served_answer_resolves_to_version_run_snapshot_and_votes(
    reviewer: Caller, engine: Engine, trained: Trained
) -> None:
    """All answers are walked, and all votes: none leads nowhere."""
    with session(engine) as opened:
        answers = opened.exec(select(Candidate)).all()
        votes = set(opened.exec(select(Comparison.id)))
        thumbs = len(opened.exec(select(Thumb.id)).all())
        gold = set(opened.exec(select(GoldAnswer.id)))
    assert {answer.id for answer in answers} == set(trained.answers)
    for answer in answers:
        line = reviewer.get(f"/api/answers/{answer.id}/lineage").json()["line"]
        assert line[0]["id"] == answer.version_id
        assert (line[-1]["kind"], line[-1]["run_id"]) == ("base", None)
        for one in line[:-1]:
            assert one["run_id"] == trained.run
            snapshot = reviewer.get(f"/api/runs/{one['run_id']}/snapshot").json()
            assert snapshot["hash"] == one["snapshot_hash"]
            assert snapshot["counts"] == one["counts"]
    path = f"/api/runs/{trained.run}/snapshot"
    assert {row["id"] for row in every_row(reviewer, f"{path}/votes")} == votes
    assert {row["id"] for row in every_row(reviewer, f"{path}/gold-answers")} == gold
    assert len(every_row(reviewer, f"{path}/thumbs")) == thumbs == 30
    assert {answer.version_id for answer in answers} > {trained.sft, trained.ppo}


def test_the_snapshots_pages_hold_what_was_frozen(reviewer: Caller, trained: Trained) -> None:
    frozen = Snapshot.open(trained.folder / "snapshot")
    path = f"/api/runs/{trained.run}/snapshot"
    votes = every_row(reviewer, f"{path}/votes")
    assert [row["id"] for row in votes] == [vote.id for vote in frozen.comparisons]
    first = next(row for row in votes if row["question"] == SECRET)
    assert (first["answer_a"], first["outcome"]) == ("Answer A to number 0.", "a")
    assert (first["version_a"], first["version_b"], first["since"]) == (0, 0, "in force")
    assert {row["use"] for row in votes} <= {"train", "held_out"}
    gold = every_row(reviewer, f"{path}/gold-answers")
    assert {row["author"] for row in gold} == {"Grace Handbook"}
    documents = every_row(reviewer, f"{path}/documents")
    assert {row["title"]: row["source"] for row in documents} == {
        "Annual leave": "handbook",
        "Hotels": "handbook",
    }
    assert sum(int(str(row["prompts"])) for row in documents) >= 30


def test_what_became_of_a_vote_a_gold_answer_and_a_document_since(
    reviewer: Caller, engine: Engine, trained: Trained
) -> None:
    path = f"/api/runs/{trained.run}/snapshot"
    with session(engine) as opened:
        for number, choice in ((0, "tie"), (1, "withdrawn")):
            old = opened.get_one(Comparison, trained.votes[number]).model_dump(exclude={"id"})
            opened.add(Comparison(**old | {"choice": choice, "replaces_id": trained.votes[number]}))
        gold = opened.exec(select(GoldAnswer)).all()
        gold[0].state = "removed"
        opened.add(gold[0])
        opened.delete(gold[1])
        gone = opened.exec(select(Document).where(Document.title == "Hotels")).one()
        opened.delete(gone)
    since = {row["id"]: row["since"] for row in every_row(reviewer, f"{path}/votes")}
    assert [since[number] for number in trained.votes[:3]] == ["changed", "withdrawn", "in force"]
    states = {row["id"]: row["state"] for row in every_row(reviewer, f"{path}/gold-answers")}
    assert (states[gold[0].id], states[gold[1].id]) == ("removed", "gone")
    documents = every_row(reviewer, f"{path}/documents")
    gone_ones = [row for row in documents if row["id"] is None]
    assert {row["title"] for row in documents if row["id"]} == {"Annual leave"}
    assert gone_ones
    assert all("Hotels" in str(row["title"]) and not row["source"] for row in gone_ones)


def test_nobody_is_shown_the_texts_of_a_conversation_that_its_owner_deleted(
    reviewer: Caller, engine: Engine, trained: Trained
) -> None:
    path = f"/api/runs/{trained.run}/snapshot"
    with session(engine) as opened:
        talk = opened.exec(select(Conversation)).one()
        talk.deleted_at = now()
        opened.add(talk)
    votes, thumbs = every_row(reviewer, f"{path}/votes"), every_row(reviewer, f"{path}/thumbs")
    assert {(row["question"], row["answer_a"], row["since"]) for row in votes} == {
        ("", "", "deleted")
    }
    assert {(row["question"], row["answer"], row["deleted"]) for row in thumbs} == {("", "", True)}
    assert (len(votes), len(thumbs)) == (30, 30)


def test_a_version_tells_its_line_and_what_replaced_it(
    reviewer: Caller, engine: Engine, trained: Trained
) -> None:
    shown = reviewer.get("/api/policies/2").json()
    assert [one["number"] for one in shown["line"]] == [2, 1, 0]
    assert shown["line"][0]["counts"]["comparisons"] == 30
    assert (shown["answers"], shown["alias"], shown["parent"]) == (1, "live", 1)
    assert reviewer.get("/api/policies/live").json()["id"] == trained.ppo
    assert reviewer.get("/api/policies/99").status_code == 404
    with session(engine) as opened:
        versions = opened.exec(select(PolicyVersion).order_by(col(PolicyVersion.number))).all()
    listed = reviewer.get("/api/policies").json()["versions"]
    assert [row["id"] for row in listed] == [row.id for row in reversed(versions)]


def test_a_run_whose_files_are_gone_says_so(
    reviewer: Caller, engine: Engine, trained: Trained
) -> None:
    (trained.folder / "snapshot").rename(trained.folder / "moved")
    path = f"/api/runs/{trained.run}/snapshot"
    for rest in ("", "/votes", "/thumbs", "/gold-answers", "/documents"):
        answer = reviewer.get(path + rest)
        assert (answer.status_code, "any more" in answer.json()["detail"]) == (404, True)
    line = reviewer.get(f"/api/answers/{trained.answers[-1]}/lineage").json()["line"]
    assert (line[0]["counts"], line[0]["run_id"]) == (None, trained.run)
    assert reviewer.get("/api/answers/none/lineage").status_code == 404
    with session(engine) as opened:
        run = opened.get_one(TrainingRun, trained.run)
        with pytest.raises(NotFoundError, match="has no snapshot"):
            lineage.used_documents(opened, run)


def test_a_page_begins_where_a_row_begins(engine: Engine, trained: Trained) -> None:
    with session(engine) as opened:
        run = opened.get_one(TrainingRun, trained.run)
    page = lineage.read_votes(run)
    assert page.next is not None
    assert len(lineage.read_votes(run, page.next).rows) == 5
    with pytest.raises(InvalidInputError, match="no row begins there"):
        lineage.read_votes(run, page.next + 1)
    with pytest.raises(InvalidInputError):
        lineage.read_votes(run, 10**9)
