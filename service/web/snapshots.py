"""The frozen snapshot that a run learnt from: its votes, gold answers and documents, in pages."""

from __future__ import annotations

import msgspec
from litestar.params import FromPath
from sqlmodel import col, select

from service import lineage
from service.database import session
from service.errors import NotFoundError
from service.tables import PolicyVersion
from service.web.parts import GivenParts
from service.web.run_details import From, run_route
from service.web.runs import find_run
from service.web.sessions import GivenPerson


class Snapshot(msgspec.Struct):
    """What a run learnt from: how many rows of each kind."""

    hash: str
    counts: dict[str, int]


class LearntVote(msgspec.Struct):
    """A comparison as it was frozen. `use` is "train", "held_out" or "exam"; `since` says what
    became of it: "in force", "changed", "withdrawn", or "deleted" where the asker deleted the
    conversation; its texts are empty then."""

    id: str
    question: str
    answer_a: str
    answer_b: str
    outcome: str
    strength: str | None
    simulated: bool
    version_a: int | None
    version_b: int | None
    use: str
    rated_at: str
    since: str


class LearntThumb(msgspec.Struct):
    """A thumb as it was frozen. Where the asker deleted the conversation since, `deleted` says so
    and the texts are empty."""

    question: str
    answer: str
    up: bool
    simulated: bool
    use: str
    rated_at: str
    deleted: bool


class LearntGold(msgspec.Struct):
    """A gold answer as it was frozen. `author` and `origin` are those of its row of today; `state`
    is "accepted", "proposed", "removed", or "gone" where there is no row any more."""

    id: str
    question: str
    answer: str
    use: str
    author: str | None
    origin: str | None
    state: str


class LearntDocument(msgspec.Struct):
    """A document behind the snapshot's prompts. `id` is null where it is no longer a source's."""

    title: str
    prompts: int
    id: str | None
    source: str | None
    url: str | None


class VotePage(msgspec.Struct):
    """A page of comparisons."""

    rows: list[LearntVote]
    next: int | None


class ThumbPage(msgspec.Struct):
    """A page of thumbs."""

    rows: list[LearntThumb]
    next: int | None


class GoldPage(msgspec.Struct):
    """A page of gold answers."""

    rows: list[LearntGold]
    next: int | None


class DocumentPage(msgspec.Struct):
    """A page of documents, the most used first."""

    rows: list[LearntDocument]
    next: int | None


@run_route("snapshot")
def show_snapshot(reviewer: GivenPerson, parts: GivenParts, run_id: FromPath[str]) -> Snapshot:  # noqa: ARG001 - for reviewers
    """What the run learnt from; 404 before it is frozen."""
    with session(parts.database) as opened:
        summary = lineage.summary_of(find_run(opened, run_id))
    if summary is None:
        raise NotFoundError(f"run {run_id} has no snapshot (any more)")
    return Snapshot(summary.hash, summary.counts)


@run_route("snapshot/votes")
def show_votes(
    reviewer: GivenPerson,  # noqa: ARG001 - for reviewers
    parts: GivenParts,
    run_id: FromPath[str],
    after: From = 0,
) -> VotePage:
    """The comparisons that the run learnt from, with their texts, as they were frozen."""
    with session(parts.database) as opened:
        page = lineage.read_votes(find_run(opened, run_id), after)
        replaced = lineage.replaced_since(opened, page.rows)
        deleted = lineage.deleted_since(opened, [vote.prompt.id for vote in page.rows])
        shown = {name for vote in page.rows for name in vote.versions}
        query = select(PolicyVersion.id, PolicyVersion.number)
        numbers = dict(opened.exec(query.where(col(PolicyVersion.id).in_(shown))).all())
    rows = [
        _learnt_vote(vote, numbers, deleted, replaced.get(vote.id, "in force"))
        for vote in page.rows
    ]
    return VotePage(rows, page.next)


@run_route("snapshot/thumbs")
def show_thumbs(
    reviewer: GivenPerson,  # noqa: ARG001 - for reviewers
    parts: GivenParts,
    run_id: FromPath[str],
    after: From = 0,
) -> ThumbPage:
    """The thumbs that the run learnt from, with their texts, as they were frozen."""
    with session(parts.database) as opened:
        page = lineage.read_thumbs(find_run(opened, run_id), after)
        deleted = lineage.deleted_since(opened, [row.prompt.id for row in page.rows])
    rows = []
    for row in page.rows:
        gone = row.prompt.id in deleted
        question, answer = ("", "") if gone else (row.prompt.question, row.answer)
        use = row.prompt.split
        rows.append(LearntThumb(question, answer, row.up, row.simulated, use, row.rated_at, gone))
    return ThumbPage(rows, page.next)


@run_route("snapshot/gold-answers")
def show_gold_answers(
    reviewer: GivenPerson,  # noqa: ARG001 - for reviewers
    parts: GivenParts,
    run_id: FromPath[str],
    after: From = 0,
) -> GoldPage:
    """The gold answers that the run learnt from or was examined on, as they were frozen."""
    with session(parts.database) as opened:
        page = lineage.read_gold_answers(find_run(opened, run_id), after)
        today = lineage.gold_states(opened, page.rows)
    rows = []
    for row in page.rows:
        known = today.get(row.prompt.id)
        rows.append(
            LearntGold(
                id=row.prompt.id,
                question=row.prompt.question,
                answer=row.answer,
                use=row.prompt.split,
                author=known.author if known else None,
                origin=known.origin if known else None,
                state=known.state if known else "gone",
            )
        )
    return GoldPage(rows, page.next)


@run_route("snapshot/documents")
def show_documents(
    reviewer: GivenPerson,  # noqa: ARG001 - for reviewers
    parts: GivenParts,
    run_id: FromPath[str],
    after: From = 0,
) -> DocumentPage:
    """The documents that the snapshot's questions were answered from, the most used first."""
    with session(parts.database) as opened:
        used = lineage.used_documents(opened, find_run(opened, run_id))
    ends = after + lineage.MOST_DOCUMENTS
    rows = [
        LearntDocument(row.title, row.prompts, row.id, row.source, row.url)
        for row in used[after:ends]
    ]
    return DocumentPage(rows, ends if ends < len(used) else None)


def _learnt_vote(
    vote: lineage.FrozenVote, numbers: dict[str, int], deleted: set[str], since: str
) -> LearntVote:
    gone = vote.prompt.id in deleted
    return LearntVote(
        id=vote.id,
        question="" if gone else vote.prompt.question,
        answer_a="" if gone else vote.answer_a,
        answer_b="" if gone else vote.answer_b,
        outcome=vote.outcome,
        strength=vote.strength,
        simulated=vote.simulated,
        version_a=numbers.get(vote.versions[0]),
        version_b=numbers.get(vote.versions[1]),
        use=vote.prompt.split,
        rated_at=vote.rated_at,
        since="deleted" if gone else since,
    )
