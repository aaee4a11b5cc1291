"""From votes to the pairs that the reward model learns from.

Votes on the same two answers become one pair with a soft target; a rater's second vote on
them replaces the first; loud raters and thumbs are capped. What training makes of a pair is
reward_training.py's.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, cycle, islice
from typing import Literal

from rlhf_engine.plan import RewardPlan
from rlhf_engine.records import Comparison, Prompt, Thumb
from rlhf_engine.snapshot import normalised

Key = tuple[object, ...]
"""Names two answers to one prompt, whichever of them was shown first."""

PRIOR_PAIRS = 20
"""How many pairs of votes the plan's share of mistakes counts for when it is estimated."""

LEAST_NOISE, MOST_NOISE = 1e-3, 0.45


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
    merged = [_merged(votes, scales, noise, plan) for votes in _by_pair(kept).values()]
    judged = {pair_key(item) for item in kept}
    rated = _thumb_pairs([item for item in thumbs if item.prompt.split == "train"], judged)
    pairs = [*merged, *_capped_thumbs(merged, rated, scales, noise, plan)]
    figures = {
        "duplicates_dropped": sum(c.prompt.split == "train" for c in comparisons) - len(kept),
        "ties": sum(item.outcome == "tie" for item in kept),
        "both_bad": sum(item.outcome == "both_bad" for item in kept),
        "thumb_pairs": len(rated),
        "raters": len({item.rater for item in kept if item.rater}),
        "largest_rater_share": _largest_share(kept, scales),
        "label_noise": noise,
    }
    return Evidence(_weighed(pairs), figures)


def distinct(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """One vote a rater and pair of answers, the newest; of unnamed raters, equal votes are one."""
    newest: dict[Key, Comparison] = {}
    for item in sorted(comparisons, key=lambda item: item.rated_at):
        newest[(item.rater, *(() if item.rater else (_winner(item),)), *pair_key(item))] = item
    ids = {id(item) for item in newest.values()}
    return [item for item in comparisons if id(item) in ids]


def pair_key(item: Comparison) -> Key:
    """The prompt as it is read, and both answers in an order of their own."""
    return (*_prompt_key(item.prompt), *sorted((item.answer_a.strip(), item.answer_b.strip())))


def rater_scales(raters: Iterable[str], cap: float) -> dict[str, float]:
    """By how much to scale each rater's votes so that nobody has more than a share of `cap`.

    With n raters the share is at least 2 / n, so that a cap that few raters could not keep
    never makes one vote of a quiet rater worth a hundred of another's. Unnamed raters are
    not capped.
    """
    counts = Counter(rater for rater in raters if rater)
    share = max(cap, 2 / len(counts)) if counts else 1.0
    if share >= 1:
        return dict.fromkeys(counts, 1.0)
    ordered = [count for _, count in counts.most_common()]
    for capped, count in enumerate(ordered):
        # With the loudest `capped` raters at the limit L: L = share (capped L + the rest).
        limit = share * sum(ordered[capped:]) / (1 - share * capped)
        if count <= limit:
            break
    return {rater: min(1.0, limit / count) for rater, count in counts.items()}


def estimated_noise(comparisons: Sequence[Comparison], prior: float) -> float:
    """Share of mistaken votes, from how often two raters of the same pair agree.

    Two votes that each err with probability e agree with probability (1 - e)^2 + e^2. The
    prior counts as `PRIOR_PAIRS` pairs of votes.
    """
    agreed, seen = 0, 0
    for votes in _by_pair([item for item in comparisons if item.decisive]).values():
        winners = [_winner(item) for item in votes]
        agreed += sum(one == other for one, other in combinations(winners, 2))
        seen += math.comb(len(winners), 2)
    expected = (1 - prior) ** 2 + prior**2
    agreement = (agreed + PRIOR_PAIRS * expected) / (seen + PRIOR_PAIRS)
    noise = (1 - math.sqrt(max(0.0, 2 * agreement - 1))) / 2
    return min(max(noise, LEAST_NOISE), MOST_NOISE)


def margin(comparison: Comparison, plan: RewardPlan) -> float:
    """By how much the chosen score should exceed the rejected one, in raw score units."""
    by_strength = {"slightly": plan.margin_slightly, "much": plan.margin_much}
    return by_strength.get(comparison.strength or "", plan.margin_unsaid)


def _prompt_key(prompt: Prompt) -> Key:
    return (normalised(prompt.question), prompt.history, tuple(p.text for p in prompt.passages))


def _winner(item: Comparison) -> str:
    """The chosen answer's text; the space keeps a tie apart from an answer that reads "tie"."""
    return item.chosen.strip() if item.decisive else f" {item.outcome}"


def _by_pair(comparisons: Iterable[Comparison]) -> dict[Key, list[Comparison]]:
    """Votes on the same two answers; those that call both bad stand apart."""
    groups: defaultdict[Key, list[Comparison]] = defaultdict(list)
    for item in comparisons:
        groups[(item.outcome == "both_bad", *pair_key(item))].append(item)
    return groups


def _merged(
    votes: Sequence[Comparison], scales: dict[str, float], noise: float, plan: RewardPlan
) -> Pair:
    """One pair from all votes on it. Its target is the probability that its first answer is
    better, given votes that each err with probability `noise` (Bayes, from even odds)."""
    first = votes[0]
    weight = sum(scales.get(item.rater, 1.0) for item in votes)
    if first.outcome == "both_bad":
        return Pair(first.prompt, first.answer_a, first.answer_b, 0.5, 0.0, weight, "both_bad")
    decisive = [item for item in votes if item.decisive]
    lead = sum(1 if item.chosen.strip() == first.chosen.strip() else -1 for item in decisive)
    target = 1 / (1 + (noise / (1 - noise)) ** abs(lead))
    chosen, rejected = first.chosen, first.rejected
    if lead < 0:
        chosen, rejected = rejected, chosen
    agreed = len(decisive) == len(votes) == abs(lead)
    mean_margin = sum(margin(item, plan) for item in votes) / len(votes) if agreed else 0.0
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
    return (*_prompt_key(pair.prompt), *sorted((pair.up.strip(), pair.down.strip())))


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


def _largest_share(comparisons: Sequence[Comparison], scales: dict[str, float]) -> float:
    """The loudest named rater's share of the total weight after capping."""
    totals: defaultdict[str, float] = defaultdict(float)
    for item in comparisons:
        totals[item.rater] += scales.get(item.rater, 1.0)
    named = [weight for rater, weight in totals.items() if rater]
    return max(named) / sum(totals.values()) if named else 0.0


def _weighed(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    judged = [pair.weight for pair in pairs if pair.kind != "both_bad"]
    mean = sum(judged) / len(judged) if judged else 1.0
    return tuple(
        Pair(p.prompt, p.chosen, p.rejected, p.target, p.margin, p.weight / mean, p.kind)
        for p in pairs
    )
