"""Where an answer comes from: its policy version, the run that made it, the frozen snapshot that
run learnt from, and in it the votes, the gold answers and the documents.

The snapshot's files are the truth of what was learnt; the rows of today are only looked up to tell
what became of it. A version's ancestors are the versions it was trained from, down to the base
policy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import select as select_columns
from sqlmodel import Session, col, select

from rlhf_engine.snapshot import MANIFEST
from service.conversations import deleted_turns
from service.database import chunks
from service.errors import NotFoundError
from service.line_pages import LinePage, read_rows
from service.tables import (
    Candidate,
    Comparison,
    DataSource,
    Document,
    GoldAnswer,
    Passage,
    PolicyVersion,
    TrainingRun,
    Turn,
)

MOST_ROWS = 25
MOST_DOCUMENTS = 50
MOST_SNAPSHOTS = 8


@dataclass(frozen=True, slots=True)
class SnapshotSummary:
    """A snapshot by its hash, with how many rows it has of each kind."""

    hash: str
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A version of a line, with the run that made it and what that run learnt from; both None for
    the base policy, the snapshot also where its files are gone."""

    version: PolicyVersion
    run: TrainingRun | None
    snapshot: SnapshotSummary | None


class ShownPassage(msgspec.Struct):
    """A passage as it stood in a prompt; only what names it."""

    id: str
    title: str


class FrozenPrompt(msgspec.Struct):
    """A prompt of a snapshot. `split` is "train", "held_out" or "exam"."""

    id: str
    question: str
    split: str = "train"
    passages: list[ShownPassage] = []


class FrozenVote(msgspec.Struct):
    """A comparison of a snapshot."""

    id: str
    prompt: FrozenPrompt
    answer_a: str
    answer_b: str
    outcome: str
    strength: str | None = None
    simulated: bool = False
    versions: tuple[str, str] = ("", "")
    rated_at: str = ""


class FrozenThumb(msgspec.Struct):
    """A thumb of a snapshot."""

    prompt: FrozenPrompt
    answer: str
    up: bool
    simulated: bool = False
    rated_at: str = ""


class FrozenGold(msgspec.Struct):
    """A gold answer of a snapshot; its prompt has the GoldAnswer's id."""

    prompt: FrozenPrompt
    answer: str


class _Found(NamedTuple):
    id: str
    title: str
    url: str | None
    source: str


class _Prompted(msgspec.Struct):
    prompt: FrozenPrompt


@dataclass(frozen=True, slots=True)
class UsedDocument:
    """A document that passages of a snapshot's prompts were cut from. `id`, `source` and `url` are
    None where it is not among the sources any more; the title is then the passage's."""

    title: str
    prompts: int
    id: str | None = None
    source: str | None = None
    url: str | None = None


def line_of(session: Session, version: PolicyVersion) -> list[Ancestor]:
    """The version and those it was trained from, the newest first, the base policy last."""
    line: list[Ancestor] = []
    at: PolicyVersion | None = version
    while at is not None:
        run = session.get(TrainingRun, at.run_id) if at.run_id else None
        line.append(Ancestor(at, run, summary_of(run) if run else None))
        at = session.get(PolicyVersion, at.parent_id) if at.parent_id else None
    return line


def line_of_answer(session: Session, candidate_id: str) -> list[Ancestor]:
    """The line of the version that gave an answer; NotFoundError where there is no such answer."""
    candidate = session.get(Candidate, candidate_id)
    if candidate is None:
        raise NotFoundError(f"there is no answer {candidate_id!r}")
    return line_of(session, session.get_one(PolicyVersion, candidate.version_id))


def summary_of(run: TrainingRun) -> SnapshotSummary | None:
    """The run's snapshot, None before it is frozen and where its files are gone."""
    path = folder_of(run) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return SnapshotSummary(manifest["hash"], manifest["counts"])


def folder_of(run: TrainingRun) -> Path:
    """Where the run's snapshot lies."""
    return Path(run.folder) / "snapshot"


def read_votes(run: TrainingRun, after: int = 0) -> LinePage:
    """A page of the comparisons that a run learnt from or measured on."""
    return _page(run, "comparisons", after, FrozenVote)


def read_thumbs(run: TrainingRun, after: int = 0) -> LinePage:
    """A page of its thumbs."""
    return _page(run, "thumbs", after, FrozenThumb)


def read_gold_answers(run: TrainingRun, after: int = 0) -> LinePage:
    """A page of its gold answers."""
    return _page(run, "demonstrations", after, FrozenGold)


def replaced_since(session: Session, votes: Sequence[FrozenVote]) -> dict[str, str]:
    """Of these votes those that are not in force any more, with what replaced them: "changed" or
    "withdrawn"."""
    numbers = [vote.id for vote in votes]
    later = select(Comparison.replaces_id, Comparison.choice).where(
        col(Comparison.replaces_id).in_(numbers)
    )
    found = session.exec(later).all()
    return {
        number: "withdrawn" if choice == "withdrawn" else "changed"
        for number, choice in found
        if number is not None
    }


def deleted_since(session: Session, prompts: Sequence[str]) -> set[str]:
    """Of these prompts those whose conversation its owner deleted; nobody is shown their texts."""
    query = deleted_turns().where(col(Turn.id).in_(prompts))
    return set(session.scalars(query))


def gold_states(session: Session, rows: Sequence[FrozenGold]) -> dict[str, GoldAnswer]:
    """The rows of today of these gold answers, those that there are."""
    numbers = [row.prompt.id for row in rows]
    found = session.exec(select(GoldAnswer).where(col(GoldAnswer.id).in_(numbers)))
    return {row.id: row for row in found}


def used_documents(session: Session, run: TrainingRun) -> list[UsedDocument]:
    """The documents that the snapshot's prompts were answered from, the most used first."""
    summary = summary_of(run)
    if summary is None:
        raise NotFoundError(f"run {run.id} has no snapshot (any more)")
    passages = _passages(folder_of(run), summary.hash)
    documents = _documents(session, list(passages))
    used: dict[str, UsedDocument] = {}
    for number, (title, prompts) in passages.items():
        known = documents.get(number)
        key = known.id if known else f"gone {title}"
        prompts += used[key].prompts if key in used else 0
        if known is None:
            used[key] = UsedDocument(title, prompts)
        else:
            used[key] = UsedDocument(known.title, prompts, known.id, known.source, known.url)
    return sorted(used.values(), key=lambda row: (-row.prompts, row.title, row.id or ""))


@lru_cache(maxsize=MOST_SNAPSHOTS)
def _passages(folder: Path, _hash: str) -> dict[str, tuple[str, int]]:
    """The title of each passage in the snapshot's prompts, and in how many distinct prompts it
    stands. Frozen files never change, so that they are read once."""
    shown: dict[str, tuple[str, set[str]]] = {}
    for prompt in _prompts(folder):
        for passage in prompt.passages:
            shown.setdefault(passage.id, (passage.title, set()))[1].add(prompt.id)
    return {number: (title, len(prompts)) for number, (title, prompts) in shown.items()}


def _prompts(folder: Path) -> Iterator[FrozenPrompt]:
    holder = msgspec.json.Decoder(_Prompted)
    plain = msgspec.json.Decoder(FrozenPrompt)
    for name in ("demonstrations", "comparisons", "thumbs", "prompts"):
        for line in _lines(folder / f"{name}.jsonl"):
            yield plain.decode(line) if name == "prompts" else holder.decode(line).prompt


def _lines(path: Path) -> Iterator[bytes]:
    # A snapshot may have been frozen before there were thumbs.
    if path.exists():
        with path.open("rb") as file:
            yield from file


def _documents(session: Session, passages: Sequence[str]) -> dict[str, _Found]:
    """The document of each passage that is still there, without its text."""
    found: dict[str, _Found] = {}
    query = (
        select_columns(
            col(Passage.id),
            col(Document.id),
            col(Document.title),
            col(Document.url),
            col(DataSource.name),
        )
        .join(Document, col(Document.id) == col(Passage.document_id))
        .join(DataSource, col(DataSource.id) == col(Document.source_id))
    )
    for some in chunks(passages):
        for number, *values in session.execute(query.where(col(Passage.id).in_(some))):
            found[number] = _Found(*values)
    return found


def _page(run: TrainingRun, name: str, after: int, kind: type[Any]) -> LinePage:
    decoder = msgspec.json.Decoder(kind)
    return read_rows(folder_of(run) / f"{name}.jsonl", after, MOST_ROWS, decoder.decode)
