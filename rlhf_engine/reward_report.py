"""What a reward model is worth: measured on votes on questions that it never trained on.

Legend: k heads, n pairs.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rlhf_engine.calibration import cross_fitted, error_interval, fitted_temperature
from rlhf_engine.records import Comparison
from rlhf_engine.reward_model import RewardModel
from rlhf_engine.snapshot import Snapshot, normalised
from rlhf_engine.stage import Stage
from rlhf_engine.statistics import share_interval
from rlhf_engine.votes import distinct, pair_key

NEWEST_SHARE = 0.2
"""The share of all votes, the newest by time, on whose held-out questions it is measured again."""

LONGER = 1.25
"""From which ratio of lengths on the answers of a pair count as longer and shorter."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A held-out vote for one of two answers, and by how much the model scores it higher."""

    vote: Comparison
    difference: float
    log_odds: float

    @property
    def right(self) -> bool:
        """Whether the model prefers the answer that the rater chose."""
        return self.difference > 0


def measure(model: RewardModel, snapshot: Snapshot, stage: Stage) -> dict[str, Any]:
    """All figures of the report about held-out votes."""
    held_out = distinct([item for item in snapshot.comparisons if item.prompt.split != "train"])
    decisive = [item for item in held_out if item.decisive]
    scores = _scores(model, decisive, stage, "measuring on held-out comparisons")
    judged = _judged(model, decisive, scores)
    longer = share_interval(sum(len(i.chosen) > len(i.rejected) for i in decisive), len(decisive))
    return {
        "held_out": len(judged),
        **_accuracy(judged, ""),
        "longer_wins_accuracy": longer.value,
        "longer_wins_interval": [longer.lower, longer.upper],
        **_calibration(judged),
        **_of_newest(judged, snapshot.comparisons),
        **_ensemble(scores),
        **_both_bad(model, held_out, stage),
        "slices": _slices(judged, held_out),
    }


def _scores(model: RewardModel, votes: Sequence[Comparison], stage: Stage, note: str) -> Tensor:
    """Scores [k, 2n], each vote's chosen and rejected answer side by side."""
    return model.text_scores(
        [item.prompt for item in votes],
        [text for item in votes for text in (item.chosen, item.rejected)],
        stage.plan,
        on_done=lambda done, of: stage.tell(done, of, note),
    )


def _judged(model: RewardModel, votes: Sequence[Comparison], scores: Tensor) -> list[Judged]:
    chosen, rejected = scores[:, 0::2], scores[:, 1::2]
    differences = (chosen - rejected).mean(dim=0).tolist()
    odds = model.log_odds(chosen, rejected).tolist()
    return [Judged(*each) for each in zip(votes, differences, odds, strict=True)]


def _accuracy(judged: Sequence[Judged], prefix: str) -> dict[str, Any]:
    share = share_interval(sum(item.right for item in judged), len(judged))
    return {
        f"{prefix}accuracy": share.value,
        f"{prefix}accuracy_interval": [share.lower, share.upper],
    }


def _calibration(judged: Sequence[Judged]) -> dict[str, Any]:
    """Calibration error with its interval, before and after temperature scaling.

    The temperature that is kept is fitted on all held-out votes; the error after it is
    measured with one fitted on the other half of the questions.
    """
    odds = [item.log_odds for item in judged]
    scaled = cross_fitted(odds, [_fold(item.vote.prompt.question) for item in judged])
    before, after = error_interval(odds), error_interval(scaled)
    return {
        "temperature": fitted_temperature(odds),
        "ece_before": before.value,
        "ece_before_interval": [before.lower, before.upper],
        "ece_after": after.value,
        "ece_after_interval": [after.lower, after.upper],
    }


def _of_newest(judged: Sequence[Judged], votes: Sequence[Comparison]) -> dict[str, Any]:
    """Accuracy on the newest policy's own pairs, and on the newest votes.

    The newest policy is the one that was first voted on last; its own pairs are those with
    both answers from it.
    """
    ordered = sorted(votes, key=lambda item: item.rated_at)
    since = ordered[int(len(ordered) * (1 - NEWEST_SHARE))].rated_at if ordered else ""
    known = dict.fromkeys(version for item in ordered for version in item.versions if version)
    newest = next(reversed(known), "")
    own = [item for item in judged if newest and set(item.vote.versions) == {newest}]
    late = [item for item in judged if since and item.vote.rated_at >= since]
    return {
        "newest_policy": newest,
        "newest_policy_pairs": len(own),
        **_accuracy(own, "newest_policy_"),
        "newest_votes": len(late),
        **_accuracy(late, "newest_votes_"),
    }


def _ensemble(scores: Tensor) -> dict[str, float]:
    """`heads_spread`: mean over answers of the heads' standard deviation (scores have deviation
    1); `heads_agree`: share of pairs on which all heads choose the same answer."""
    if scores.shape[1] == 0:
        return {"heads_spread": 0.0, "heads_agree": 1.0}
    choose = scores[:, 0::2] > scores[:, 1::2]
    return {
        "heads_spread": float(scores.std(dim=0, unbiased=False).mean()),
        "heads_agree": float((choose == choose[:1]).all(dim=0).float().mean()),
    }


def _both_bad(model: RewardModel, votes: Sequence[Comparison], stage: Stage) -> dict[str, Any]:
    """Share of the answers called bad that score below the average of 0."""
    bad = [item for item in votes if item.outcome == "both_bad"]
    if not bad:
        return {}
    mean = _scores(model, bad, stage, "measuring on answers called bad").mean(dim=0)
    return {
        "both_bad_held_out": len(bad),
        "both_bad_below_average": float((mean < 0).float().mean()),
    }


def _slices(judged: Sequence[Judged], votes: Sequence[Comparison]) -> dict[str, Any]:
    """Accuracy by where the question was answered from, who voted, length, and agreement."""
    agreement = _agreement(votes)
    by: dict[str, Callable[[Comparison], str]] = {
        "source": lambda item: item.source or "unknown",
        "votes": lambda item: "simulated" if item.simulated else "people",
        "length": _length,
        "agreement": lambda item: agreement[pair_key(item)],
    }
    return {name: _slice(judged, key) for name, key in by.items()}


def _slice(judged: Iterable[Judged], key: Callable[[Comparison], str]) -> dict[str, Any]:
    groups: defaultdict[str, list[Judged]] = defaultdict(list)
    for item in judged:
        groups[key(item.vote)].append(item)
    return {name: {"pairs": len(own), **_accuracy(own, "")} for name, own in sorted(groups.items())}


def _length(item: Comparison) -> str:
    """Whether people chose the longer answer, by a quarter or more."""
    ratio = max(1, len(item.chosen)) / max(1, len(item.rejected))
    return (
        "longer chosen" if ratio >= LONGER else "shorter chosen" if ratio <= 1 / LONGER else "alike"
    )


def _agreement(votes: Sequence[Comparison]) -> dict[Any, str]:
    """For each pair of answers whether its raters are one, agree, or differ."""
    said: defaultdict[Any, list[str]] = defaultdict(list)
    for item in votes:
        said[pair_key(item)].append(item.chosen.strip() if item.decisive else f" {item.outcome}")
    return {
        key: "one rater" if len(all_) == 1 else "agreed" if len(set(all_)) == 1 else "contested"
        for key, all_ in said.items()
    }


def _fold(question: str) -> int:
    """0 or 1 by the question's hash, so that a question never stands in both halves."""
    return hashlib.sha256(f"fold {normalised(question)}".encode()).digest()[0] % 2
