"""A plan is refused before a run starts where a value is of the wrong type or out of range."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from rlhf_engine.errors import PlanError
from rlhf_engine.plan import RANGES, LoraPlan, PpoPlan, RunPlan, SftPlan, SignalPlan
from rlhf_engine.records import from_json, to_json


def changed(path: str, value: Any) -> dict[str, Any]:
    """The default plan as JSON with one value of another kind; `path` as in "ppo.epochs"."""
    plan = to_json(RunPlan(base="base"))
    *sections, name = path.split(".")
    inner = plan
    for section in sections:
        inner = inner[section]
    assert name in inner
    inner[name] = value
    return plan


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("ppo.epochs", 1.5, "PpoPlan.epochs is 1.5; it must be a whole number"),
        ("ppo.rollout_batches", 8.0, "PpoPlan.rollout_batches is 8.0; it must be a whole number"),
        ("ppo.epochs", True, "PpoPlan.epochs is True; it must be a whole number"),
        ("max_answer_tokens", "64", "RunPlan.max_answer_tokens is '64'; it must be a whole number"),
        ("seed", None, "RunPlan.seed is None; it must be a whole number"),
        ("reward_model.heads", None, "RewardPlan.heads is None; it must be a whole number"),
        ("lora.top_layers", 1.5, "LoraPlan.top_layers is 1.5; it must be a whole number or null"),
        ("ppo.learning_rate", "2e-4", "PpoPlan.learning_rate is '2e-4'; it must be a number"),
        ("sft.epochs", False, "SftPlan.epochs is False; it must be a number"),
        ("ppo.kl_target", "6", "PpoPlan.kl_target is '6'; it must be a number or null"),
        ("gate.max_length_ratio", None, "GatePlan.max_length_ratio is None; it must be a number"),
        ("evaluation.confidence", [], r"EvaluationPlan.confidence is \[\]; it must be a number"),
        ("ppo.normalise_rewards", "no", "PpoPlan.normalise_rewards is 'no'; it must be true or fa"),
        ("gate.approval_required", 1, "GatePlan.approval_required is 1; it must be true or false"),
        ("dtype", "fp16", r"dtype is 'fp16'; it must be one of \['auto', 'float32', 'bfloat16'\]"),
        ("dtype", ["auto"], r"RunPlan.dtype is \['auto'\]; it must be one of"),
        (
            "ppo.learning_rate_schedule",
            "cosine",
            r"PpoPlan.learning_rate_schedule is 'cosine'; it must be one of \['linear', 'constant'",
        ),
        ("ppo.algorithm", "dpo", "PpoPlan.algorithm is 'dpo'; it must be one of"),
        ("ppo.kl_estimator", None, "PpoPlan.kl_estimator is None; it must be one of"),
        ("base", None, "RunPlan.base is None; it must be a text"),
        ("live", 3, "RunPlan.live is 3; it must be a text or null"),
        ("sft.reuse", False, "SftPlan.reuse is False; it must be a text or null"),
        ("stages", [1], r"RunPlan.stages is \(1,\); it must be a list of which each is a text"),
        ("signals", [{"name": 1}], "SignalPlan.name is 1; it must be a text"),
        ("signals", [{"name": "a", "weight": "1"}], "SignalPlan.weight is '1'; it must be a num"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(path: str, value: Any, told: str) -> None:
    written = json.loads(json.dumps(changed(path, value)))
    with pytest.raises(PlanError, match=told):
        from_json(RunPlan, written)


def test_sections_of_the_wrong_kind_are_named() -> None:
    wrong: Any = SftPlan()
    with pytest.raises(PlanError, match=r"RunPlan.lora is SftPlan\(.*; it must be a LoraPlan"):
        RunPlan(base="base", lora=wrong)
    with pytest.raises(
        PlanError, match=r"RunPlan.signals is .* list of which each is a SignalPlan"
    ):
        RunPlan(base="base", signals=(wrong,))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("ppo.epochs", -1),
        ("ppo.learning_rate", float("nan")),
        ("sft.epochs", float("inf")),
        ("threads", 0),
    ],
)
def test_a_number_out_of_range_is_named(path: str, value: float) -> None:
    with pytest.raises(PlanError, match=r"; it must lie between \d+ and"):
        from_json(RunPlan, changed(path, value))


def test_whole_numbers_nulls_and_every_choice_are_taken() -> None:
    plan = RunPlan(
        base="base",
        live=None,
        dtype="bfloat16",
        lora=LoraPlan(top_layers=2),
        sft=SftPlan(epochs=3, learning_rate=0, watch_every_steps=10),
        ppo=PpoPlan(kl_target=None, gamma=1, learning_rate_schedule="constant", algorithm="rloo"),
        signals=(SignalPlan("grounded", 1), SignalPlan("concise", 0.5)),
    )
    assert from_json(RunPlan, json.loads(json.dumps(to_json(plan)))) == plan


def test_every_number_of_a_plan_has_a_range() -> None:
    def numbers(section: Any) -> set[str]:
        found = set()
        for item in fields(section):
            value = getattr(section, item.name)
            if is_dataclass(value):
                found |= numbers(value)
            elif isinstance(value, int | float) and not isinstance(value, bool):
                found.add(item.name)
        return found

    assert numbers(RunPlan(base="base")) <= RANGES.keys()
