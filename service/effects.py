"""What came of somebody's votes: which run learnt from them, what it made, how that did.

Noted from a finished run's snapshot, which is what it truly learnt from. A vote on a held-out
question trains nothing; it measures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from sqlmodel import Session, col, func, select

import rlhf_engine
from service.database import insert_unless_there, matching
from service.tables import (
    GateReport,
    GoldAnswer,
    PolicyVersion,
    Promotion,
    Thumb,
    TrainingRun,
)
from service.voting_tables import LearntVote, RunVoter

MOST_EFFECTS = 20

log = structlog.get_logger(__name__)

Learnt = tuple[str, str, str, str]
"""Kind, id, person and use of one vote or correction."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What came of one person's votes in one run. Counts are of votes and corrections that the
    run was the first to use; `win_rate` is (share, lower, upper) of held-out comparisons."""

    run_id: str
    version: int | None
    against: int | None
    trained: int
    measured: int
    corrections: int
    state: str
    win_rate: tuple[float, float, float] | None
    chrf_gain: tuple[float, float, float] | None
    finished_at: datetime | None

    @property
    def sentence(self) -> str:
        """All of it in words for the one who voted."""
        return " ".join([*_used(self), *_won(self), _went(self)]).strip()


def note_learnt(
    session: Session, run_id: str, folder: rlhf_engine.RunFolder, plan: rlhf_engine.RunPlan
) -> None:
    """Note which votes and corrections a finished run learnt from; may be repeated."""
    snapshot = rlhf_engine.Snapshot.open(folder.stage_path("snapshot"))
    used = list(_corrections(session, snapshot))
    if "reward_model" in plan.stages:
        used += [*_comparisons(snapshot), *_thumbs(session, snapshot)]
    known = set(session.exec(select(RunVoter.person_id).where(RunVoter.run_id == run_id)))
    counts = Counter((person, use) for _kind, _id, person, use in used)
    for person in sorted({person for person, _use in counts} - known):
        session.add(
            RunVoter(
                run_id=run_id,
                person_id=person,
                trained=counts[person, "trained"],
                measured=counts[person, "measured"],
            )
        )
    session.flush()
    for kind, number, person, use in used:
        row = LearntVote(kind=kind, vote_id=number, person_id=person, run_id=run_id, use=use)
        insert_unless_there(session, row)
    log.info("votes_learnt", run=run_id, votes=len(used))


def effects_of(session: Session, person_id: str) -> list[Effect]:
    """What came of this person's votes, the newest run first."""
    counted = (
        select(
            LearntVote.run_id,
            LearntVote.use,
            LearntVote.kind,
            func.count().label("votes"),
        )
        .where(LearntVote.person_id == person_id)
        .group_by(LearntVote.run_id, LearntVote.use, LearntVote.kind)
    )
    counts: dict[str, Counter[str]] = {}
    for run_id, use, kind, votes in session.exec(counted):
        name = "corrections" if kind == "correction" else use
        counts.setdefault(run_id, Counter())[name] += votes
    runs = session.exec(
        select(TrainingRun)
        .where(col(TrainingRun.id).in_(counts))
        .order_by(col(TrainingRun.created_at).desc())
        .limit(MOST_EFFECTS)
    ).all()
    return [_effect(session, run, counts[run.id]) for run in runs]


def versions_of(session: Session, run_ids: Sequence[str]) -> dict[str, int]:
    """The number of the version that each of these runs made, where it made one."""
    query = (
        select(TrainingRun.id, PolicyVersion.number)
        .join(PolicyVersion, col(PolicyVersion.id) == col(TrainingRun.candidate_id))
        .where(col(TrainingRun.id).in_(run_ids))
    )
    return dict(session.exec(query).all())


def _effect(session: Session, run: TrainingRun, counts: Counter[str]) -> Effect:
    gate = session.exec(select(GateReport).where(GateReport.run_id == run.id)).first()
    figures = gate.figures if gate else {}
    candidate = session.get(PolicyVersion, run.candidate_id) if run.candidate_id else None
    return Effect(
        run_id=run.id,
        version=candidate.number if candidate else None,
        against=_against(session, run),
        trained=counts["trained"],
        measured=counts["measured"],
        corrections=counts["corrections"],
        state=_state(session, run, candidate),
        win_rate=_interval(figures.get("win_rate")),
        chrf_gain=_interval(figures.get("chrf_gain")),
        finished_at=run.finished_at,
    )


def _state(session: Session, run: TrainingRun, candidate: PolicyVersion | None) -> str:
    """ "live", "replaced" (it was live), "awaiting_approval" or "refused"."""
    if candidate is not None and candidate.state == "live":
        return "live"
    if run.state == "awaiting_approval":
        return "awaiting_approval"
    if candidate is None:
        return "refused"
    went_live = select(Promotion.id).where(
        Promotion.version_id == candidate.id, Promotion.state == "done"
    )
    return "replaced" if session.exec(went_live).first() else "refused"


def _against(session: Session, run: TrainingRun) -> int | None:
    """The number of the version that the run's candidate was measured against."""
    live = run.plan.get("live")
    if not live:
        return 0
    version = session.get(PolicyVersion, Path(str(live)).name)
    return version.number if version else None


def _interval(found: Any) -> tuple[float, float, float] | None:
    if not isinstance(found, dict):
        return None
    return float(found["value"]), float(found["lower"]), float(found["upper"])


def _used(effect: Effect) -> Iterable[str]:
    version = f"version {effect.version}" if effect.version is not None else "a version"
    given = [
        text
        for count, text in (
            (effect.trained, _counted(effect.trained, "vote")),
            (effect.corrections, _counted(effect.corrections, "corrected answer")),
        )
        if count
    ]
    if given:
        yield f"Your {' and '.join(given)} trained {version}."
    if effect.measured:
        verb = "was" if effect.measured == 1 else "were"
        more = "more " if effect.trained else ""
        votes = _counted(effect.measured, f"{more}vote")
        yield f"Your {votes} {verb} kept to measure {version}."


def _won(effect: Effect) -> Iterable[str]:
    if effect.against is None:
        return
    if effect.win_rate is not None:
        share, low, high = (round(100 * number) for number in effect.win_rate)
        yield (
            f"It wins {share}% ({low} to {high}) of held-out comparisons against "
            f"version {effect.against}."
        )
    elif effect.chrf_gain is not None:
        gain, lower, upper = effect.chrf_gain
        yield (
            f"Its answers to held-out questions are {abs(gain):.1f} points "
            f"{'closer to' if gain >= 0 else 'farther from'} the right ones than those of "
            f"version {effect.against} ({lower:+.1f} to {upper:+.1f})."
        )


def _went(effect: Effect) -> str:
    return {
        "live": "It answers questions now.",
        "replaced": "It answered questions until a newer version took its place.",
        "awaiting_approval": "An operator has not decided yet whether it will answer questions.",
        "refused": "That was not enough to let it answer questions.",
    }[effect.state]


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _comparisons(snapshot: rlhf_engine.Snapshot) -> Iterable[Learnt]:
    for item in snapshot.comparisons:
        if item.rater and (use := _use(item.prompt.split)):
            yield "comparison", item.id, item.rater, use


def _thumbs(session: Session, snapshot: rlhf_engine.Snapshot) -> Iterable[Learnt]:
    """A snapshot's thumbs hold no id: person and moment name the row."""
    uses = {
        (item.rater, datetime.fromisoformat(item.rated_at)): use
        for item in snapshot.thumbs
        if item.rater and item.rated_at and (use := _use(item.prompt.split))
    }
    raters = sorted({rater for rater, _moment in uses})
    query = select(Thumb.id, Thumb.person_id, Thumb.created_at)
    for number, person, moment in matching(session, query, Thumb.person_id, raters):
        if (person, moment) in uses:
            yield "thumb", number, person, uses[person, moment]


def _corrections(session: Session, snapshot: rlhf_engine.Snapshot) -> Iterable[Learnt]:
    """The corrections among the answers that were shown as right."""
    shown = {item.prompt.id for item in snapshot.training_demonstrations()}
    written = select(GoldAnswer.id, GoldAnswer.person_id).where(GoldAnswer.origin == "correction")
    for number, person in session.exec(written):
        if number in shown and person is not None:
            yield "correction", number, person, "trained"


def _use(split: str) -> str | None:
    return {"train": "trained", "held_out": "measured"}.get(split)
