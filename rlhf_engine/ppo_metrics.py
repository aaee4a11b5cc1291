"""What PPO reports of each rollout batch, under stable keys, over all processes."""

from __future__ import annotations

import math
from typing import Any

import torch

from rlhf_engine import ppo_math
from rlhf_engine.processes import Processes
from rlhf_engine.rollout import Part, Rollout
from rlhf_engine.run_folder import RunFolder

STEP_KEYS = (
    "loss/policy",
    "policy/entropy",
    "policy/clipfrac",
    "policy/approx_kl",
    "policy/ratio",
    "policy/ratio_error",
)
"""Figures of one policy step, means over its answer tokens."""


def of_rollout(
    rollout: Rollout, processes: Processes, kl_coefficient: float, kl_estimator: str = "k1"
) -> dict[str, float]:
    """Means over the batch's answers, or over its answer tokens where the key names the policy.

    objective/kl is the k1 estimate of the KL to the SFT policy in nats an answer, objective/kl_k3
    the k3 estimate; objective/rlhf_reward is the mean reward minus the KL penalty, which is taken
    by `kl_estimator`.
    """
    answers = list(rollout.answers.values())
    sums = {
        "answers": float(len(answers)),
        "tokens": float(sum(len(answer.token_ids) for answer in answers)),
        "ended": float(sum(answer.finish_reason == "stop" for answer in answers)),
    }
    for name, readings in rollout.readings.items():
        sums[name] = float(sum(readings.values()))
    by_part = [_part_sums(part, rollout) for part in rollout.parts]
    for name in _PART_SUMS:
        sums[name] = sum((each[name] for each in by_part), 0.0)
    added = processes.add_up(torch.tensor(list(sums.values()), dtype=torch.float64))
    total = dict(zip(sums, added.tolist(), strict=True))
    count, tokens = total["answers"], max(total["tokens"], 1.0)
    penalty = kl_coefficient * total[f"kl_{kl_estimator}"] / count
    return {
        "objective/kl": total["kl_k1"] / count,
        "objective/kl_k3": total["kl_k3"] / count,
        "objective/kl_coefficient": kl_coefficient,
        "objective/score": total["score"] / count,
        "objective/score_spread": total["spread"] / count,
        "objective/novelty": total["novelty"] / count,
        "objective/reward": total["reward"] / count,
        "objective/rlhf_reward": total["reward"] / count - penalty,
        **{name: total[name] / count for name in rollout.readings if name.startswith(_SIGNALS)},
        "policy/mismatch": total["mismatch"] / tokens,
        "value/explained_variance": _explained_variance(rollout, processes),
        "length/mean": tokens / count,
        "ended/share": total["ended"] / count,
    }


_SIGNALS = ("reward/", "abstained/")
_PART_SUMS = ("kl_k1", "kl_k3", "mismatch")


def _part_sums(part: Part, rollout: Rollout) -> dict[str, float]:
    drawn = torch.zeros_like(part.logprobs)
    for row, place in enumerate(part.places):
        logprobs = rollout.answers[place].logprobs
        drawn[row, : len(logprobs)] = drawn.new_tensor(logprobs)
    by_token = (
        ppo_math.kl_k1(part.logprobs, part.reference),
        ppo_math.kl_k3(part.logprobs, part.reference),
        (part.logprobs - drawn).abs(),
    )
    return {
        name: float((values.double() * part.mask).sum())
        for name, values in zip(_PART_SUMS, by_token, strict=True)
    }


def _explained_variance(rollout: Rollout, processes: Processes) -> float:
    errors, returns = [torch.zeros(0)], [torch.zeros(0)]
    for part in rollout.parts:
        kept = part.mask.bool()
        errors.append((part.returns - part.values)[kept].cpu())
        returns.append(part.returns[kept].cpu())
    variances = [processes.moments(torch.cat(each))[2] for each in (errors, returns)]
    return ppo_math.explained_variance(*variances)


def means(rows: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each key over the steps whose figures are finite; those of a skipped step may
    not be."""
    finite = [row for row in rows if all(map(math.isfinite, row.values()))]
    if not finite:
        return {}
    return {key: sum(row[key] for row in finite) / len(finite) for key in finite[0]}


def figures(history: list[dict[str, float]], stopped_by_kl: bool, skipped: int) -> dict[str, Any]:
    """The stage's figures: where the run began and where it ended."""
    result: dict[str, Any] = {
        "batches": len(history),
        "stopped_by_kl": stopped_by_kl,
        "skipped_steps": skipped,
    }
    for key in ("objective/kl", "objective/score", "objective/rlhf_reward", "length/mean"):
        result[f"{key}_first"] = history[0][key]
        result[f"{key}_last"] = history[-1][key]
    return result


def append_missing(run: RunFolder, history: list[dict[str, float]]) -> None:
    """Write the batches that metrics.jsonl lacks; a kill may have come in between."""
    written = {row.get("batch") for row in run.metrics()}
    for number, metrics in enumerate(history):
        if number not in written:
            run.append_metrics({"batch": number, **metrics})
