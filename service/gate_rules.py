"""The gate's report as sentences: what was asked, what was found, and whether that is enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from rlhf_engine.gate import MIN_QUESTIONS
from rlhf_engine.plan import GatePlan


@dataclass(frozen=True, slots=True)
class RuleReport:
    """One rule of the gate."""

    name: str
    asked: str
    found: str
    passed: bool


def rule_reports(figures: Mapping[str, Any], plan: Mapping[str, Any]) -> list[RuleReport]:
    """The rules in the order in which the gate looks at them; none where the figures are not those
    of a gate. `plan` is the run's plan, as JSON."""
    if "chrf_live" not in figures:
        return []
    known = {item.name for item in fields(GatePlan)}
    gate = GatePlan(**{k: v for k, v in plan.get("gate", {}).items() if k in known})
    better = _wins(figures, gate) if figures.get("win_rate") else _closer(figures)
    return [better, _likeness(figures, gate), _length(figures, gate)]


def _wins(figures: Mapping[str, Any], gate: GatePlan) -> RuleReport:
    rate, least = figures["win_rate"], gate.min_win_rate_lower
    return RuleReport(
        "People would prefer it",
        f"By the reward model, its answers must win more than {least:.0%} of at least "
        f"{MIN_QUESTIONS} held-out questions against the live version, even at the low end of the "
        "interval.",
        f"It wins {rate['value']:.0%} ({rate['lower']:.0%} to {rate['upper']:.0%}) of "
        f"{figures['questions']} questions.",
        rate["lower"] > least and _enough(figures),
    )


def _closer(figures: Mapping[str, Any]) -> RuleReport:
    gain = figures["chrf_gain"]
    return RuleReport(
        "It comes closer to the right answers",
        f"On at least {MIN_QUESTIONS} held-out questions, its answers must be more like the right "
        "ones than the live version's, even at the low end of the interval.",
        f"Likeness changed by {gain['value']:+.1f} points of 100 ({gain['lower']:+.1f} to "
        f"{gain['upper']:+.1f}) over {figures['questions']} questions.",
        gain["lower"] > 0 and _enough(figures),
    )


def _enough(figures: Mapping[str, Any]) -> bool:
    return int(figures["questions"]) >= MIN_QUESTIONS


def _likeness(figures: Mapping[str, Any], gate: GatePlan) -> RuleReport:
    before, after = figures["chrf_live"], figures["chrf_candidate"]
    return RuleReport(
        "It still says what is right",
        f"Likeness to the right answers may fall by at most {gate.max_similarity_drop:.1f} points "
        "of 100.",
        f"It went from {before:.1f} to {after:.1f}.",
        before - after <= gate.max_similarity_drop,
    )


def _length(figures: Mapping[str, Any], gate: GatePlan) -> RuleReport:
    before, after = figures["length_live"], figures["length_candidate"]
    return RuleReport(
        "It does not win by length",
        f"Answers may be at most {gate.max_length_ratio:.1f} times as long as the live version's.",
        f"They went from {before:.0f} to {after:.0f} tokens on average.",
        after / max(before, 1.0) <= gate.max_length_ratio,
    )
