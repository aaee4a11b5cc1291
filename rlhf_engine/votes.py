"""How far each vote is believed: repeated votes, loud raters, careless raters.

Nothing here knows what an answer says; preferences.py makes pairs of what is left.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import permutations

from rlhf_engine.records import Comparison, Prompt
from rlhf_engine.snapshot import normalised

Key = tuple[object, ...]
"""Names two answers to one prompt, whichever of them was shown first."""

PRIOR_PAIRS = 20
"""How many pairs of votes the plan's share of mistakes counts for when it is estimated."""

LEAST_NOISE, MOST_NOISE = 1e-3, 0.45


def distinct(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """One vote a rater and pair of answers, the newest; of unnamed raters, equal votes are one."""
    newest: dict[Key, Comparison] = {}
    for item in sorted(comparisons, key=lambda item: item.rated_at):
        newest[(item.rater, *(() if item.rater else (_winner(item),)), *pair_key(item))] = item
    ids = {id(item) for item in newest.values()}
    return [item for item in comparisons if id(item) in ids]


def pair_key(item: Comparison) -> Key:
    """The prompt as it is read, and both answers in an order of their own."""
    return (*prompt_key(item.prompt), *sorted((item.answer_a.strip(), item.answer_b.strip())))


def prompt_key(prompt: Prompt) -> Key:
    """The prompt as it is read: the same question with other passages is another."""
    return (normalised(prompt.question), prompt.history, tuple(p.text for p in prompt.passages))


def by_pair(comparisons: Iterable[Comparison]) -> dict[Key, list[int]]:
    """Places of the votes on the same two answers; those that call both bad stand apart."""
    groups: defaultdict[Key, list[int]] = defaultdict(list)
    for at, item in enumerate(comparisons):
        groups[(item.outcome == "both_bad", *pair_key(item))].append(at)
    return groups


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


def largest_share(comparisons: Sequence[Comparison], scales: dict[str, float]) -> float:
    """The loudest named rater's share of the total weight after capping."""
    totals: defaultdict[str, float] = defaultdict(float)
    for item in comparisons:
        totals[item.rater] += scales.get(item.rater, 1.0)
    named = [weight for rater, weight in totals.items() if rater]
    return max(named) / sum(totals.values()) if named else 0.0


def estimated_noise(comparisons: Sequence[Comparison], prior: float) -> float:
    """Share of mistaken votes, from how often two raters of the same pair agree.

    Two votes that each err with probability e agree with probability (1 - e)^2 + e^2. The
    prior counts as `PRIOR_PAIRS` pairs of votes.
    """
    agreed, seen = _agreement(comparisons)
    # Each pair of votes was counted from both sides.
    share = (agreed.total() / 2 + PRIOR_PAIRS * _expected(prior)) / (seen.total() / 2 + PRIOR_PAIRS)
    noise = (1 - math.sqrt(max(0.0, 2 * share - 1))) / 2
    return min(max(noise, LEAST_NOISE), MOST_NOISE)


def rater_noise(comparisons: Sequence[Comparison], noise: float) -> dict[str, float]:
    """Each named rater's own share of mistakes, at most a half, where `noise` is that of all.

    A rater who errs with probability r agrees with one who errs with probability e as often
    as a = (1 - r)(1 - e) + r e, so r = (1 - e - a) / (1 - 2 e).
    """
    agreed, seen = _agreement(comparisons)
    found: dict[str, float] = {}
    for rater in seen.keys() - {""}:
        share = (agreed[rater] + PRIOR_PAIRS * _expected(noise)) / (seen[rater] + PRIOR_PAIRS)
        own = (1 - noise - share) / (1 - 2 * noise)
        found[rater] = min(max(own, LEAST_NOISE), 0.5)
    return found


def _expected(noise: float) -> float:
    """How often two votes agree that each err with probability `noise`."""
    return (1 - noise) ** 2 + noise**2


def _agreement(comparisons: Sequence[Comparison]) -> tuple[Counter[str], Counter[str]]:
    """For each rater how many other votes on the same pairs agreed, and how many there were."""
    agreed: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    decisive = [item for item in comparisons if item.decisive]
    for places in by_pair(decisive).values():
        for one, other in permutations([decisive[at] for at in places], 2):
            seen[one.rater] += 1
            agreed[one.rater] += _winner(one) == _winner(other)
    return agreed, seen


def _winner(item: Comparison) -> str:
    """The chosen answer's text; the space keeps a tie apart from an answer that reads "tie"."""
    return item.chosen.strip() if item.decisive else f" {item.outcome}"
