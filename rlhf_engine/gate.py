"""The gate: may this candidate go live? One sentence, and the figures it rests on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rlhf_engine.plan import GatePlan
from rlhf_engine.records import GateReport

if TYPE_CHECKING:
    # The service tells the gate's rules without loading scipy.
    from rlhf_engine.statistics import Interval

MIN_QUESTIONS = 6
"""Fewer say too little: chance alone wins five of five once in 32 times, and a 95% interval lies
wholly above the truth once in 40."""

MORE_NEEDED = (
    f"a verdict needs at least {MIN_QUESTIONS}; add gold answers, hold out a larger share of them, "
    "or add a data source with purpose evaluation"
)


@dataclass(frozen=True, slots=True)
class Measured:
    """Candidate against live policy on the evaluation questions.

    `win_rate` by the reward model (a tie counts half), None where the run trained none.
    chrF from 0 to 100; `chrf_gain` is paired, candidate minus live. Lengths in tokens.
    """

    questions: int
    win_rate: Interval | None
    chrf_live: float
    chrf_candidate: float
    chrf_gain: Interval
    length_live: float
    length_candidate: float


def decide(measured: Measured, gate: GatePlan) -> GateReport:
    """Pass only if every figure holds; otherwise the sentence names the first that failed."""
    failure = (
        _questions_failure(measured)
        or _win_rate_failure(measured, gate)
        or _other_failure(measured, gate)
    )
    sentence = f"Refused: {failure}" if failure else f"Passed: {_praise(measured)}"
    return GateReport(failure is None, sentence, figures(measured))


def figures(measured: Measured) -> dict[str, Any]:
    """The measured figures as plain JSON types."""
    return asdict(measured)


def _questions_failure(measured: Measured) -> str | None:
    if measured.questions < MIN_QUESTIONS:
        return f"it was compared on {measured.questions} held-out questions, and {MORE_NEEDED}."
    return None


def _win_rate_failure(measured: Measured, gate: GatePlan) -> str | None:
    win_rate = measured.win_rate
    if win_rate is not None and win_rate.lower <= gate.min_win_rate_lower:
        return (
            f"the win rate against the live policy is {_share(win_rate)} over "
            f"{measured.questions} questions, and the lower end must lie above "
            f"{gate.min_win_rate_lower:.0%}."
        )
    gain = measured.chrf_gain
    if win_rate is None and gain.lower <= 0:
        return (
            f"the chrF gain against the gold answers is {_points(gain)} over "
            f"{measured.questions} questions, and the lower end must lie above 0."
        )
    return None


def _other_failure(measured: Measured, gate: GatePlan) -> str | None:
    drop = measured.chrf_live - measured.chrf_candidate
    if drop > gate.max_similarity_drop:
        return (
            f"chrF against the gold answers fell from {measured.chrf_live:.1f} to "
            f"{measured.chrf_candidate:.1f}, by more than the allowed "
            f"{gate.max_similarity_drop:.1f} points."
        )
    ratio = measured.length_candidate / max(measured.length_live, 1.0)
    if ratio > gate.max_length_ratio:
        return (
            f"answers grew from {measured.length_live:.0f} to {measured.length_candidate:.0f} "
            f"tokens, more than {gate.max_length_ratio:.1f} times."
        )
    return None


def _praise(measured: Measured) -> str:
    chrf = (
        f"chrF against the gold answers went from {measured.chrf_live:.1f} to "
        f"{measured.chrf_candidate:.1f} ({_points(measured.chrf_gain)})"
    )
    if measured.win_rate is None:
        return f"{chrf} over {measured.questions} questions."
    return (
        f"it wins {_share(measured.win_rate)} of {measured.questions} held-out questions against "
        f"the live policy, and {chrf}."
    )


def _share(interval: Interval) -> str:
    return f"{interval.value:.0%} ({interval.lower:.0%} to {interval.upper:.0%})"


def _points(interval: Interval) -> str:
    return f"{interval.value:+.1f} points, {interval.lower:+.1f} to {interval.upper:+.1f}"
