"""From votes to the pairs that the reward model learns from.

Votes on the same two answers become one pair with a soft target, thumbs a capped term
beside them. How far a vote is believed is decided in votes.py; what training makes of a pair,
in reward_training.py.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Literal

from rlhf_engine.plan import RewardPlan
from rlhf_engine.records import Comparison, Prompt, Thumb
from rlhf_engine.snapshot import normalised
from rlhf_engine.votes import (
    Key,
    by_pair,
    distinct,
    estimated_noise,
    largest_share,
    pair_key,
    prompt_key,
    rater_noise,
    rater_scales,
)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt and what the votes on them say.

    `target` is the probability that `chosen` is the better one, 0.5 to 1; a tie is 0.5.
    `margin` is by how much its score should exceed the other's, in raw score units. Of two
    answers that were both called bad neither is better: their kind is "both_bad".
    """

    prompt: Prompt
    chosen: str
    rejected: str
    target: float
    margin: float
    weight: float
    kind: Literal["votes", "thumbs", "both_bad"] = "votes"


@dataclass(frozen=True, slots=True)
class Evidence:
    """The pairs to learn from, and what became of the votes on the way (for the report)."""

    pairs: tuple[Pair, ...]
    figures: dict[str, float]


@dataclass(frozen=True, slots=True)
class _ThumbPair:
    prompt: Prompt
    up: str
    down: str
    raters: tuple[str, ...]


def gather_pairs(
    comparisons: Sequence[Comparison], thumbs: Sequence[Thumb], plan: RewardPlan
) -> Evidence:
    """Pairs of the training side; the mean weight of those that say which answer is better is 1."""
    kept = distinct([item for item in comparisons if item.prompt.split == "train"])
    scales = rater_scales([item.rater for item in kept], plan.rater_cap)
    noise = estimated_noise(kept, plan.label_noise)
    own_noise = rater_noise(kept, noise)
    doubts = [own_noise.get(item.rater, noise) for item in kept]
    merged = [
        _merged([kept[at] for at in places], [doubts[at] for at in places], scales, plan)
        for places in by_pair(kept).values()
    ]
    judged = {pair_key(item) for item in kept}
    rated = _thumb_pairs([item for item in thumbs if item.prompt.split == "train"], judged)
    pairs = [*merged, *_capped_thumbs(merged, rated, scales, noise, plan)]
    figures = {
        "duplicates_dropped": sum(c.prompt.split == "train" for c in comparisons) - len(kept),
        "ties": sum(item.outcome == "tie" for item in kept),
        "both_bad": sum(item.outcome == "both_bad" for item in kept),
        "thumb_pairs": len(rated),
        "raters": len({item.rater for item in kept if item.rater}),
        "largest_rater_share": largest_share(kept, scales),
        "label_noise": noise,
        "largest_rater_noise": max(own_noise.values(), default=noise),
    }
    return Evidence(_weighed(pairs), figures)


def margin(comparison: Comparison, plan: RewardPlan) -> float:
    """By how much the chosen score should exceed the rejected one, in raw score units."""
    by_strength = {"slightly": plan.margin_slightly, "much": plan.margin_much}
    return by_strength.get(comparison.strength or "", plan.margin_unsaid)


def _merged(
    votes: Sequence[Comparison], doubts: Sequence[float], scales: dict[str, float], plan: RewardPlan
) -> Pair:
    """One pair from all votes on it. Its target is the probability that its chosen answer is
    better, given votes that each err with the probability in `doubts` (Bayes, from even odds)."""
    first = votes[0]
    weight = sum(scales.get(item.rater, 1.0) for item in votes)
    if first.outcome == "both_bad":
        return Pair(first.prompt, first.answer_a, first.answer_b, 0.5, 0.0, weight, "both_bad")
    log_odds, sides = 0.0, set()
    for item, doubt in zip(votes, doubts, strict=True):
        side = (item.chosen.strip() == first.chosen.strip()) * 2 - 1 if item.decisive else 0
        log_odds += side * math.log((1 - doubt) / doubt)
        sides.add(side)
    chosen, rejected = first.chosen, first.rejected
    if log_odds < 0:
        chosen, rejected = rejected, chosen
    agreed = sides in ({1}, {-1})
    mean_margin = sum(margin(item, plan) for item in votes) / len(votes) if agreed else 0.0
    target = 1 / (1 + math.exp(-abs(log_odds)))
    return Pair(first.prompt, chosen, rejected, target, mean_margin, weight)


def _thumb_pairs(thumbs: Sequence[Thumb], judged: set[Key]) -> list[_ThumbPair]:
    """Answers with thumbs up against answers with thumbs down, within one question only.

    An answer counts by the sum of its raters' newest thumbs. With u answers up and d down
    there are max(u, d) pairs: each answer stands in at least one. Pairs that were compared
    directly are left out.
    """
    questions: defaultdict[Key, list[Thumb]] = defaultdict(list)
    for item in sorted(thumbs, key=lambda item: item.rated_at):
        questions[(normalised(item.prompt.question), item.prompt.history)].append(item)
    pairs: list[_ThumbPair] = []
    for given in questions.values():
        ups, downs = _liked(given)
        most = max(len(ups), len(downs)) if ups and downs else 0
        for up, down in islice(zip(cycle(ups), cycle(downs), strict=False), most):
            raters = tuple({up.rater: 0, down.rater: 0})
            pairs.append(_ThumbPair(up.prompt, up.answer, down.answer, raters))
    return [pair for pair in pairs if _thumb_key(pair) not in judged]


def _liked(thumbs: Sequence[Thumb]) -> tuple[list[Thumb], list[Thumb]]:
    """One thumb of each answer whose thumbs sum to more than 0, and of each with less."""
    newest = {(item.rater, item.answer.strip()): item for item in thumbs}
    sums: Counter[str] = Counter()
    for (_, answer), item in newest.items():
        sums[answer] += 1 if item.up else -1
    one = {item.answer.strip(): item for item in newest.values()}
    ups = [one[answer] for answer, value in sums.items() if value > 0]
    return ups, [one[answer] for answer, value in sums.items() if value < 0]


def _thumb_key(pair: _ThumbPair) -> Key:
    return (*prompt_key(pair.prompt), *sorted((pair.up.strip(), pair.down.strip())))


def _capped_thumbs(
    merged: Sequence[Pair],
    rated: Sequence[_ThumbPair],
    scales: dict[str, float],
    noise: float,
    plan: RewardPlan,
) -> list[Pair]:
    """Thumb pairs as one term: together at most the plan's share of all that is learnt."""
    weights = [min(scales.get(rater, 1.0) for rater in pair.raters) for pair in rated]
    votes = sum(pair.weight for pair in merged if pair.kind == "votes")
    most = votes * plan.thumb_cap / (1 - plan.thumb_cap)
    scale = min(1.0, most / sum(weights)) if rated else 1.0
    return [
        Pair(pair.prompt, pair.up, pair.down, 1 - noise, 0.0, weight * scale, "thumbs")
        for pair, weight in zip(rated, weights, strict=True)
    ]


def _weighed(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    judged = [pair.weight for pair in pairs if pair.kind != "both_bad"]
    mean = sum(judged) / len(judged) if judged else 1.0
    return tuple(
        Pair(p.prompt, p.chosen, p.rejected, p.target, p.margin, p.weight / mean, p.kind)
        for p in pairs
    )
