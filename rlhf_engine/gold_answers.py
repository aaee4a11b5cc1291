"""Which gold answers an SFT run learns, which it learns again, and which it is watched by.

A gold answer is known by its normalised question and its text, whatever passages stand in its
prompt today. One that the earlier snapshot lacks is new; one that only the earlier snapshot has
was withdrawn or corrected, and going on from what learnt it cannot take it back. What a run watches
it does not learn, so it leaves a list of that for the run that goes on from it.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_engine.errors import SnapshotError
from rlhf_engine.files import write_json
from rlhf_engine.plan import SftPlan
from rlhf_engine.records import Demonstration
from rlhf_engine.run_folder import RunFolder
from rlhf_engine.snapshot import Snapshot, is_watched, normalised

WATCHED = "watched.json"
"""In the folder of the stage sft: the hash of each watched question."""

MIN_WATCHED = 8
"""Fewer held-out questions say too little to stop a training by."""

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Lessons:
    """What one SFT run learns.

    `new` is learnt for the first time, `replayed` again against forgetting; `watched` is not
    learnt: its loss says when to stop.
    """

    new: tuple[Demonstration, ...]
    replayed: tuple[Demonstration, ...] = ()
    watched: tuple[Demonstration, ...] = ()

    @property
    def learnt(self) -> tuple[Demonstration, ...]:
        """Everything the loss falls on."""
        return self.new + self.replayed


def choose_lessons(plan: SftPlan, seed: int, snapshot: Snapshot) -> Lessons:
    """Sort the snapshot's gold answers; the same plan, seed and snapshot give the same.

    Raises SnapshotError where `plan.seen` holds gold answers that this snapshot lacks.
    """
    known: set[Key] = set()
    if plan.seen is not None:
        earlier = Snapshot.open(Path(plan.seen))
        _refuse_withdrawn(earlier, snapshot)
        watched_then = _read_watched(earlier)
        known = {key for key in _keys(earlier) if _hash(key[0]) not in watched_then}
    watched = _watched(plan, snapshot, {question for question, _ in known})
    kept_back = _questions(watched)
    training = [
        item
        for item in snapshot.training_demonstrations()
        if normalised(item.prompt.question) not in kept_back
    ]
    new = tuple(item for item in training if _key(item) not in known)
    again = [item for item in training if _key(item) in known]
    return Lessons(new, _sample(again, plan.replay_share, f"{seed} {snapshot.hash}"), watched)


def write_watched(stage_path: Path, lessons: Lessons) -> None:
    """Keep in the stage's folder which questions the run did not learn because it watched them."""
    hashes = {_hash(question) for question in _questions(lessons.watched)}
    write_json(stage_path / WATCHED, sorted(hashes))


def withdrawn(earlier: Snapshot, now: Snapshot) -> int:
    """How many gold answers of the training side were there earlier and are not now."""
    return len(_keys(earlier) - _keys(now))


def added(earlier: Snapshot, now: Snapshot) -> int:
    """How many gold answers of the training side are there now and were not earlier."""
    return len(_keys(now) - _keys(earlier))


def _refuse_withdrawn(earlier: Snapshot, now: Snapshot) -> None:
    count = withdrawn(earlier, now)
    if count:
        raise SnapshotError(
            f"{count} gold answers of {earlier.path} were withdrawn or changed since, and a policy "
            "that learnt them cannot unlearn them; take sft.start_from and sft.seen out of the "
            "plan, so that SFT begins with the base policy"
        )


def _read_watched(earlier: Snapshot) -> set[str]:
    """Hashes of what the run of a snapshot watched. None where it left no list: what may have been
    learnt counts as learnt."""
    path = RunFolder(earlier.path.parent).stage_path("sft") / WATCHED
    return set(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else set()


def _watched(
    plan: SftPlan, snapshot: Snapshot, known_questions: set[str]
) -> tuple[Demonstration, ...]:
    """Held-out gold answers that evaluation does not use, else a share of the training ones that
    no earlier run learnt; none where they are too few, or where nothing follows a look."""
    if plan.watch_every_steps is None and plan.epochs <= 1:
        return ()
    splits = {item.prompt.split for item in snapshot.demonstrations}
    if splits >= {"exam", "held_out"}:
        found = [item for item in snapshot.demonstrations if item.prompt.split == "held_out"]
    else:
        found = [
            item
            for item in snapshot.training_demonstrations()
            if is_watched(item.prompt.question, plan.watched_percent)
            and normalised(item.prompt.question) not in known_questions
        ]
    found.sort(key=lambda item: _hash(normalised(item.prompt.question)))
    chosen = found[: plan.watched_questions]
    return tuple(chosen) if len(chosen) >= MIN_WATCHED else ()


def _sample(items: Sequence[Demonstration], share: float, seed: str) -> tuple[Demonstration, ...]:
    """A random share of the items, rounded up, in their own order."""
    count = min(len(items), math.ceil(share * len(items)))
    # The choice need not be secret; a string seeds the same everywhere.
    chosen = sorted(random.Random(seed).sample(range(len(items)), count))  # noqa: S311
    return tuple(items[at] for at in chosen)


def _keys(snapshot: Snapshot) -> set[Key]:
    return {_key(item) for item in snapshot.training_demonstrations()}


def _key(item: Demonstration) -> Key:
    return normalised(item.prompt.question), item.answer.strip()


def _questions(items: Iterable[Demonstration]) -> set[str]:
    return {normalised(item.prompt.question) for item in items}


def _hash(question: str) -> str:
    """Of a normalised question."""
    return hashlib.sha256(question.encode()).hexdigest()
